"""The journal as a backend: measures compiled to SQL, in one pass over the events of a period."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from squad_otel.errors import QueryError
from squad_otel.journal import journal_path, open_reader
from squad_otel.metrics import BY_NAME, CONDITIONS, LABELS, Feed, Metric
from squad_otel.query.measures import Gain, Reading
from squad_otel.sessions import Session

#: What the series are split by, beside their labels, where a list of sessions is made.
SESSION = "session"

_DURATION = "duration_ns"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that answers for several metrics at once, and how to read its rows.

    A row is `session` (or NULL), `key`, then the columns. `key` packs label set, event type and
    duration bucket into one integer: SQLite groups by one integer far faster than by three
    columns. The buckets lie between `bounds_ns` and are those of all histograms together.
    """

    sql: str
    metrics: tuple[Metric, ...]
    types: tuple[str, ...]
    columns: tuple[str, ...]
    bounds_ns: tuple[int, ...]

    @property
    def bucket_count(self) -> int:
        return len(self.bounds_ns) + 1


def compile_sql(names: Sequence[str], by_session: bool = False) -> Statement:
    """SQL for what the series of these metrics gain in `occurred_at >= ? AND occurred_at < ?`.

    Event types, conditions and values come from the metrics' feeds.
    """
    metrics = tuple(BY_NAME[name] for name in names)
    feeds = [feed for metric in metrics for feed in metric.feeds]
    if not feeds:
        raise QueryError(f"no events feed {', '.join(names)}")
    types = tuple(dict.fromkeys(feed.event for feed in feeds))
    columns: dict[str, None] = {}
    for metric in metrics:
        if metric.bounds and any(feed.value != _DURATION for feed in metric.feeds):
            raise QueryError(f"{metric.name}: only durations are kept in buckets")
        for feed in metric.feeds:
            columns[_sum(feed)] = None
            if metric.bounds:
                columns[_count(feed)] = None
    bounds_ns = tuple(sorted({last_inside(bound, m.scale) for m in metrics for bound in m.bounds}))
    bucket_count = len(bounds_ns) + 1
    kind = "".join(f" WHEN '{name}' THEN {i * bucket_count}" for i, name in enumerate(types))
    sql = (
        f"SELECT {SESSION if by_session else 'NULL'}, "  # noqa: S608 - words of our own tables
        f"labels * {len(types) * bucket_count} + CASE type{kind} END"
        f" + {_bucket(bounds_ns)} AS key, {', '.join(columns)} "
        "FROM events WHERE state = 'live' AND occurred_at >= ? AND occurred_at < ? "
        f"AND ({' OR '.join(_fed(name, feeds) for name in types)}) "
        f"{f'AND {SESSION} IS NOT NULL ' if by_session else ''}"
        f"GROUP BY {f'{SESSION}, ' if by_session else ''}key"
    )
    return Statement(sql, metrics, types, tuple(columns), bounds_ns)


def last_inside(bound: float, scale: float) -> int:
    """The largest integer that, times `scale`, is not above `bound`: where its bucket ends."""
    guess = round(bound / scale)
    return next(n for n in range(guess + 2, guess - 3, -1) if n * scale <= bound)


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
            raise QueryError(f"cannot read the journal {self.detail}: {error}") from error
        self.created_at = int(meta["created_at"])
        self.journals: Sequence[str] = (meta["id"],)

    def close(self) -> None:
        self._db.close()

    def read(
        self, metrics: Sequence[str], edges: Sequence[int], sliced: Sequence[str] = ()
    ) -> tuple[Reading | None, list[Reading | None]]:
        """See `measures.Backend`. Each event is read once, however many slices there are."""
        statement = compile_sql(metrics)
        whole = _Sums(statement, metrics)
        slices: list[Reading | None] = []
        for since, until in pairwise(edges):
            part = _Sums(statement, sliced)
            rows = self._rows(statement, since, until)
            whole.add(rows)
            part.add(rows)
            slices.append(self._reading(part, since, until))
        return self._reading(whole, edges[0], edges[-1]), slices if sliced else []

    def by_session(self, metrics: Sequence[str], since: int, until: int) -> Reading | None:
        """What these metrics gained from each session's events; the gains' label is `session`."""
        statement = compile_sql(metrics, by_session=True)
        sums = _Sums(statement, metrics)
        sums.add(self._rows(statement, since, until))
        return self._reading(sums, since, until)

    def sessions(self, since: int, until: int) -> list[Session]:
        """The sessions that lived at some time from `since` to `until`, the latest first."""
        rows = self._db.execute(
            "SELECT data FROM sessions WHERE ended_at IS NULL OR ended_at >= ?", (since,)
        )
        decode = msgspec.json.Decoder(Session).decode
        found = [decode(data) for (data,) in rows]
        return sorted(
            (session for session in found if session.started_at < until),
            key=lambda session: (session.started_at, session.id),
            reverse=True,
        )

    def last_recorded(self) -> int | None:
        """When the journal was last added to (UTC ns); None while it is empty."""
        row = self._db.execute("SELECT recorded_at FROM events ORDER BY seq DESC LIMIT 1")
        found = row.fetchone()
        return None if found is None else int(found[0])

    def _rows(self, statement: Statement, since: int, until: int) -> list[tuple[object, ...]]:
        until = min(until, self._now)
        if until <= max(since, self.created_at):
            return []
        try:
            return self._db.execute(statement.sql, (since, until)).fetchall()
        except sqlite3.Error as error:
            raise QueryError(f"cannot read the journal {self.detail}: {error}") from error

    def _reading(self, sums: _Sums, since: int, until: int) -> Reading | None:
        since, until = max(since, self.created_at), min(until, self._now)
        if until <= since:
            return None
        return Reading(since, until, sums.gains(self._label_sets), wide=True)


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
        self._bucket_count = statement.bucket_count
        self._names = names
        self._by_type: list[list[_Column]] = [[] for _ in statement.types]
        for metric in statement.metrics:
            if metric.name not in names:
                continue
            own = [last_inside(bound, metric.scale) for bound in metric.bounds]
            own_bucket = (*(bisect_left(own, bound) for bound in statement.bounds_ns), len(own))
            for feed in metric.feeds:
                total = statement.columns.index(_sum(feed))
                count = statement.columns.index(_count(feed)) if metric.bounds else None
                column = _Column(metric.name, feed.labels, total, count, own_bucket)
                self._by_type[statement.types.index(feed.event)].append(column)
        # By event type, label set, place among the type's columns, and session: total, buckets.
        self._sums: dict[tuple[int, int, int, object], list[int]] = {}

    def add(self, rows: Sequence[tuple[object, ...]]) -> None:
        sums, by_type, types = self._sums, self._by_type, len(self._by_type)
        for session, key, *values in rows:
            rest, bucket = divmod(key, self._bucket_count)  # type: ignore[operator]  # INTEGER
            label_set, kind = divmod(rest, types)
            for place, column in enumerate(by_type[kind]):
                total = values[column.total]
                if total is None:  # none of these events has the value
                    continue
                at = (kind, label_set, place, session)
                found = sums.get(at)
                if found is None:
                    size = 1 if column.count is None else column.own_bucket[-1] + 2
                    found = sums[at] = [0] * size
                found[0] += total  # type: ignore[operator]  # INTEGER
                if column.count is not None:
                    found[1 + column.own_bucket[bucket]] += values[column.count]  # type: ignore[operator]  # INTEGER

    def gains(self, label_sets: Mapping[int, Mapping[str, str]]) -> dict[str, list[Gain]]:
        gains: dict[str, list[Gain]] = {name: [] for name in self._names}
        for (kind, label_set, place, session), (total, *buckets) in self._sums.items():
            column = self._by_type[kind][place]
            labels = {**label_sets[label_set], **column.labels}
            if session is not None:
                labels[SESSION] = str(session)
            gains[column.metric].append(Gain(labels, total, sum(buckets), tuple(buckets)))
        return gains
