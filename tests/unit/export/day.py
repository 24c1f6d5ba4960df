"""One small day of a squad for the tests of what goes out, with its truth written beside it."""

from __future__ import annotations

from pathlib import Path

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.export.points import Point, Sample, points
from squad_otel.journal import Journal
from squad_otel.sessions import Session, State

T0 = 1_795_000_000 * NS
STARTED_AT = T0 + 100 * NS  # the process; the journal is older

#: What a label value must survive: quotes, backslashes, line ends, other scripts, markup.
HOSTILE = 'a"b\\c\nd{e="f"} # é 🦀 <b>'

SESSION = Session(
    id="5e55101",
    name="alpha",
    program="claude",
    repository="shop",
    branch="dev/alpha",
    worktree="/w/alpha",
    state=State.RUNNING,
    started_at=T0,
)


def event(key: str, kind: str, at_s: float = 5, **more) -> Event:
    fields = more.pop("fields", {})
    session = more.pop("session", SESSION.id)
    source = more.pop("source", "exec")
    return Event(
        id=key,
        type=kind,
        occurred_at=T0 + round(at_s * NS),
        source=source,
        session=session,
        fields=fields,
        **more,
    )


def push_through_exec(key: str, at_s: float, *, failed: bool = False) -> list[Event]:
    """What a wrapped `git push` leaves: the command, the wrapper's git event, the reflog's."""
    outcome = {"success": not failed, "error_type": "exit_1" if failed else None}
    events = [
        event(
            f"{key}:1",
            "command.executed",
            at_s,
            duration_ns=2 * NS,
            fields={"command": "git push", "tool": "exec", "exit_code": int(failed)},
            **outcome,
        ),
        event(
            f"{key}:2",
            "git.push",
            at_s,
            duration_ns=2 * NS,
            fields={"command": "git push"},
            **outcome,
        ),
    ]
    if not failed:
        fields = {"revision": "c0ffee", "ref": "origin/dev/alpha"}
        events.append(
            event(f"{key}:r", "git.push", at_s, source="git", success=True, fields=fields)
        )
    return events


EVENTS = [
    event("start", "session.created", 1, source="claude_squad"),
    event("prompt", "prompt.sent", 2, source="track"),
    event(
        "tests",
        "command.executed",
        10,
        duration_ns=300_000_000,
        success=True,
        fields={"command": "pytest", "tool": "exec", "exit_code": 0},
    ),
    event(
        "long",
        "command.executed",
        800,
        duration_ns=700 * NS,
        success=False,
        error_type="signal_SIGKILL",
        fields={"command": "pytest", "tool": "exec", "exit_code": 137},
    ),
    *push_through_exec("p1", 820),
    *push_through_exec("p2", 840, failed=True),
    event("c1", "git.commit", 830, source="git", success=True, fields={"revision": "beef"}),
    event(
        "t1",
        "tokens.used",
        831,
        source="claude",
        fields={"model": HOSTILE, "input_tokens": 10, "output_tokens": 32, "cost_nusd": 1_100_000},
    ),
    event(
        "build",
        "operation.completed",
        832,
        source="track",
        duration_ns=1_280_000_000,  # just on a bound
        success=False,
        error_type="ValueError",
        fields={"operation": "build"},
    ),
    event("loose", "command.executed", 833, session=None, success=True, duration_ns=NS),
    event(
        "end",
        "session.killed",
        900,
        source="claude_squad",
        duration_ns=899 * NS,
        fields={"reason": "killed"},
    ),
]

#: The ids of the events that are spans, in order: git ones only where they count.
SPAN_EVENTS = [
    "tests",
    "long",
    "p1:1",
    "p1:r",
    "p2:1",
    "p2:2",
    "c1",
    "build",
    "loose",
    "end",
]

SAMPLES = [
    Sample("squad.otel.info", {"version": "1.2.3"}, 1),
    Sample("squad.otel.heartbeat.timestamp", {}, 1_795_000_900.25),
    Sample("squad.otel.journal.size", {}, 4096),
    Sample("squad.otel.events", {"source": "spool"}, 17),
    Sample(
        "squad.session.info",
        {"session": HOSTILE, "program": "claude", "repository": "shop", "branch": "dev/é"},
        1,
    ),
    Sample(
        "squad.sessions", {"program": "claude", "repository": "shop", "state": State.WAITING}, 2
    ),
]


def open_journal(home: Path, *, released: bool = True) -> Journal:
    """A journal in which the day happened; its series are shown, unless still held."""
    journal = Journal(home, T0)
    journal.append("test", Batch(sessions=[SESSION], events=EVENTS), T0 + 901 * NS)
    if released:
        journal.release(T0 + 1000 * NS, 30 * NS)
    return journal


def day_points(journal: Journal) -> list[Point]:
    return points(journal.id, journal.shown(), SAMPLES)
