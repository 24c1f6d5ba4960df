"""The journal as a backend: measures compiled to SQL over its roll-ups and its events.

Whole quarters of an hour are read from the roll-ups, what is left at a period's ends from events.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from squad_otel.errors import QueryError
from squad_otel.metrics import BY_NAME, CONDITIONS, DURATION_BOUNDS_NS, LABELS, Feed, Metric
from squad_otel.query.measures import Gain, Reading
from squad_otel.rollups import BUCKETS, QUARTER_NS, execute_bounded
from squad_otel.schema import in_words, journal_path, open_reader
from squad_otel.sessions import Session

#: The label of what `by_session` reads.
SESSION = "session"

_DURATION = "duration_ns"

_LabelSets = Mapping[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that answers for several metrics at once, and how to read its rows.

    A row of `events_sql` is `key`, then the columns. `key` packs label set, event type and
    duration bucket into one integer: SQLite groups by one integer far faster than by three
    columns. A row of `rollups_sql` is label set, event type, the columns, then the buckets, which
    lie between `bounds_ns` and are those of all histograms together.
    """

    events_sql: str
    rollups_sql: str
    metrics: tuple[Metric, ...]
    types: tuple[str, ...]
    columns: tuple[str, ...]
    bounds_ns: tuple[int, ...]


def compile_sql(names: Sequence[str]) -> Statement:
    """SQL for what the series of these metrics gain from the first to before the second parameter.

    These are UTC ns over events, and quarters of an hour since 1970 over roll-ups.

    Event types, conditions and values come from the metrics' feeds.
    """
    metrics = tuple(BY_NAME[name] for name in names)
    feeds = [feed for metric in metrics for feed in metric.feeds]
    if not feeds:
        raise QueryError(f"no events feed {', '.join(names)}")
    types = tuple(dict.fromkeys(feed.event for feed in feeds))
    columns: dict[str, str] = {}
    for metric in metrics:
        if metric.bounds and any(feed.value != _DURATION for feed in metric.feeds):
            raise QueryError(f"{metric.name}: only durations are kept in buckets")
        for feed in metric.feeds:
            columns[_sum(feed)] = _rolled_sum(feed)
            if metric.bounds:
                columns[_count(feed)] = "sum(timed)"
    bounds_ns = DURATION_BOUNDS_NS if any(metric.bounds for metric in metrics) else ()
    bucket_count = len(bounds_ns) + 1
    kind = "".join(f" WHEN '{name}' THEN {i * bucket_count}" for i, name in enumerate(types))
    events_sql = (
        f"SELECT labels * {len(types) * bucket_count} + CASE type{kind} END"  # noqa: S608 - our own words
        f" + {_bucket(bounds_ns)} AS key, {', '.join(columns)} "
        "FROM events WHERE state = 'live' AND occurred_at >= ? AND occurred_at < ? "
        f"AND ({' OR '.join(_fed(name, feeds) for name in types)}) GROUP BY key"
    )
    buckets = "".join(f", sum({name})" for name in BUCKETS) if bounds_ns else ""
    rollups_sql = (
        f"SELECT labels, type, {', '.join(columns.values())}{buckets} "  # noqa: S608 - our own words
        "FROM rollups WHERE quarter >= ? AND quarter < ? "
        f"AND type IN ({_quoted(types)}) GROUP BY labels, type"
    )
    return Statement(events_sql, rollups_sql, metrics, types, tuple(columns), bounds_ns)


@dataclass(frozen=True, slots=True)
class SessionStatement:
    """SQL by session: a row is its id, whether the events succeeded (1, 0, -1), the columns.

    `meant` has the metric and the constant labels of each column.
    """

    events_sql: str
    rollups_sql: str
    meant: tuple[tuple[str, Mapping[str, str]], ...]


def compile_session_sql(names: Sequence[str]) -> SessionStatement:
    """As `compile_sql`, for counters: histograms are not kept by session."""
    columns: list[str] = []
    rolled: list[str] = []
    meant: list[tuple[str, Mapping[str, str]]] = []
    types: dict[str, None] = {}
    for name in names:
        metric = BY_NAME[name]
        if metric.bounds or not metric.feeds:
            raise QueryError(f"{name} is not kept by session")
        for feed in metric.feeds:
            condition = f"type = '{feed.event}' AND {CONDITIONS[feed.when].sql}"
            columns.append(f"sum(CASE WHEN {condition} THEN {feed.value} END)")
            rolled.append(f"sum(CASE WHEN type = '{feed.event}' THEN {_rolled(feed)} END)")
            meant.append((name, feed.labels))
            types[feed.event] = None
    where = f"type IN ({_quoted(types)}) GROUP BY 1, 2"
    return SessionStatement(
        f"SELECT session, coalesce(success, -1), {', '.join(columns)} FROM events "  # noqa: S608
        "WHERE state = 'live' AND session IS NOT NULL "
        f"AND occurred_at >= ? AND occurred_at < ? AND {where}",
        f"SELECT session, success, {', '.join(rolled)} FROM session_rollups "  # noqa: S608
        f"WHERE quarter >= ? AND quarter < ? AND {where}",
        tuple(meant),
    )


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _rolled(feed: Feed) -> str:
    """What a feed adds, over a row of roll-ups."""
    if feed.value == "1":
        return CONDITIONS[feed.when].rolled
    if feed.when:
        raise QueryError(f"{feed.value} of {feed.event} is not rolled up apart for {feed.when}")
    return feed.value


def _rolled_sum(feed: Feed) -> str:
    return f"sum({_rolled(feed)})"


def _sum(feed: Feed) -> str:
    if feed.value == "1" and not feed.when:
        return "count(*)"
    return f"sum({_if(feed)})"


def _count(feed: Feed) -> str:
    return f"count({_if(feed)})"


def _if(feed: Feed) -> str:
    if not feed.when:
        return feed.value
    return f"CASE WHEN {CONDITIONS[feed.when].sql} THEN {feed.value} END"


def _fed(event_type: str, feeds: Sequence[Feed]) -> str:
    """The events of this type that feed anything."""
    conditions = {
        feed.when: CONDITIONS[feed.when].sql for feed in feeds if feed.event == event_type
    }
    if "" in conditions:
        return f"type = '{event_type}'"
    return f"(type = '{event_type}' AND ({' OR '.join(conditions.values())}))"


def _bucket(bounds: Sequence[int], low: int = 0, high: int | None = None) -> str:
    """SQL for the number of the bucket that a duration falls in, by bisection."""
    high = len(bounds) if high is None else high
    if low == high:
        return str(low)
    middle = (low + high) // 2
    return (
        f"CASE WHEN {_DURATION} <= {bounds[middle]} THEN {_bucket(bounds, low, middle)} "
        f"ELSE {_bucket(bounds, middle + 1, high)} END"
    )


class JournalBackend:
    """Reads one snapshot of a journal. Close it after use."""

    name = "journal"

    def __init__(self, home: Path, now: int) -> None:
        """Open the journal of `home` for reading as of `now` (UTC ns). Raises JournalError."""
        self._db = open_reader(home)
        self._now = now
        self.detail = str(journal_path(home))
        try:
            self._db.execute("BEGIN")  # all answers come from one state of the journal
            meta = dict(self._db.execute("SELECT key, value FROM meta"))
            self._label_sets = {
                key: dict(zip(LABELS, values, strict=True))
                for key, *values in self._db.execute(
                    f"SELECT id, {', '.join(LABELS)} FROM label_sets"  # noqa: S608
                )
            }
        except sqlite3.Error as error:
            self._db.close()
            raise self._unreadable(error) from error
        self.created_at = int(meta["created_at"])
        #: Events before it (UTC ns) are pruned: only whole quarters of an hour are known there.
        self.pruned_before = int(meta.get("pruned_before", "0"))
        self.journals: Sequence[str] = (meta["id"],)

    def close(self) -> None:
        self._db.close()

    def read(
        self, metrics: Sequence[str], edges: Sequence[int], sliced: Sequence[str] = ()
    ) -> tuple[Reading | None, list[Reading | None]]:
        """See `measures.Backend`. Each row is read once, however many slices there are."""
        statement = compile_sql(metrics)
        whole = _Sums(statement, metrics)
        slices: list[Reading | None] = []
        for since, until in pairwise(edges):
            part = _Sums(statement, sliced)
            self._sum_up(statement, self._stretch(since, until), (whole, part))
            slices.append(self._reading(part.gains, since, until))
        return self._reading(whole.gains, edges[0], edges[-1]), slices if sliced else []

    def by_session(self, metrics: Sequence[str], since: int, until: int) -> Reading | None:
        """What these counters gained from each session: labels `session`, `outcome`, the feed's."""
        statement = compile_session_sql(metrics)
        stretch = self._stretch(since, until)
        totals: Counter[tuple[str, int, int]] = Counter()
        rows = self._fetch(statement.rollups_sql, stretch.quarters)
        for ends in stretch.ends:
            rows += self._fetch(statement.events_sql, ends)
        for session, success, *values in rows:
            for place, value in enumerate(values):
                totals[session, success, place] += value or 0

        def gains(_: object) -> dict[str, list[Gain]]:
            found: dict[str, list[Gain]] = {name: [] for name in metrics}
            for (session, success, place), total in totals.items():
                name, constants = statement.meant[place]
                outcome = "error" if success == 0 else "ok"
                labels = {SESSION: session, "outcome": outcome, **constants}
                found[name].append(Gain(labels, total))
            return found

        return self._reading(gains, since, until)

    def sessions(self, since: int, until: int) -> list[Session]:
        """The sessions that lived at some time from `since` to `until`, the latest first."""
        try:
            rows = self._db.execute(
                "SELECT data FROM sessions WHERE ended_at IS NULL OR ended_at >= ?", (since,)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        decode = msgspec.json.Decoder(Session).decode
        found = [decode(data) for (data,) in rows]
        return sorted(
            (session for session in found if session.started_at < until),
            key=lambda session: (session.started_at, session.id),
            reverse=True,
        )

    def last_recorded(self) -> int | None:
        """When the journal was last added to (UTC ns); None while it is empty."""
        try:
            found = self._db.execute(
                "SELECT recorded_at FROM events ORDER BY seq DESC LIMIT 1"
            ).fetchone()
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        return None if found is None else int(found[0])

    def _stretch(self, since: int, until: int) -> _Stretch:
        since, until = max(since, self.created_at), min(until, self._now)
        if since == self.created_at:  # before it there is nothing in its quarter
            since -= since % QUARTER_NS
        return stretch(since, until, self.pruned_before)

    def _sum_up(self, statement: Statement, stretch: _Stretch, sums: Sequence[_Sums]) -> None:
        rolled = self._fetch(statement.rollups_sql, stretch.quarters)
        rows = [row for ends in stretch.ends for row in self._fetch(statement.events_sql, ends)]
        for one in sums:
            one.add_rolled(rolled)
            one.add(rows)

    def _fetch(self, sql: str, ends: tuple[int, int]) -> list[tuple[Any, ...]]:
        if ends[0] >= ends[1]:
            return []
        try:
            return execute_bounded(self._db, sql, ends)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: sqlite3.Error) -> QueryError:
        return QueryError(f"cannot read the journal {self.detail}: {in_words(error)}")

    def _reading(
        self, gains: Callable[[_LabelSets], Mapping[str, Sequence[Gain]]], since: int, until: int
    ) -> Reading | None:
        since, until = max(since, self.created_at), min(until, self._now)
        if since < self.pruned_before and since != self.created_at:
            since += -since % QUARTER_NS
        if until < self.pruned_before:
            until -= until % QUARTER_NS
        if until <= since:
            return None
        return Reading(since, until, gains(self._label_sets), wide=True)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A period taken apart: whole quarters of an hour (from, before), and ends in UTC ns."""

    quarters: tuple[int, int]
    ends: tuple[tuple[int, int], ...]


def stretch(since: int, until: int, pruned_before: int) -> _Stretch:
    """Take a period apart; ends that lie before `pruned_before` are left out."""
    first, last = -(-since // QUARTER_NS), until // QUARTER_NS
    if first > last:
        ends = [(since, until)]
    else:
        ends = [(since, first * QUARTER_NS), (last * QUARTER_NS, until)]
    kept = tuple((a, b) for a, b in ends if pruned_before <= a < b)
    return _Stretch((first, last), kept)


@dataclass(frozen=True, slots=True)
class _Column:
    """Where a row holds what one feed adds; `own_bucket` maps joint buckets to the metric's."""

    metric: str
    labels: Mapping[str, str]
    total: int
    count: int | None
    own_bucket: tuple[int, ...]


class _Sums:
    """The rows of a statement, added up for some of its metrics."""

    def __init__(self, statement: Statement, names: Sequence[str]) -> None:
        self._bucket_count = len(statement.bounds_ns) + 1
        self._types = {name: place for place, name in enumerate(statement.types)}
        self._names = names
        self._by_type: list[list[_Column]] = [[] for _ in statement.types]
        for metric in statement.metrics:
            if metric.name not in names:
                continue
            own = metric.bounds_units
            own_bucket = (*(bisect_left(own, bound) for bound in statement.bounds_ns), len(own))
            for feed in metric.feeds:
                total = statement.columns.index(_sum(feed))
                count = statement.columns.index(_count(feed)) if metric.bounds else None
                column = _Column(metric.name, feed.labels, total, count, own_bucket)
                self._by_type[statement.types.index(feed.event)].append(column)
        # By event type, label set, place among the type's columns: total, buckets.
        self._sums: dict[tuple[int, int, int], list[int]] = {}

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows over events: one a bucket."""
        for key, *values in rows:
            rest, bucket = divmod(key, self._bucket_count)
            label_set, kind = divmod(rest, len(self._by_type))
            for place, column in enumerate(self._by_type[kind]):
                total = values[column.total]
                if total is None:  # none of these events has the value
                    continue
                found = self._found(kind, label_set, place, column)
                found[0] += total
                if column.count is not None:
                    found[1 + column.own_bucket[bucket]] += values[column.count]

    def add_rolled(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows over roll-ups: all buckets in one."""
        for label_set, type_name, *values in rows:
            kind = self._types[type_name]
            for place, column in enumerate(self._by_type[kind]):
                found = self._found(kind, label_set, place, column)
                found[0] += values[column.total]
                if column.count is not None:
                    buckets = values[-self._bucket_count :]
                    for own, number in zip(column.own_bucket, buckets, strict=True):
                        found[1 + own] += number

    def _found(self, kind: int, label_set: int, place: int, column: _Column) -> list[int]:
        at = (kind, label_set, place)
        found = self._sums.get(at)
        if found is None:
            size = 1 if column.count is None else column.own_bucket[-1] + 2
            found = self._sums[at] = [0] * size
        return found

    def gains(self, label_sets: _LabelSets) -> dict[str, list[Gain]]:
        """What each metric gained, by label set; nothing for what gained nothing."""
        gains: dict[str, list[Gain]] = {name: [] for name in self._names}
        for (kind, label_set, place), (total, *buckets) in self._sums.items():
            column = self._by_type[kind][place]
            if total or any(buckets):
                labels = {**label_sets[label_set], **column.labels}
                gains[column.metric].append(Gain(labels, total, sum(buckets), tuple(buckets)))
        return gains
