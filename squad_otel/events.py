"""Events: the table of types, the record of one, and the identities they are given.

An event's id says what happened, never when it was noticed, so appending it twice is a no-op.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

NS = 1_000_000_000  # nanoseconds in a second

FieldValue = str | int | float | bool


class FoldState(StrEnum):
    """How an event stands to the series: not yet, counted, or known but not counted."""

    PENDING = "pending"  # may still be corrected, or its session is not known yet
    LIVE = "live"  # folded into the lifetime series
    HISTORY = "history"  # happened before this journal began: kept, not in live counters


@dataclass(frozen=True, slots=True)
class EventType:
    """One row of the table of event types."""

    name: str
    help: str
    fields: Mapping[str, type] = field(default_factory=dict)


def _rows(*rows: EventType) -> dict[str, EventType]:
    return {row.name: row for row in rows}


EVENT_TYPES: Mapping[str, EventType] = _rows(
    EventType("session.created", "A session began: an agent in its worktree."),
    EventType("session.attached", "A person's terminal was attached to the session."),
    EventType("session.detached", "The person's terminal left the session."),
    EventType("session.paused", "The worktree was put away; the branch stays."),
    EventType("session.resumed", "The worktree came back."),
    EventType(
        "session.killed",
        "The session ended; `duration_ns` is its whole life.",
        {"reason": str},
    ),
    EventType(
        "session.state",
        "The agent went from one state to another; `duration_ns` is the time in the previous one.",
        {"state": str, "previous": str},
    ),
    EventType(
        "command.executed",
        "A command ended; `command` is its program and sub-command, never its arguments.",
        {"command": str, "tool": str, "exit_code": int},
    ),
    EventType("prompt.sent", "A prompt was given to an agent; its text is never kept."),
    EventType("git.commit", "A commit.", {"revision": str, "command": str}),
    EventType("git.push", "A push.", {"revision": str, "ref": str, "command": str}),
    EventType("git.pull", "A pull that brought something.", {"revision": str, "command": str}),
    EventType("git.branch", "A branch was created.", {"revision": str, "ref": str, "command": str}),
    EventType(
        "tokens.used",
        "A model answered: tokens by kind, and the cost where the model's price is known.",
        {
            "model": str,
            "input_tokens": int,
            "output_tokens": int,
            "cache_read_tokens": int,
            "cache_creation_tokens": int,
            "cost_nusd": int,  # billionths of a US dollar; absent: no price is known
        },
    ),
    EventType("error", "Something failed.", {"severity": str, "component": str}),
    EventType("operation.completed", "A timed operation ended.", {"operation": str}),
    EventType("system.start", "The daemon started.", {"version": str}),
    EventType("system.stop", "The daemon stopped in order.", {"version": str}),
    EventType("system.forget", "Somebody had events removed; which ones is not kept."),
)

#: Fields that grow when a better copy of the same event arrives: the larger value wins and the
#: difference is folded. Everything else is frozen by the first fold.
SUM_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_creation_tokens",
    "cost_nusd",
)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened.

    `occurred_at` is UTC nanoseconds. `session` is a session's id, or its name where a producer
    knows only that: the journal resolves it and fills in program, repository and branch.
    `settles_at` (UTC ns) keeps the event pending until then, because a better copy may come.
    """

    id: str
    type: str
    occurred_at: int
    source: str
    session: str | None = None
    program: str | None = None
    repository: str | None = None
    branch: str | None = None
    duration_ns: int | None = None
    success: bool | None = None
    error_type: str | None = None
    fields: dict[str, FieldValue] = {}
    settles_at: int | None = None


def owns_count(event: Event) -> bool:
    """Whether this event is the one that counts what it describes.

    Two tiers see the same successful git operation: the reflog owns it, and a wrapper that timed
    it only annotates the duration. A failure leaves no reflog line, so there the wrapper owns.
    """
    if not event.type.startswith("git."):
        return True
    return event.source == "git" or event.success is False
