"""The journal on real SQLite: exact folding, merging, waiting, holding, surviving."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from squad_otel.batch import Batch
from squad_otel.errors import JournalBusyError, JournalError
from squad_otel.events import NS, Event, FoldState
from squad_otel.journal import SESSION_WAIT_NS, Journal
from squad_otel.metrics import LABELS
from squad_otel.schema import journal_path, lock, locked, open_reader
from squad_otel.sessions import Session, State

T0 = 1_795_000_000 * NS


def session(key: str = "s1", name: str = "alpha", repository: str = "shop") -> Session:
    return Session(
        id=key,
        name=name,
        program="claude",
        repository=repository,
        branch="dev/alpha",
        worktree=f"/w/{key}",
        state=State.RUNNING,
        started_at=T0,
    )


def command(key: str, *, session: str | None = "s1", duration_ns: int | None = NS, **more) -> Event:
    return Event(
        id=key,
        type="command.executed",
        occurred_at=T0 + 5 * NS,
        source="exec",
        session=session,
        duration_ns=duration_ns,
        success=more.pop("success", True),
        fields={"command": more.pop("command", "git push"), "tool": "exec"},
        **more,
    )


def tokens(key: str, **fields: int | str) -> Event:
    settles_at = fields.pop("settles_at", None)
    return Event(
        id=key,
        type="tokens.used",
        occurred_at=T0 + 5 * NS,
        source="claude",
        session="s1",
        settles_at=settles_at,
        fields={"model": "claude-x", **fields},
    )


@pytest.fixture
def journal(tmp_path: Path):
    opened = Journal(tmp_path, T0)
    yield opened
    opened.close()


def values(journal: Journal, metric: str) -> dict[tuple[str, ...], int]:
    """The series of a metric as they will be shown once released: sums by label values."""
    journal.release(T0 + 10**6 * NS, 0)
    return {s.labels: s.sum for s in journal.shown() if s.metric.name == metric}


def test_an_event_is_counted_once_however_often_it_is_appended(journal: Journal) -> None:
    batch = Batch(sessions=[session()], events=[command("a"), command("b"), command("a")])
    assert journal.append("exec", batch, T0 + 6 * NS).new == 2
    again = journal.append("exec", batch, T0 + 7 * NS)
    assert (again.new, again.known) == (0, 3)
    assert values(journal, "squad.commands") == {("claude", "shop", "exec", "ok"): 2}


def test_events_offsets_and_sessions_are_stored_together_or_not_at_all(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, T0)
    journal.append("exec", Batch(sessions=[session()], offsets={"file": "10"}), T0)
    broken = Batch(
        sessions=[session("s2", "beta")],
        events=[command("a"), msgspec.structs.replace(command("b"), occurred_at=2**70)],
        offsets={"file": "20"},
    )
    with pytest.raises(OverflowError):
        journal.append("exec", broken, T0)
    assert journal.offsets("exec") == {"file": "10"}
    assert set(journal.sessions()) == {"s1"}
    assert values(journal, "squad.commands") == {}
    journal.append("exec", Batch(events=[command("a")], offsets={"file": "15"}), T0)
    assert values(journal, "squad.commands") == {("claude", "shop", "exec", "ok"): 1}
    journal.close()
    reopened = Journal(tmp_path, T0 + NS)
    assert reopened.offsets("exec") == {"file": "15"}
    assert values(reopened, "squad.commands") == {("claude", "shop", "exec", "ok"): 1}
    reopened.close()


def test_a_file_that_cannot_be_read_again_after_a_failed_commit_doubles_nothing(
    journal: Journal,
) -> None:
    # The disk fails for a while: at the commit, and at the reading that follows it.
    def refuse(action: int, first: str | None, *_: object) -> int:
        commit = action == sqlite3.SQLITE_TRANSACTION and first == "COMMIT"
        read = action == sqlite3.SQLITE_READ and first == "sessions"
        return sqlite3.SQLITE_DENY if commit or read else sqlite3.SQLITE_OK

    batch = Batch(events=[command("a", session=None)])
    journal._db.set_authorizer(refuse)
    with pytest.raises(JournalError):
        journal.append("exec", batch, T0)
    with pytest.raises(JournalError):
        journal.append("exec", batch, T0)
    journal._db.set_authorizer(None)
    journal.append("exec", batch, T0)
    assert values(journal, "squad.commands") == {("unknown", "unknown", "exec", "ok"): 1}


def test_the_writer_waits_half_a_second_for_a_lock_and_readers_longer(
    journal: Journal, tmp_path: Path
) -> None:
    # A daemon must end within 2 s, whoever holds the file.
    assert journal._db.execute("PRAGMA busy_timeout").fetchone() == (500,)
    reader = open_reader(tmp_path)
    assert reader.execute("PRAGMA busy_timeout").fetchone() == (10_000,)
    reader.close()


def test_of_sessions_with_the_same_name_the_live_one_is_meant(journal: Journal) -> None:
    ended = msgspec.structs.replace(session("s1"), ended_at=T0)
    journal.append("a", Batch(sessions=[ended, session("s2", repository="blog")]), T0)
    journal.append("a", Batch(events=[command("c", session="alpha")]), T0)
    assert values(journal, "squad.commands") == {("claude", "blog", "exec", "ok"): 1}
    journal.append("a", Batch(sessions=[session("s2", "renamed", "blog")]), T0)
    journal.append("a", Batch(events=[command("d", session="alpha")]), T0)
    journal.append("a", Batch(events=[command("e", session="renamed")]), T0)
    assert values(journal, "squad.commands") == {
        ("claude", "blog", "exec", "ok"): 2,
        ("claude", "shop", "exec", "ok"): 1,
    }


def test_an_id_belongs_to_the_type_that_it_came_with(journal: Journal) -> None:
    prompt = Event(id="t", type="prompt.sent", occurred_at=T0, source="track")
    journal.append("a", Batch(events=[prompt], sessions=[session()]), T0)
    other = journal.append("a", Batch(events=[tokens("t", input_tokens=5)]), T0)
    assert (other.new, other.merged, other.left_out["id_of_another_type"]) == (0, 0, 1)


def test_an_event_of_the_future_does_not_keep_its_session_awake(journal: Journal) -> None:
    journal.append("a", Batch(sessions=[session()]), T0)
    late = msgspec.structs.replace(command("c"), occurred_at=T0 + 10**9 * NS)
    journal.append("a", Batch(events=[late]), T0 + 60 * NS)
    assert journal.sessions()["s1"].last_activity == T0 + 60 * NS


def test_what_a_session_used_is_what_was_counted(journal: Journal) -> None:
    journal.append("a", Batch(sessions=[session()]), T0)
    assert journal.usage("s1") is None
    later = T0 + 60 * NS
    journal.append("a", Batch(events=[tokens("t", input_tokens=5, settles_at=later)]), T0)
    assert journal.usage("s1") is None
    journal.settle(later)
    assert journal.usage("s1") == (5, None)


def test_a_better_copy_adds_only_the_difference(journal: Journal) -> None:
    journal.append(
        "claude",
        Batch(
            sessions=[session()],
            events=[tokens("r1", input_tokens=10, output_tokens=1, cost_nusd=100)],
        ),
        T0 + 6 * NS,
    )
    better = tokens("r1", input_tokens=4, output_tokens=21, cost_nusd=700)
    assert journal.append("claude", Batch(events=[better]), T0 + 7 * NS).merged == 1
    assert journal.append("claude", Batch(events=[better]), T0 + 8 * NS).known == 1
    usage = values(journal, "squad.token.usage")
    assert usage == {
        ("claude", "shop", "claude-x", "input"): 10,  # never lowered
        ("claude", "shop", "claude-x", "output"): 21,
    }
    assert values(journal, "squad.cost.usage") == {("claude", "shop", "claude-x"): 700}
    assert journal.usage("s1") == (31, 700)


def test_what_may_be_corrected_is_counted_when_it_is_final(journal: Journal) -> None:
    early = tokens("r1", output_tokens=1, settles_at=T0 + 20 * NS)
    journal.append("claude", Batch(sessions=[session()], events=[early]), T0 + 6 * NS)
    assert values(journal, "squad.token.usage") == {}
    journal.settle(T0 + 19 * NS)
    assert values(journal, "squad.token.usage") == {}
    journal.append("claude", Batch(events=[tokens("r1", output_tokens=9)]), T0 + 10 * NS)
    assert values(journal, "squad.token.usage") == {("claude", "shop", "claude-x", "output"): 9}


def test_a_pending_event_is_counted_at_its_deadline_even_over_a_restart(tmp_path: Path) -> None:
    first = Journal(tmp_path, T0)
    early = tokens("r1", output_tokens=3, settles_at=T0 + 20 * NS)
    first.append("claude", Batch(sessions=[session()], events=[early]), T0 + 6 * NS)
    first.close()
    second = Journal(tmp_path, T0 + 7 * NS)
    second.settle(T0 + 20 * NS)
    assert values(second, "squad.token.usage") == {("claude", "shop", "claude-x", "output"): 3}
    second.close()


@pytest.mark.parametrize("by", ["id", "name"])
def test_an_event_waits_for_its_session(journal: Journal, by: str) -> None:
    named = "s1" if by == "id" else "alpha"
    journal.append("exec", Batch(events=[command("a", session=named)]), T0 + 6 * NS)
    assert values(journal, "squad.commands") == {}
    journal.append("claude_squad", Batch(sessions=[session()]), T0 + 10 * NS)
    assert values(journal, "squad.commands") == {("claude", "shop", "exec", "ok"): 1}


def test_an_event_of_a_session_that_never_comes_counts_as_unknown(journal: Journal) -> None:
    journal.append("exec", Batch(events=[command("a", session="nobody")]), T0 + 6 * NS)
    journal.settle(T0 + 6 * NS + SESSION_WAIT_NS - 1)
    assert values(journal, "squad.commands") == {}
    journal.settle(T0 + 6 * NS + SESSION_WAIT_NS)
    assert values(journal, "squad.commands") == {("unknown", "unknown", "exec", "ok"): 1}
    journal.append("claude_squad", Batch(sessions=[session("nobody")]), T0 + 99 * NS)
    assert values(journal, "squad.commands") == {("unknown", "unknown", "exec", "ok"): 1}


def test_what_happened_before_the_journal_is_kept_and_not_counted(
    journal: Journal, tmp_path: Path
) -> None:
    old = msgspec.structs.replace(command("old"), occurred_at=T0 - 1)
    same_second = msgspec.structs.replace(command("new"), occurred_at=T0)
    journal.append("git", Batch(sessions=[session()], events=[old, same_second]), T0 + NS)
    assert values(journal, "squad.commands") == {("claude", "shop", "exec", "ok"): 1}
    reader = open_reader(tmp_path)
    states = dict(reader.execute("SELECT id, state FROM events"))
    reader.close()
    assert states == {"old": FoldState.HISTORY, "new": FoldState.LIVE}


def test_a_reflog_second_in_which_the_journal_began_is_live(tmp_path: Path) -> None:
    journal = Journal(tmp_path, T0 + NS // 2)
    event = msgspec.structs.replace(command("a"), occurred_at=T0)  # whole seconds, as in a reflog
    journal.append("git", Batch(sessions=[session()], events=[event]), T0 + NS)
    assert values(journal, "squad.commands") == {("claude", "shop", "exec", "ok"): 1}
    journal.close()


def test_histogram_buckets_take_the_bound_itself(journal: Journal) -> None:
    durations = [1, 10_000_000, 10_000_001, 2_560_000_000, 10**15]  # ns; bounds 0.01·2^n s
    events = [command(f"e{i}", duration_ns=d) for i, d in enumerate(durations)]
    journal.append("exec", Batch(sessions=[session()], events=events), T0 + 6 * NS)
    journal.release(T0 + 10**6 * NS, 0)
    (series,) = [s for s in journal.shown() if s.metric.name == "squad.command.duration"]
    assert series.buckets is not None
    filled = {i: n for i, n in enumerate(series.buckets) if n}
    assert filled == {0: 2, 1: 1, 8: 1, 17: 1}
    assert (series.count, series.sum) == (5, sum(durations))


def test_a_label_beyond_its_budget_is_other_and_is_counted(journal: Journal) -> None:
    budget = LABELS["repository"].budget
    sessions = [session(f"s{i}", f"n{i}", f"repo{i}") for i in range(budget + 5)]
    events = [command(f"e{i}", session=f"s{i}") for i in range(budget + 5)]
    result = journal.append("exec", Batch(sessions=sessions, events=events), T0 + 6 * NS)
    assert result.overflow == {"repository": 5}
    counts = values(journal, "squad.commands")
    assert len(counts) == budget + 1
    assert counts["claude", "other", "exec", "ok"] == 5
    assert sum(counts.values()) == budget + 5
    repeated = [command(f"again{i}", session=f"s{i}") for i in range(budget + 5)]
    assert journal.append("exec", Batch(events=repeated), T0 + 7 * NS).overflow == {"repository": 5}


def test_a_new_series_is_shown_as_zero_until_its_release(tmp_path: Path) -> None:
    hold = 2 * NS
    journal = Journal(tmp_path, T0)

    def shown() -> list[int]:
        return [s.sum for s in journal.shown() if s.metric.name == "squad.commands"]

    journal.append("exec", Batch(sessions=[session()], events=[command("a")]), T0 + 10 * NS)
    assert shown() == [0]
    assert journal.release(T0 + 12 * NS - 1, hold) == 0
    assert shown() == [0]
    journal.append("exec", Batch(events=[command("b")]), T0 + 12 * NS - 1)
    assert journal.release(T0 + 12 * NS, hold) > 0
    assert shown() == [2]
    journal.append("exec", Batch(events=[command("c")]), T0 + 13 * NS)
    assert shown() == [3]
    journal.append(
        "exec",
        Batch(sessions=[session("s2", "b", "other-repo")], events=[command("d", session="s2")]),
        T0 + 14 * NS,
    )
    journal.close()
    # A restart: what was released stays, what was held is held anew.
    journal = Journal(tmp_path, T0 + 100 * NS)
    assert shown() == [3, 0]
    assert journal.release(T0 + 102 * NS - 1, hold) == 0
    journal.release(T0 + 102 * NS, hold)
    assert shown() == [3, 1]
    journal.close()


def test_the_cursor_sees_events_in_the_order_of_their_folding(journal: Journal) -> None:
    late = tokens("late", output_tokens=1, settles_at=T0 + 20 * NS)
    journal.append("claude", Batch(sessions=[session()], events=[late, command("a")]), T0 + 6 * NS)
    seen = journal.folded_after(0, 10)
    assert [e.event.id for e in seen] == ["a"]
    journal.move_cursor("spans", seen[-1].folded or 0)
    journal.settle(T0 + 20 * NS)
    assert [e.event.id for e in journal.folded_after(journal.cursor("spans"), 10)] == ["late"]


def test_a_git_success_is_counted_from_the_reflog_and_timed_by_the_wrapper(
    journal: Journal,
) -> None:
    def push(key: str, source: str, duration_ns: int | None, success: bool | None) -> Event:
        return Event(
            id=key,
            type="git.push",
            occurred_at=T0 + 5 * NS,
            source=source,
            session="s1",
            duration_ns=duration_ns,
            success=success,
            error_type=None if success is not False else "exit_1",
        )

    events = [
        push("reflog", "git", None, None),
        push("wrapped", "exec", 3 * NS, True),
        push("rejected", "exec", 2 * NS, False),
    ]
    journal.append("x", Batch(sessions=[session()], events=events), T0 + 6 * NS)
    assert values(journal, "squad.git.operations") == {
        ("claude", "shop", "push", "ok"): 1,
        ("claude", "shop", "push", "error"): 1,
    }
    durations = {
        s.labels: s.count
        for s in journal.shown()
        if s.metric.name == "squad.git.operation.duration"
    }
    assert durations == {("claude", "push", ""): 1, ("claude", "push", "exit_1"): 1}


def test_a_second_writer_is_refused(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(JournalBusyError, match="squad-otel down"):
        Journal(tmp_path, T0)
    assert locked(tmp_path)


def test_files_are_private(journal: Journal, tmp_path: Path) -> None:
    journal.append("exec", Batch(sessions=[session()], events=[command("a")]), T0)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("PRAGMA user_version = 99", "update squad-otel"),
        ("PRAGMA application_id = 7", "belongs to another program"),
    ],
)
def test_a_newer_or_foreign_journal_is_refused_and_left_alone(
    tmp_path: Path, spoil: str, message: str
) -> None:
    Journal(tmp_path, T0).close()
    db = sqlite3.connect(journal_path(tmp_path))
    db.execute(spoil)
    db.commit()
    db.close()
    before = journal_path(tmp_path).read_bytes()
    for opening in (lambda: Journal(tmp_path, T0), lambda: open_reader(tmp_path)):
        with pytest.raises(JournalError, match=message):
            opening()
    assert journal_path(tmp_path).read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    journal_path(tmp_path).write_bytes(b"not a database, but somebody's text\n" * 100)
    before = journal_path(tmp_path).read_bytes()
    with pytest.raises(JournalError, match="move it away"):
        Journal(tmp_path, T0)
    assert journal_path(tmp_path).read_bytes() == before


def test_a_reader_without_a_journal_is_told_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="squad-otel up"):
        open_reader(tmp_path)
    assert list(tmp_path.iterdir()) == []


_WRITER = """
import sys, time
from pathlib import Path
from squad_otel.batch import Batch
from squad_otel.events import Event
from squad_otel.journal import Journal
journal = Journal(Path(sys.argv[1]), time.time_ns())
number = int(journal.offsets("w").get("n", "0"))
while True:
    events = [Event(id=f"e{number + i}", type="prompt.sent", occurred_at=time.time_ns(), source="w")
              for i in range(7)]
    number += 7
    journal.append("w", Batch(events=events, offsets={"n": str(number)}), time.time_ns())
    print(number, flush=True)
"""


def test_kill_9_between_any_two_instructions_leaves_events_series_and_offset_agreed(
    tmp_path: Path,
) -> None:
    acknowledged = 0
    for round_number in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert writer.stdout is not None
        for _ in range(20 + 13 * round_number):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        writer.wait()
        writer.stdout.close()
        db = open_reader(tmp_path)
        events = db.execute("SELECT count(*) FROM events").fetchone()[0]
        folded = db.execute("SELECT sum FROM series WHERE metric = 'squad.prompts'").fetchone()[0]
        offset = int(db.execute("SELECT value FROM offsets").fetchone()[0])
        db.close()
        assert events == folded == offset
        assert offset >= acknowledged


def test_a_journal_of_an_older_version_under_a_running_daemon_is_not_touched(
    tmp_path: Path,
) -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "journal-v1.db"
    journal_path(tmp_path).write_bytes(fixture.read_bytes())
    held = lock(tmp_path / "writer.lock")
    with pytest.raises(JournalError, match="older version: `squad-otel down`, then"):
        open_reader(tmp_path)
    os.close(held)
    assert journal_path(tmp_path).read_bytes() == fixture.read_bytes()


def test_the_journal_of_schema_version_1_still_opens(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "journal-v1.db"
    truth = json.loads(fixture.with_suffix(".json").read_text())
    journal_path(tmp_path).write_bytes(fixture.read_bytes())
    journal = Journal(tmp_path, truth["now"])
    try:
        assert journal.id == truth["id"]
        assert sorted(journal.sessions()) == truth["sessions"]
        counts = {f"{s.metric.name} {' '.join(s.labels)}": s.sum for s in journal.shown() if s.sum}
        assert counts == truth["shown"]
    finally:
        journal.close()
