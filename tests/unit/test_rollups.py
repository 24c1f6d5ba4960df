"""Roll-ups: what folding leaves in them is what a recount of the events makes."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from squad_otel.batch import Batch
from squad_otel.events import NS, SUM_FIELDS, Event
from squad_otel.journal import Journal
from squad_otel.metrics import METRICS
from squad_otel.query.journal import JournalBackend
from squad_otel.rollups import QUARTER_NS, recount
from squad_otel.schema import SCHEMA_VERSION, journal_path, open_reader
from squad_otel.sessions import Session

T0 = 1_795_000_000 * NS
FIXTURE = Path(__file__).parents[1] / "fixtures" / "journal-v1.db"
COUNTED = [metric.name for metric in METRICS if metric.feeds]

EVENTS = st.builds(
    lambda number, kind, at, session, duration, success, sums, settles: Event(
        id=f"{kind}{number}",
        type=kind,
        occurred_at=T0 + at * NS,
        source="git" if number % 2 else "exec",
        session=session,
        duration_ns=duration,
        success=success,
        fields={"model": "m", **sums} if kind == "tokens.used" else {},
        settles_at=T0 + 6000 * NS if settles and kind == "tokens.used" else None,
    ),
    st.integers(0, 40),
    st.sampled_from(["tokens.used", "command.executed", "git.push", "prompt.sent", "error"]),
    st.integers(-1000, 5000),  # some before the journal began
    st.sampled_from([None, "s1", "s2", "nobody"]),
    st.one_of(st.none(), st.integers(0, 10**14)),
    st.sampled_from([True, False, None]),
    st.dictionaries(st.sampled_from(SUM_FIELDS), st.integers(0, 9000)),
    st.booleans(),
)


def tables(db: sqlite3.Connection) -> list[Counter[tuple[object, ...]]]:
    return [Counter(db.execute(f"SELECT * FROM {t}")) for t in ("rollups", "session_rollups")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(EVENTS, min_size=1, max_size=15), min_size=1, max_size=5))
def test_folding_and_recounting_agree(tmp_path_factory, batches: list[list[Event]]) -> None:
    home = tmp_path_factory.mktemp("agree")
    journal = Journal(home, T0)
    session = Session(id="s1", name="a", program="p", repository="r", branch="", worktree="/w")
    journal.append("x", Batch(sessions=[session]), T0)
    for i, events in enumerate(batches):
        journal.append("x", Batch(events=events), T0 + i * 2000 * NS)
    journal.settle(T0 + 5990 * NS)  # some were corrected, some still wait
    journal.close()
    db = sqlite3.connect(journal_path(home))
    folded = tables(db)
    first = T0 // QUARTER_NS
    recount(db, first + 1, first + 3)
    assert tables(db) == folded
    recount(db)
    assert tables(db) == folded
    live = db.execute("SELECT count(*) FROM events WHERE state = 'live'").fetchone()[0]
    assert sum(row[5] * n for row, n in folded[0].items()) == live
    db.close()


def test_an_event_is_in_the_quarter_of_an_hour_in_which_it_happened(tmp_path: Path) -> None:
    start = T0 - T0 % QUARTER_NS + QUARTER_NS
    moments = [start - 1, start, start + QUARTER_NS - 1, start + QUARTER_NS]
    journal = Journal(tmp_path, T0)
    events = [Event(id=str(n), type="prompt.sent", occurred_at=n, source="x") for n in moments]
    journal.append("x", Batch(events=events), moments[-1])
    journal.close()
    reader = open_reader(tmp_path)
    rows = reader.execute("SELECT quarter, n FROM rollups ORDER BY quarter").fetchall()
    reader.close()
    first = start // QUARTER_NS
    assert rows == [(first - 1, 1), (first, 2), (first + 1, 1)]


def test_a_journal_of_version_1_is_rolled_up_when_it_is_first_read(tmp_path: Path) -> None:
    truth = json.loads(FIXTURE.with_suffix(".json").read_text())
    journal_path(tmp_path).write_bytes(FIXTURE.read_bytes())
    backend = JournalBackend(tmp_path, truth["now"] + 10**6 * NS)
    reading, _ = backend.read(COUNTED, (0, truth["now"] + 10**6 * NS))
    backend.close()
    assert reading is not None
    found: Counter[str] = Counter()
    for metric in METRICS:
        for gain in reading.gains.get(metric.name, ()):
            labels = " ".join(gain.labels[name] for name in metric.labels)
            found[f"{metric.name} {labels}"] += gain.total
    assert found == truth["shown"]
    db = open_reader(tmp_path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_absurd_durations_do_not_stop_a_recount(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    events = [
        Event(
            id=str(n), type="prompt.sent", occurred_at=T0, source="x", duration_ns=366 * 86400 * NS
        )
        for n in range(300)
    ]
    journal.append("x", Batch(events=events), T0)
    journal.close()
    db = sqlite3.connect(journal_path(tmp_path))
    folded = tables(db)
    recount(db)
    assert tables(db) == folded
    db.close()
