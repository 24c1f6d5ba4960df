"""Sessions: one agent at work in one worktree, and what its names mean."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from squad_otel.ids import digest

_HASH = re.compile(r"[0-9a-f]{16}")


class State(StrEnum):
    """What a session is doing, as far as it can be seen."""

    STARTING = "starting"  # its program has not shown itself yet
    RUNNING = "running"  # the agent works
    IDLE = "idle"  # the agent's turn is over, nothing is asked
    WAITING = "waiting"  # a dialog waits for a human
    FAILED = "failed"  # the last turn ended in an error
    PAUSED = "paused"  # the worktree is put away
    DEAD = "dead"  # registered, but its terminal is gone
    ENDED = "ended"  # killed; not live any more


#: States of a live session, in the order in which they are shown.
LIVE_STATES = tuple(state for state in State if state is not State.ENDED)


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session as it stands now. Times are UTC nanoseconds.

    `sequence` numbers the sampled transitions of this session; an event seen by sampling has the
    id (session, sequence), and both are stored in one transaction. `origin` is the source that
    owns the row (`claude_squad`, `track`).
    """

    id: str
    name: str
    program: str
    repository: str
    branch: str
    worktree: str
    repository_path: str = ""
    user: str = ""
    origin: str = "claude_squad"
    tmux: str = ""  # the tmux session's name
    state: State = State.STARTING
    state_since: int = 0
    started_at: int = 0
    last_activity: int = 0
    ended_at: int | None = None
    attached: bool = False
    sequence: int = 0
    #: What a source must remember between two looks, in its own form (JSON).
    memory: str = ""

    @property
    def live(self) -> bool:
        """Whether the session has not ended."""
        return self.ended_at is None

    @property
    def label(self) -> str:
        """The value of the metric label `session`: the name, cut, and a short hash."""
        # A producer's own ids may begin alike; two sessions with one label would be one series.
        short = self.id if _HASH.fullmatch(self.id) else digest(self.id)
        return f"{self.name[:32]}-{short[:6]}"
