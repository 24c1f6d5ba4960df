"""Pruning and forgetting: totals stay, reports stay exact, and what goes is gone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squad_otel import forget as forgetting
from squad_otel import spool
from squad_otel.batch import Batch
from squad_otel.errors import QueryError
from squad_otel.events import NS, Event
from squad_otel.forget import Removed, find_sessions, outlook
from squad_otel.journal import Journal
from squad_otel.query.journal import JournalBackend
from squad_otel.query.measures import MEASURES, evaluate, evaluate_by
from squad_otel.retention import Selection, pruned_before, used_bytes
from squad_otel.rollups import QUARTER_NS, recount
from squad_otel.schema import journal_path
from squad_otel.sessions import Session, State
from squad_otel.sources.spool import SpoolSource

T0 = 1_795_046_400 * NS  # a midnight in UTC
HOUR = 3600 * NS
DAY = 24 * HOUR
NOW = T0 + 100 * DAY
METRICS = ["squad.commands", "squad.prompts", "squad.command.duration"]


def forget(home: Path, selection: Selection, now: int) -> Removed:
    return forgetting.forget(home, selection, now, daemon_look_s=0)


def session(key: str, repository: str = "shop", **more: object) -> Session:
    made = {"name": f"name-{key}", "program": "claude", "branch": "b", "worktree": f"/w/{key}"}
    return Session(id=key, repository=repository, started_at=T0, **{**made, **more})  # type: ignore[arg-type]


def command(number: int, at: int, key: str | None = "s1", **more: object) -> Event:
    return Event(
        id=f"c{number}",
        type="command.executed",
        occurred_at=at,
        source="track",
        session=key,
        duration_ns=number * NS,
        success=True,
        fields={"command": "make", "tool": "track"},
        **more,  # type: ignore[arg-type]
    )


def prune_all(journal: Journal, now: int, keep_ns: int = 0, size_bytes: int = 0) -> list[int]:
    found = []
    while deleted := journal.prune(now, keep_ns, size_bytes):
        found.append(deleted)
    return found


def events(home: Path) -> int:
    with closing(sqlite3.connect(journal_path(home))) as db:
        return int(db.execute("SELECT count(*) FROM events").fetchone()[0])


def commands(home: Path, since: int, until: int, now: int = T0 + 90 * DAY) -> object:
    backend = JournalBackend(home, now)
    try:
        reading, _ = backend.read(METRICS, (since, until))
        return evaluate(MEASURES["commands"], reading)
    finally:
        backend.close()


def test_old_events_go_and_everything_that_was_counted_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    made = [command(n, T0 + n * HOUR) for n in range(72)]
    ended = session("s0", ended_at=T0 + HOUR, state=State.ENDED)
    journal.append("spool", Batch(events=made, sessions=[session("s1"), ended]), T0 + 72 * HOUR)
    journal.release(T0 + 72 * HOUR, 0)
    before = journal.shown()
    now = T0 + 72 * HOUR + 1
    assert prune_all(journal, now, keep_ns=DAY) == [48]
    assert journal.shown() == before
    assert set(journal.sessions()) == {"s0", "s1"}  # a report of old days names them
    assert events(tmp_path) == 24
    journal.close()
    assert [commands(tmp_path, T0 + i * DAY, T0 + (i + 1) * DAY) for i in range(3)] == [24] * 3
    reopened = Journal(tmp_path, now)
    reopened.release(now, 0)
    assert reopened.shown() == before
    reopened.close()


def test_pruning_goes_in_small_transactions_of_whole_quarters_of_an_hour(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    made = [command(n, T0 + n * 2 * NS, None) for n in range(9000)]  # 450 a quarter, five hours
    journal.append("spool", Batch(events=made), T0 + 5 * HOUR)
    assert prune_all(journal, T0 + 5 * HOUR + DAY, keep_ns=DAY) == [2250, 2250, 2250, 2250]
    journal.close()


def test_a_pruned_event_that_is_read_again_is_known_and_a_late_spool_record_is_new(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, T0)
    journal.append("claude", Batch(events=[command(1, T0 + HOUR, None)]), T0 + 2 * HOUR)
    prune_all(journal, T0 + 3 * DAY, keep_ns=DAY)
    again = journal.append("claude", Batch(events=[command(1, T0 + HOUR, None)]), T0 + 3 * DAY)
    assert (again.new, again.left_out["removed_before"]) == (0, 1)
    late = journal.append("spool", Batch(events=[command(2, T0 + HOUR, None)]), T0 + 3 * DAY)
    assert late.new == 1
    journal.close()
    assert commands(tmp_path, T0, T0 + DAY) == 2


def test_by_size_the_oldest_go_but_none_of_the_last_day(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    now = T0 + 10 * DAY
    for day in range(10):
        made = [command(day * 2000 + n, T0 + day * DAY + n * NS, None) for n in range(2000)]
        journal.append("spool", Batch(events=made), now)
    limit = used_bytes(journal._db) // 2
    prune_all(journal, now, size_bytes=limit)
    left = events(tmp_path)
    assert used_bytes(journal._db) <= limit
    assert 0 < left < 20_000
    prune_all(journal, now, size_bytes=1)
    assert events(tmp_path) == 2000
    assert prune_all(journal, now, 0, 0) == []
    journal.close()
    assert commands(tmp_path, T0, now) == 20_000


def test_a_period_that_begins_among_pruned_events_begins_at_the_next_quarter(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, T0)
    made = [command(n, T0 + n * 60 * NS, None) for n in range(120)]
    journal.append("spool", Batch(events=made), T0 + 2 * HOUR)
    prune_all(journal, T0 + HOUR + DAY, keep_ns=DAY)
    journal.close()
    backend = JournalBackend(tmp_path, T0 + 2 * HOUR)
    reading, _ = backend.read(METRICS, (T0 + 20 * 60 * NS, T0 + 100 * 60 * NS))
    backend.close()
    assert reading is not None
    assert reading.since == T0 + 2 * QUARTER_NS
    assert evaluate(MEASURES["commands"], reading) == 70


def test_no_fold_number_is_given_twice(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    journal.append("spool", Batch(events=[command(n, T0 + n, None) for n in range(3)]), T0 + HOUR)
    journal.move_cursor("spans", 3)
    prune_all(journal, T0 + 3 * DAY, keep_ns=DAY)
    journal.close()
    journal = Journal(tmp_path, T0 + 3 * DAY)
    journal.append("spool", Batch(events=[command(9, T0 + 3 * DAY, None)]), T0 + 3 * DAY)
    assert [e.event.id for e in journal.folded_after(journal.cursor("spans"), 10)] == ["c9"]
    journal.close()


def squad(home: Path) -> Journal:
    """Two sessions of two repositories, one event an hour each, and their lines in the spool."""
    journal = Journal(home, T0)
    ended = {"ended_at": T0 + 20 * HOUR, "state": State.ENDED}
    sessions = [session("aaaaaaaa", "shop", **ended), session("bbbbbbbb", "blog")]
    made = [command(n, T0 + n * HOUR, "aaaaaaaa" if n % 2 else "bbbbbbbb") for n in range(20)]
    journal.append("spool", Batch(events=made, sessions=sessions), T0 + 20 * HOUR)
    lines = [
        spool.encode({"type": "prompt.sent", "id": f"p{n}", "at": T0 + n * HOUR, "session": who})
        for n, who in enumerate(["aaaaaaaa", "name-aaaaaaaa", "bbbbbbbb"])
    ]
    spool.append(home, lines)
    return journal


def by_session(home: Path) -> dict[tuple[str, ...], object]:
    backend = JournalBackend(home, T0 + 90 * DAY)
    try:
        reading = backend.by_session(["squad.commands"], T0, T0 + 90 * DAY)
        return dict(evaluate_by(MEASURES["commands"], reading, ["session"]))
    finally:
        backend.close()


def test_a_session_is_forgotten_under_a_running_daemon(tmp_path: Path) -> None:
    journal = squad(tmp_path)
    totals = journal.shown()
    found = find_sessions(tmp_path, "name-aaaaaaaa")
    selection = Selection(sessions=found)
    assert outlook(tmp_path, selection).events == 10
    gone = forget(tmp_path, selection, NOW)
    assert (gone.events, gone.sessions, gone.lines, gone.traces) == (10, 1, 2, False)
    # The daemon goes on: it notices, and its totals are what they were.
    journal.append("spool", Batch(events=[command(99, T0 + 21 * HOUR, "bbbbbbbb")]), T0 + 21 * HOUR)
    assert set(journal.sessions()) == {"bbbbbbbb"}
    assert [s.count for s in journal.shown()] == [s.count for s in totals]  # held at 0
    journal.release(T0 + 21 * HOUR, 0)
    counted = {s.labels[1]: s.sum for s in journal.shown() if s.metric.name == "squad.commands"}
    assert counted == {"shop": 10, "blog": 11}
    journal.close()
    assert by_session(tmp_path) == {("bbbbbbbb",): 11}
    assert commands(tmp_path, T0, T0 + 2 * DAY) == 11
    for path in (*tmp_path.glob("journal.db*"), *(tmp_path / "spool").iterdir()):
        assert b"aaaaaaaa" not in path.read_bytes(), path
    batch = SpoolSource(tmp_path).poll({}, {}, T0 + 90 * DAY)
    assert [event.session for event in batch.events] == ["bbbbbbbb"]
    assert not batch.skipped


def test_a_repository_is_forgotten_pruned_or_not(tmp_path: Path) -> None:
    journal = squad(tmp_path)
    prune_all(journal, T0 + 10 * HOUR + DAY, keep_ns=DAY)
    assert events(tmp_path) == 10
    journal.close()
    gone = forget(tmp_path, Selection(repository="shop"), NOW)
    assert (gone.events, gone.sessions, gone.lines) == (5, 1, 2)
    assert by_session(tmp_path) == {("bbbbbbbb",): 10}
    assert commands(tmp_path, T0, T0 + 2 * DAY) == 10


def test_a_pruned_session_loses_its_name_and_stays_in_the_sums(tmp_path: Path) -> None:
    journal = squad(tmp_path)
    prune_all(journal, T0 + 10 * HOUR + DAY, keep_ns=DAY)
    journal.close()
    forget(tmp_path, Selection(sessions=("aaaaaaaa",)), NOW)
    assert by_session(tmp_path) == {("bbbbbbbb",): 10}
    assert commands(tmp_path, T0, T0 + 2 * DAY) == 15


def test_a_time_is_forgotten_pruned_or_not(tmp_path: Path) -> None:
    journal = squad(tmp_path)
    prune_all(journal, T0 + 10 * HOUR + DAY, keep_ns=DAY)
    journal.close()
    since, until = T0 + 8 * HOUR + 1, T0 + 12 * HOUR
    gone = forget(tmp_path, Selection(since=since, until=until), NOW)
    assert (gone.events, gone.sessions) == (2, 0)  # at ten and eleven; nine is pruned
    # What is pruned goes by whole quarters of an hour: eight o'clock is in the first one.
    assert commands(tmp_path, T0, T0 + 2 * DAY) == 16
    forget(tmp_path, Selection(), NOW)
    assert commands(tmp_path, T0, T0 + 2 * DAY) == 0


def test_what_was_forgotten_is_not_counted_when_it_is_read_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    answer = msgspec.structs.replace(command(1, T0 + HOUR, None), source="claude")
    journal.append("claude", Batch(events=[answer]), T0 + 2 * HOUR)
    journal.close()
    forget(tmp_path, Selection(), T0 + 2 * HOUR)
    journal = Journal(tmp_path, T0 + 3 * HOUR)
    again = journal.append("claude", Batch(events=[answer]), T0 + 3 * HOUR)
    assert (again.new, again.left_out["removed_before"]) == (0, 1)
    journal.release(T0 + 3 * HOUR, 0)
    assert [s.sum for s in journal.shown() if s.metric.name == "squad.commands"] == [1]
    journal.close()


def test_only_what_was_there_counts_as_pruned(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0)
    journal.append("claude", Batch(events=[command(1, T0 + HOUR, None)]), T0 + 2 * HOUR)
    prune_all(journal, T0 + 10 * DAY, keep_ns=DAY)
    late = journal.append("claude", Batch(events=[command(2, T0 + 5 * DAY, None)]), T0 + 10 * DAY)
    assert late.new == 1
    journal.close()


def test_a_series_is_released_though_somebody_forgot_something_meanwhile(tmp_path: Path) -> None:
    journal = squad(tmp_path)
    forget(tmp_path, Selection(sessions=("aaaaaaaa",)), NOW)
    assert journal.release(T0 + 21 * HOUR, 0) > 0
    assert all(s.sum for s in journal.shown() if s.metric.name == "squad.commands")
    journal.close()


def test_a_name_that_another_live_session_has_is_not_forgotten_with_the_ended_one(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, T0)
    ended = session("aaaaaaaa", "secret", name="fix", ended_at=T0 + HOUR, state=State.ENDED)
    live = session("bbbbbbbb", "public", name="fix")
    journal.append("spool", Batch(sessions=[ended, live]), T0 + HOUR)
    journal.close()
    torn = spool.RECORD_START + b'"type":"pro'
    lines = [
        spool.encode({"type": "prompt.sent", "id": "a", "at": T0, "session": "fix"}),
        torn + spool.encode({"type": "prompt.sent", "id": "b", "at": T0, "session": "aaaaaaaa"}),
    ]
    spool.append(tmp_path, lines)
    assert forget(tmp_path, Selection(repository="secret"), NOW).lines == 1
    batch = SpoolSource(tmp_path).poll({}, {}, NOW)
    assert [event.id for event in batch.events] == ["a"]


def test_an_open_reader_delays_the_cleaning_and_is_said(tmp_path: Path) -> None:
    squad(tmp_path).close()
    reader = JournalBackend(tmp_path, NOW)
    writer = Journal(tmp_path, NOW)  # so that there is a log that the reader holds
    writer.append("spool", Batch(events=[command(50, T0 + HOUR, None)]), NOW)
    writer.close()
    assert forget(tmp_path, Selection(sessions=("aaaaaaaa",)), NOW).traces
    reader.close()


def test_places_in_the_order_of_arrival_do_not_come_again(tmp_path: Path) -> None:
    journal = squad(tmp_path)
    last = journal.folded_after(0, 100)[-1].seq
    forget(tmp_path, Selection(), NOW)
    journal.append("spool", Batch(events=[command(99, T0 + 21 * HOUR, None)]), T0 + 21 * HOUR)
    (fresh,) = journal.folded_after(0, 100)
    assert fresh.seq > last
    journal.close()


def test_an_unknown_session_is_said(tmp_path: Path) -> None:
    squad(tmp_path).close()
    assert find_sessions(tmp_path, "aaaaaa") == ("aaaaaaaa",)
    for words in ("aaaaa", "nobody"):
        with pytest.raises(QueryError, match="sessions list"):
            find_sessions(tmp_path, words)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 96), min_size=1, max_size=20)),
        st.tuples(st.just("prune"), st.integers(0, 96)),
        st.tuples(st.just("session"), st.sampled_from(["aaaaaaaa", "bbbbbbbb"])),
        st.tuples(st.just("time"), st.tuples(st.integers(0, 96), st.integers(1, 96))),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_whatever_is_pruned_and_forgotten_roll_ups_are_what_their_events_add_up_to(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    home = tmp_path_factory.mktemp("steps")
    journal = Journal(home, T0)
    sessions = [session("aaaaaaaa", "shop"), session("bbbbbbbb", "blog")]
    journal.append("spool", Batch(sessions=sessions), T0)
    number = 0
    for what, value in steps:
        if what == "append":
            made = []
            for hour in value:  # type: ignore[attr-defined]
                number += 1
                who = "aaaaaaaa" if number % 3 else "bbbbbbbb"
                made.append(command(number, T0 + hour * HOUR + number, who))
            journal.append("spool", Batch(events=made), T0 + 97 * HOUR)
        elif what == "prune":
            prune_all(journal, T0 + value * HOUR + DAY, keep_ns=DAY)  # type: ignore[operator]
        elif what == "session":
            forget(home, Selection(sessions=(str(value),)), NOW)
        else:
            start, length = value  # type: ignore[misc]
            since = T0 + start * HOUR
            forget(home, Selection(since=since, until=since + length * HOUR), NOW)
    journal.append("spool", Batch(), T0 + 97 * HOUR)
    journal.release(T0 + 97 * HOUR, 0)
    totals = sum(s.sum for s in journal.shown() if s.metric.name == "squad.commands")
    journal.close()
    assert totals == number  # whatever was removed
    with closing(sqlite3.connect(journal_path(home))) as db:
        first = pruned_before(db) // QUARTER_NS

        def tables() -> list[Counter[tuple[object, ...]]]:
            names = ("rollups", "session_rollups")
            where = f"WHERE quarter >= {first}"
            return [Counter(db.execute(f"SELECT * FROM {t} {where}")) for t in names]

        kept = tables()
        recount(db, first)
        assert tables() == kept
