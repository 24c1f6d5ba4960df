"""A made-up month under a fake clock: a daemon that restarts, sleeps and has its clock set.

Two Prometheis look at it; the journal is replaced near the end. The generator keeps its own truth:
what each event adds to which series, when it happened, and which scrape was the first to show it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from squad_otel.batch import Batch
from squad_otel.daemon import Daemon
from squad_otel.events import NS, Event
from squad_otel.export import prometheus as exposition
from squad_otel.export.points import points
from squad_otel.gauges import OwnCounts, own_samples
from squad_otel.journal import Journal, Shown
from squad_otel.sessions import Session
from squad_otel.settings import Settings

MINUTE = 60 * NS
HOUR = 60 * MINUTE
DAY = 24 * HOUR
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")


def at(text: str) -> int:
    """`10-26 12:00` of 2025, UTC, in ns."""
    moment = datetime.strptime(f"2025-{text}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    return int(moment.timestamp()) * NS


#: October whole in every zone: the clocks change on Lord Howe on the 5th (by half an hour), in
#: Berlin on the 26th, in New York on 2 November.
START, END = at("09-30 00:00"), at("11-04 00:00")
#: The journal is lost and begun anew.
REPLACED = at("10-28 10:17")

SCRAPE_NS = MINUTE
#: As the daemon does it: two intervals, and nothing in its first ten seconds.
HOLD_NS = 2 * SCRAPE_NS
_FIRST_LOOK_NS = 10 * NS

_TICK = 15 * NS
#: So long before an edge a series is born whose hold is over, just, at the edge.
_BORN = 10 * _TICK
#: Within these of an edge or an incident there is a scrape a minute and a round each 15 s; else one
#: each half hour: no read looks between.
_BEFORE, _AFTER = 7 * MINUTE, 3 * MINUTE
_SPARSE = 30 * MINUTE
#: From a round of the daemon to the scrape that follows it.
_ROUND_AGE = 4 * NS

#: The laptop sleeps: over the edge of two weeks (Sunday and Monday), and over a night.
ASLEEP = ((at("10-11 16:00"), at("10-13 06:30")), (at("10-15 20:00"), at("10-16 05:30")))
#: The daemon is down while the squad goes on, also over a midnight of Berlin and New York.
_DOWN = (
    (at("10-07 21:59"), at("10-07 22:01")),
    (at("10-17 03:57"), at("10-17 04:12")),
    (REPLACED - 2 * MINUTE, REPLACED),
)
#: The clock is set: when, by how much. Berlin's midnight of the 22nd comes twice, New York's of
#: the 24th never.
_STEPS = (
    (at("10-19 09:13"), HOUR + 7 * NS),
    (at("10-21 21:20"), -HOUR - 3 * NS),
    (at("10-23 12:00"), -HOUR + 11 * NS),
    (at("10-24 04:30"), HOUR - 15 * NS),
)

#: Wall-clock times of the two Prometheis: when they began, and when they were down.
LATE = at("10-10 09:00")
_GAPS_A = ((at("10-05 08:00"), at("10-05 16:30")), (at("10-30 03:00"), at("11-01 07:00")))
_GAPS_B = ((at("10-14 20:00"), at("10-15 12:00")), (at("11-02 00:00"), at("11-03 01:00")))

#: On every second day the squad rests then: Lord Howe's midnight lies in it.
_MEAL = (12 * HOUR, 14 * HOUR)
_REPOSITORIES, _COMMANDS, _MODELS, _OPERATIONS = 6, 4, 2, 2
_PRICES = {"m0": 25_000, "m1": None}
_KINDS = ("input", "output", "cache_read", "cache_creation")

Labels = tuple[tuple[str, str], ...]


@dataclass(eq=False, slots=True)
class Increment:
    """What one event adds to one series.

    Times are those of the wall clock, but `shown` is, by Prometheus, on the true one: when the
    first scrape that showed it was.
    """

    metric: str
    labels: Labels
    amount: int
    occurred_at: int
    folded_at: int | None = None
    shown: dict[str, int] = field(default_factory=dict)

    @property
    def series(self) -> tuple[str, Labels]:
        return self.metric, self.labels


@dataclass
class Life:
    """One journal: where it lies, when it began, and what it was told."""

    home: Path
    id: str
    created_at: int
    increments: list[Increment] = field(default_factory=list)


@dataclass(frozen=True)
class Scrape:
    """When it was: by the machine's clock, and truly."""

    wall: int
    true: int
    recorder: str


@dataclass
class Recorder:
    """A Prometheus, down at times. It refuses what is older than its newest sample by `window`."""

    name: str
    interval: int
    since: int
    gaps: tuple[tuple[int, int], ...]
    window: int
    lines: dict[int, str] = field(default_factory=dict)
    scrapes: dict[str, list[Scrape]] = field(default_factory=dict)
    _newest: int = 0

    def takes(self, true: int, wall: int) -> bool:
        if wall < self.since or _within(wall, self.gaps) or true % self.interval:
            return False
        return wall > self._newest - self.window and wall not in self.lines

    def take(self, scrape: Scrape, journal: str, body: list[str]) -> None:
        self._newest = max(self._newest, scrape.wall)
        self.scrapes.setdefault(journal, []).append(scrape)
        stamp = f" {scrape.wall / NS:.3f}\n"
        own = f'{{instance="{self.name}:9466",replica="{self.name}",'
        self.lines[scrape.wall] = stamp.join([t.replace("{", own, 1) for t in body]) + stamp

    def text(self) -> str:
        """All of it as OpenMetrics, in the order of time."""
        return "".join([*(text for _, text in sorted(self.lines.items())), "# EOF\n"])


@dataclass(slots=True)
class _Record:
    """An event on its way to the daemon, and what it adds. `at` is on the true clock."""

    at: int
    event: Event
    increments: list[Increment]


class _Queue:
    """The only source of the daemon: gives what happened until now."""

    name, tier = "month", "exact"

    def __init__(self) -> None:
        self.due: list[_Record] = []

    def poll(self, sessions: Mapping[str, Session], offsets: Mapping[str, str], now: int) -> Batch:
        given, self.due = self.due, []
        return Batch(events=[record.event for record in given])

    def close(self) -> None:
        pass


class _Holds:
    """When a series is shown, by the rule alone: born, held for two intervals, then released."""

    def __init__(self) -> None:
        self._born: dict[tuple[str, Labels], int] = {}
        self._started = 0
        self._waiting: list[_Record] = []
        self.released: set[tuple[str, Labels]] = set()
        self.unseen: dict[str, list[Increment]] = {}

    def start(self, now: int) -> None:
        self._started = now

    def fold(self, life: Life, records: list[_Record], now: int) -> None:
        """Count what has to wait no longer."""
        self._waiting += [r for r in records if r.event.occurred_at >= life.created_at]
        ready = [r for r in self._waiting if (r.event.settles_at or 0) <= now]
        for record in ready:
            self._waiting.remove(record)
            for increment in record.increments:
                self._born.setdefault(increment.series, now)
                increment.folded_at = now
                life.increments.append(increment)
                for unseen in self.unseen.values():
                    unseen.append(increment)

    def release(self, now: int) -> None:
        if now - self._started >= _FIRST_LOOK_NS:
            self.released |= {
                series
                for series, born in self._born.items()
                if now - max(born, self._started) >= HOLD_NS
            }

    def see(self, recorder: str, true: int) -> None:
        unseen = self.unseen.get(recorder, [])
        for increment in unseen:
            if increment.series in self.released:
                increment.shown[recorder] = true
        self.unseen[recorder] = [i for i in unseen if recorder not in i.shown]


class Month:
    """The month, told as it is made. `lives` are the two journals, `recorders` the Prometheis."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self.lives: list[Life] = []
        self.recorders = (
            Recorder("a", SCRAPE_NS, START, _GAPS_A, 0),
            # At every second of its scrapes at the same instant as the other.
            Recorder("b", SCRAPE_NS // 2, LATE, _GAPS_B, 30 * MINUTE),
        )
        self.edges = sorted({e for zone in ZONES for e in midnights(zone) if START <= e < END})
        self._squad = _Squad(self._random, self.edges)
        self._restarts = self._choose_restarts()
        self._dense = self._dense_ticks()
        self._now = START

    def run(self) -> None:
        queue = _Queue()
        records = self._squad.records()
        daemon: Daemon | None = None
        try:
            for true in range(START, END, _TICK):
                wall = wall_clock(true)
                if _within(true, ASLEEP):
                    continue
                while records and records[0].at <= true - _ROUND_AGE:
                    queue.due.append(records.pop(0))
                if _within(true, (*_DOWN, *self._restarts)):
                    daemon = self._end(daemon, wall)
                    continue
                if daemon is None:
                    daemon = self._begin(queue, wall)
                if self._looks(true, wall):
                    self._round(daemon, queue, wall - _ROUND_AGE)
                    self._scrape(daemon, true, wall)
        finally:
            self._end(daemon, END)

    def _choose_restarts(self) -> list[tuple[int, int]]:
        """Short ones, some within the hold of what was born at an edge."""
        starts = [self._random.randrange(START + DAY, END - DAY, _TICK) for _ in range(6)]
        # What is born `_BORN` before an edge would show at it, did the restart not hold it again.
        starts += [edge - 5 * _TICK for edge in self._squad.births]
        return [(start, start + self._random.choice([1, 2]) * _TICK) for start in starts]

    def _dense_ticks(self) -> set[int]:
        """Where somebody looks often, as numbers of 15 s of the wall clock."""
        spans = (*ASLEEP, *_DOWN, *self._restarts)
        turns = [wall_clock(t) for span in spans for t in span]
        turns += [wall_clock(moment) for moment, _ in _STEPS]
        return {
            tick
            for moment in (*self.edges, *turns)
            for tick in range((moment - _BEFORE) // _TICK, (moment + _AFTER) // _TICK)
        }

    def _looks(self, true: int, wall: int) -> bool:
        return wall // _TICK in self._dense or true % _SPARSE in (0, 30 * NS)

    def _begin(self, queue: _Queue, now: int) -> Daemon:
        self._now = now
        home = self._folder / ("home" if now < REPLACED else "replaced")
        settings = Settings(http_port=0, scrape_interval_s=SCRAPE_NS / NS)
        daemon = Daemon(home, settings, [queue], lambda: self._now)
        if not self.lives or self.lives[-1].home != home:
            self.lives.append(Life(home, daemon.journal.id, now - now % NS))
            self._holds = _Holds()
            self._holds.unseen = {recorder.name: [] for recorder in self.recorders}
        self._holds.start(now)
        self._shown: list[Shown] = []
        self._lines: list[str] = []
        return daemon

    def _end(self, daemon: Daemon | None, now: int) -> None:
        if daemon is not None:
            self._now = now
            daemon.stop()
            daemon.run()  # ends in order
            self._holds.fold(self.lives[-1], [], now)

    def _round(self, daemon: Daemon, queue: _Queue, now: int) -> None:
        self._now = now
        due = list(queue.due)
        daemon.round()
        self._holds.fold(self.lives[-1], due, now)
        self._holds.release(now)

    def _scrape(self, daemon: Daemon, true: int, wall: int) -> None:
        for recorder in self.recorders:
            if recorder.takes(true, wall):
                journal = daemon.journal
                own = own_samples(OwnCounts(), "test", self._now, journal.created_at, 0)
                body = [*self._series(journal), *_body(points(journal.id, [], own))]
                recorder.take(Scrape(wall, true, recorder.name), journal.id, body)
                self._holds.see(recorder.name, true)

    def _series(self, journal: Journal) -> list[str]:
        """The lifetime series' lines; what did not change is not rendered again."""
        shown = journal.shown()
        if shown != self._shown:
            self._shown, self._lines = shown, _body(points(journal.id, shown, []))
        return self._lines


class _Squad:
    """Makes the events of the whole month, on the true clock."""

    def __init__(self, rnd: random.Random, edges: list[int]) -> None:
        self._random = rnd
        self._edges = edges
        self._numbers = itertools.count(1)
        self._known = {
            "repository": 1,
            "command": 1,
            "model": 1,
            "operation": 1,
        }
        self._records: list[_Record] = []
        self.births = rnd.sample(edges[3:-3], 10)

    def records(self) -> list[_Record]:
        """All of them, in the order in which they arrive."""
        for moment, births in self._moments():
            self._births = births
            self._make(moment, wall_clock(moment))
        for number, edge in enumerate(self.births):
            self._error(edge - _BORN, wall_clock(edge - _BORN), f"Birth{number}")
        return sorted(self._records, key=lambda record: record.at)

    def _moments(self) -> list[tuple[int, float]]:
        rnd = self._random
        moments: list[tuple[int, float]] = []
        for day in range(START, END, DAY):
            meal = range(0) if rnd.random() < 0.5 else range(day + _MEAL[0], day + _MEAL[1])
            work = [day + rnd.randrange(7 * HOUR, 19 * HOUR) for _ in range(rnd.randrange(40, 80))]
            moments += [(moment, 0.01) for moment in work if moment not in meal]
        for edge in self._edges:
            if rnd.random() < 0.25:
                for _ in range(rnd.randrange(1, 9)):
                    moment = edge + rnd.randrange(-4 * MINUTE, 3 * MINUTE)
                    # Where the clock is wrong, it is the edge by that clock that is meant.
                    moments.append((moment - (wall_clock(moment) - moment), 0.3))
        for moment, _ in (*_STEPS, *_DOWN):
            for _ in range(30):
                moments.append((moment + rnd.randrange(-HOUR, HOUR), 0.1))
        return sorted(m for m in moments if START < m[0] < END - HOUR and not _within(m[0], ASLEEP))

    def _make(self, true: int, now: int) -> None:
        kinds: list[Callable[[int, int], None]] = [
            self._command,
            self._command,
            self._command,
            self._answer,
            self._answer,
            self._git,
            self._simple,
            self._session,
        ]
        self._random.choice(kinds)(true, now)

    def _pick(self, kind: str, most: int) -> int:
        if self._known[kind] < most and self._random.random() < self._births:
            self._known[kind] += 1
            return self._known[kind] - 1
        return self._random.randrange(self._known[kind])

    def _owner(self) -> dict[str, str]:
        number = self._pick("repository", _REPOSITORIES)
        return {"program": ("claude", "codex")[number % 2], "repository": f"repo{number}"}

    def _length(self, low: float, high: float) -> int:
        """Some lie exactly at the border of a bucket."""
        if self._random.random() < 0.2:
            return 10_000_000 * 2 ** self._random.randrange(17)
        return round(10 ** self._random.uniform(low, high))

    def _add(self, true: int, event: Event, *amounts: tuple[str, dict[str, str], int]) -> None:
        increments = [
            Increment(metric, tuple(labels.items()), amount, event.occurred_at)
            for metric, labels, amount in amounts
        ]
        self._records.append(_Record(true, event, increments))

    def _event(self, kind: str, now: int, owner: Mapping[str, str], **more: object) -> Event:
        values = {"id": f"e{next(self._numbers)}", "source": "month", **owner, **more}
        return Event(type=kind, occurred_at=now, **values)  # type: ignore[arg-type]

    def _command(self, true: int, now: int) -> None:
        owner, failed = self._owner(), self._random.random() < 0.25
        error = "exit_1" if failed else ""
        name = f"tool{self._pick('command', _COMMANDS)} run"
        duration = None if self._random.random() < 0.1 else self._length(6.5, 12)
        labels = {"program": owner["program"], "tool": "exec", "command": name, "error_type": error}
        outcome = {**owner, "tool": "exec", "outcome": "error" if failed else "ok"}
        amounts = [("squad.commands", outcome, 1)]
        if duration is not None:
            amounts.append(("squad.command.duration", labels, duration))
        if failed:
            what = {"error_type": error, "severity": "error", "component": "command"}
            amounts.append(("squad.errors", {**owner, **what}, 1))
        event = self._event(
            "command.executed",
            now,
            owner,
            duration_ns=duration,
            success=not failed,
            error_type=error or None,
            fields={"command": name, "tool": "exec", "exit_code": int(failed)},
        )
        self._add(true, event, *amounts)

    def _answer(self, true: int, now: int) -> None:
        """One in three may still be corrected for a while; another is corrected when counted."""
        rnd, owner = self._random, self._owner()
        model = f"m{self._pick('model', _MODELS)}"
        price = _PRICES[model]
        tokens = {kind: rnd.randrange(1, 9000) for kind in _KINDS}
        owned = {**owner, "model": model}
        cost = None if price is None else sum(tokens.values()) * price
        amounts = [("squad.token.usage", {**owned, "type": k}, n) for k, n in tokens.items()]
        if cost is None:
            amounts.append(("squad.cost.unpriced", owned, 1))
        else:
            amounts.append(("squad.cost.usage", owned, cost))
        waits = rnd.choice([None, None, now + rnd.randrange(20, 300) * NS])
        fields = self._answer_fields(model, tokens, cost)
        event = self._event("tokens.used", now, owner, fields=fields, settles_at=waits)
        self._add(true, event, *amounts)
        if waits is None and rnd.random() < 0.3:
            more = rnd.randrange(1, 5000)
            grown = {**tokens, "output": tokens["output"] + more}
            extra = [("squad.token.usage", {**owned, "type": "output"}, more)]
            if price is not None and cost is not None:
                cost += more * price
                extra.append(("squad.cost.usage", owned, more * price))
            better = self._event(
                "tokens.used",
                now,
                owner,
                id=event.id,
                fields=self._answer_fields(model, grown, cost),
            )
            self._add(true + rnd.randrange(MINUTE, 5 * MINUTE), better, *extra)

    def _answer_fields(
        self, model: str, tokens: Mapping[str, int], cost: int | None
    ) -> dict[str, object]:
        priced = {} if cost is None else {"cost_nusd": cost}
        return {"model": model, **{f"{k}_tokens": n for k, n in tokens.items()}, **priced}

    def _git(self, true: int, now: int) -> None:
        rnd, owner = self._random, self._owner()
        operation = rnd.choice(["commit", "commit", "push", "pull", "branch"])
        ok = operation != "push" or rnd.random() < 0.6
        counted = {**owner, "operation": operation, "outcome": "ok" if ok else "error"}
        length = self._length(7, 10.5)
        program = owner["program"]
        timed = {"program": program, "operation": operation, "error_type": "" if ok else "exit_1"}
        count = ("squad.git.operations", counted, 1)
        time = ("squad.git.operation.duration", timed, length)
        kind, wrapper = f"git.{operation}", {"source": "exec", "duration_ns": length}
        if not ok:
            event = self._event(kind, now, owner, success=False, error_type="exit_1", **wrapper)
            self._add(true, event, count, time)
            return
        self._add(true, self._event(kind, now, owner, source="git", success=True), count)
        if operation == "push":  # the wrapper timed it, too; that does not count it
            self._add(true, self._event(kind, now, owner, success=True, **wrapper), time)

    def _simple(self, true: int, now: int) -> None:
        owner = self._owner()
        kind = self._random.choice(["prompt.sent", "error", "operation.completed"])
        if kind == "prompt.sent":
            self._add(true, self._event(kind, now, owner), ("squad.prompts", owner, 1))
        elif kind == "error":
            self._error(true, now, "Timeout")
        else:
            name, length = f"job{self._pick('operation', _OPERATIONS)}", self._length(7, 12)
            event = self._event(
                kind, now, owner, success=True, duration_ns=length, fields={"operation": name}
            )
            labels = {"program": owner["program"], "operation": name, "error_type": ""}
            self._add(true, event, ("squad.operation.duration", labels, length))

    def _error(self, true: int, now: int, error: str) -> None:
        owner, fields = self._owner(), {"severity": "warning", "component": "mcp"}
        event = self._event("error", now, owner, error_type=error, fields=fields)
        self._add(true, event, ("squad.errors", {**owner, "error_type": error, **fields}, 1))

    def _session(self, true: int, now: int) -> None:
        owner = self._owner()
        if self._random.random() < 0.5:
            event = self._event("session.created", now, owner)
            self._add(true, event, ("squad.session.starts", owner, 1))
            return
        reason = self._random.choice(["killed", "finished"])
        length = self._length(9, 14.5)
        event = self._event(
            "session.killed", now, owner, duration_ns=length, fields={"reason": reason}
        )
        self._add(
            true,
            event,
            ("squad.session.ends", {**owner, "reason": reason}, 1),
            ("squad.session.duration", {"program": owner["program"], "reason": reason}, length),
        )


def _body(shown: list) -> list[str]:
    """The lines of /metrics, without comments."""
    text, _ = exposition.render(shown, "application/openmetrics-text; version=1.0.0")
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def wall_clock(true: int) -> int:
    """What the machine's clock shows at a moment of the true one."""
    return true + sum(step for moment, step in _STEPS if moment <= true)


def midnights(zone: str) -> list[int]:
    """UTC ns of every local midnight of the month, and one day more at both ends."""
    first = datetime.fromtimestamp(START / NS, UTC).date() - timedelta(days=31)
    days = (first + timedelta(days=n) for n in range(100))
    local = (datetime(d.year, d.month, d.day, tzinfo=ZoneInfo(zone)) for d in days)
    return [int(moment.timestamp()) * NS for moment in local]


def _within(moment: int, spans: tuple[tuple[int, int], ...] | list[tuple[int, int]]) -> bool:
    return any(begin <= moment < end for begin, end in spans)
