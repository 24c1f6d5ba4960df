"""A made-up fortnight of a squad, written through the real journal; it keeps its own truth.

Deterministic. The squad works from 8 to 20 o'clock UTC, so every midnight is a quiet edge. What
happened is in plain lists of facts, from which a test adds up what a report must say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.sessions import Session, State

HOUR = 3600 * NS
DAY = 24 * HOUR
#: Monday of ISO week 46 of 2025.
START = int(datetime(2025, 11, 10, tzinfo=UTC).timestamp()) * NS
DAYS = 14

_SEED = 46
_REPOSITORIES = ("shop", "billing", "docs")
_PROGRAMS = ("claude", "codex")
_COMMANDS = ("pytest", "git status", "npm run", "cargo test", "make", "ls")
#: Model and price of a token in billionths of a dollar; None: nobody knows it.
_MODELS: dict[str, tuple[tuple[str, int | None], ...]] = {
    "claude": (("claude-opus-4-5", 25_000), ("claude-haiku-4-5", 3_000)),
    "codex": (("gpt-5-codex", 10_000), ("experimental-7", None)),
}
_KINDS = ("input", "output", "cache_read", "cache_creation")


@dataclass(frozen=True)
class Fact:
    """One thing that happened."""

    at: int
    session: str
    program: str
    repository: str


@dataclass(frozen=True)
class Command(Fact):
    command: str
    duration_ns: int | None
    error_type: str  # empty: it worked


@dataclass(frozen=True)
class GitOperation(Fact):
    operation: str
    ok: bool


@dataclass(frozen=True)
class Failure(Fact):
    error_type: str
    severity: str
    component: str


@dataclass(frozen=True)
class ModelAnswer(Fact):
    model: str
    tokens: dict[str, int]
    cost_nusd: int | None


@dataclass(frozen=True)
class SessionStart(Fact):
    pass


@dataclass(frozen=True)
class SessionEnd(Fact):
    reason: str
    duration_ns: int


@dataclass
class Truth:
    """Everything that happened, in the order of time."""

    facts: list[Fact] = field(default_factory=list)

    def of(self, kind: type[Fact], since: int, until: int, **equal: object) -> list:
        """The facts of one kind in a period, narrowed by what their fields must be."""
        return [
            fact
            for fact in self.facts
            if type(fact) is kind
            and since <= fact.at < until
            and all(getattr(fact, name) == value for name, value in equal.items())
        ]

    def errors(self, since: int, until: int, **equal: object) -> list[Failure]:
        """Errors that were reported, and commands that failed."""
        found = self.of(Failure, since, until) + [
            Failure(c.at, c.session, c.program, c.repository, c.error_type, "error", "command")
            for c in self.of(Command, since, until)
            if c.error_type
        ]
        return [e for e in found if all(getattr(e, n) == v for n, v in equal.items())]


class _Squad:
    """Makes each hour's events."""

    def __init__(self, names: Callable[[str], str]) -> None:
        self._random = random.Random(_SEED)
        self._names = names
        self._number = 0
        self._sessions = 0
        self.live: dict[str, Session] = {}
        self._ends: dict[str, int] = {}
        self.truth = Truth()

    def hour(self, start: int) -> Batch:
        batch = Batch()
        clock = (start - START) % DAY // HOUR
        if clock == 8:
            for _ in range(3):
                self._begin(start, batch, self._random.randrange(1, 11) * HOUR)
            if (start - START) // DAY % 4 == 0:
                self._begin(start, batch, 100 * DAY)  # one that stays
        if 8 <= clock < 20:
            for session in list(self.live.values()):
                self._work(session, start, batch)
        for key, end in list(self._ends.items()):
            if end <= start + HOUR:
                self._end(self.live[key], end, batch)
        batch.events.sort(key=lambda event: event.occurred_at)
        self.truth.facts.sort(key=lambda fact: fact.at)
        return batch

    def _begin(self, start: int, batch: Batch, life_ns: int) -> None:
        self._sessions += 1
        number = self._sessions
        at = start + self._random.randrange(60) * NS
        repository = _REPOSITORIES[number % 3]
        session = Session(
            id=f"{number:016x}",
            name=self._names(f"task-{number}"),
            program=self._names(_PROGRAMS[number % 2]),
            repository=self._names(repository),
            branch=f"dev/task-{number}",
            worktree=f"/w/{number}",
            state=State.RUNNING,
            started_at=at,
            last_activity=at,
        )
        self.live[session.id] = session
        # Before 20 o'clock, whatever the dice say.
        self._ends[session.id] = at + min(life_ns, 11 * HOUR) if life_ns < DAY else at + life_ns
        batch.sessions.append(session)
        self._add(batch, session, SessionStart, "session.created", at)

    def _end(self, session: Session, at: int, batch: Batch) -> None:
        reason = self._random.choice(["killed", "killed", "finished"])
        length = at - session.started_at
        del self.live[session.id], self._ends[session.id]
        batch.sessions.append(msgspec.structs.replace(session, state=State.ENDED, ended_at=at))
        self._add(
            batch,
            session,
            SessionEnd,
            "session.killed",
            at,
            {"reason": reason},
            {"reason": reason, "duration_ns": length},
            duration_ns=length,
        )

    def _work(self, session: Session, start: int, batch: Batch) -> None:
        rnd = self._random
        # Nothing later than the session's end.
        last = min(HOUR, self._ends[session.id] - start) // NS
        if last < 120:
            return

        def moment() -> int:
            return start + rnd.randrange(60, last) * NS

        for _ in range(rnd.randrange(1, 4)):
            self._command(session, moment(), batch)
        for _ in range(rnd.randrange(0, 3)):
            self._answer(session, moment(), batch)
        if rnd.random() < 0.4:
            self._git(session, moment(), batch, "commit", ok=True)
        if rnd.random() < 0.15:
            self._git(session, moment(), batch, "push", ok=rnd.random() < 0.7)
        if rnd.random() < 0.05:
            self._git(session, moment(), batch, rnd.choice(["pull", "branch"]), ok=True)
        if rnd.random() < 0.06:
            fields = {"severity": "warning", "component": self._names("mcp")}
            error = rnd.choice(["Timeout", "Refused"])
            self._add(
                batch,
                session,
                Failure,
                "error",
                moment(),
                fields,
                {"error_type": error, **fields},
                error_type=error,
            )

    def _command(self, session: Session, at: int, batch: Batch) -> None:
        rnd = self._random
        duration: int | None = round(10 ** rnd.uniform(6.5, 12))
        dice = rnd.random()
        if dice < 0.1:
            duration = None  # not timed
        elif dice < 0.3:
            duration = 10_000_000 * 2 ** rnd.randrange(17)  # exactly at a bucket's border
        error = rnd.choice(["exit_1", "exit_2", "signal_9"]) if rnd.random() < 0.2 else ""
        name = self._names(rnd.choice(_COMMANDS))
        self._add(
            batch,
            session,
            Command,
            "command.executed",
            at,
            {"command": name, "tool": "exec", "exit_code": int(bool(error))},
            {"command": name, "duration_ns": duration, "error_type": error},
            duration_ns=duration,
            success=not error,
            error_type=error or None,
        )

    def _git(self, session: Session, at: int, batch: Batch, operation: str, *, ok: bool) -> None:
        facts = {"operation": operation, "ok": ok}
        if ok:
            self._add(batch, session, GitOperation, f"git.{operation}", at, {}, facts, success=True)
            # The wrapper timed it, too; it must not be counted twice.
            batch.events.append(
                self._event(session, f"git.{operation}", at, {}, "exec", duration_ns=3 * NS)
            )
        else:
            self._add(
                batch,
                session,
                GitOperation,
                f"git.{operation}",
                at,
                {},
                facts,
                source="exec",
                success=False,
                error_type="exit_1",
                duration_ns=2 * NS,
            )

    def _answer(self, session: Session, at: int, batch: Batch) -> None:
        rnd = self._random
        program = "claude" if "claude" in session.program else "codex"
        model, price = rnd.choice(_MODELS[program])
        tokens = {kind: rnd.randrange(1, 9000) for kind in _KINDS}
        cost = None if price is None else sum(tokens.values()) * price
        fields: dict[str, str | int | float | bool] = {
            "model": self._names(model),
            **{f"{kind}_tokens": count for kind, count in tokens.items()},
        }
        if cost is not None:
            fields["cost_nusd"] = cost
        self._add(
            batch,
            session,
            ModelAnswer,
            "tokens.used",
            at,
            fields,
            {"model": self._names(model), "tokens": tokens, "cost_nusd": cost},
        )

    def _add(
        self,
        batch: Batch,
        session: Session,
        kind: type[Fact],
        event_type: str,
        at: int,
        fields: dict | None = None,
        facts: dict | None = None,
        source: str = "git",
        **more: object,
    ) -> None:
        self.truth.facts.append(
            kind(at, session.id, session.program, session.repository, **(facts or {}))
        )
        batch.events.append(self._event(session, event_type, at, fields or {}, source, **more))

    def _event(
        self, session: Session, event_type: str, at: int, fields: dict, source: str, **more: object
    ) -> Event:
        self._number += 1
        return Event(
            id=f"e{self._number}",
            type=event_type,
            occurred_at=at,
            source=source,
            session=session.id,
            fields=fields,
            **more,
        )


def write(
    home: Path,
    days: int = DAYS,
    each_hour: Callable[[Journal, int], None] | None = None,
    names: Callable[[str], str] = str,
) -> Truth:
    """Write `days` days from START into the journal of `home`; returns what happened.

    `each_hour` is called after every hour; `names` may change the names of repositories,
    programs, commands, models and sessions.
    """
    squad = _Squad(names)
    journal = Journal(home, START)
    try:
        for hour in range(days * 24):
            now = START + (hour + 1) * HOUR
            journal.append("week", squad.hour(START + hour * HOUR), now)
            if each_hour is not None:
                each_hour(journal, now)
        journal.append("week", Batch(events=list(_not_counted(now))), now)
    finally:
        journal.close()
    return squad.truth


def _not_counted(now: int) -> Iterable[Event]:
    """One from before the journal began, and one that may still be corrected."""
    for key, at, settles_at in (("old", START - DAY, None), ("open", now - HOUR, now + DAY)):
        yield Event(
            id=key,
            type="tokens.used",
            occurred_at=at,
            source="week",
            program="claude",
            repository="shop",
            settles_at=settles_at,
            fields={"model": "claude-opus-4-5", "input_tokens": 1, "cost_nusd": 1},
        )
