"""Roll-ups: what the live events of each quarter of an hour add up to, by label set and by session.

They make a report's cost independent of the number of events, and outlive the events themselves.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from squad_otel.events import NS, SUM_FIELDS, Event, owns_count
from squad_otel.metrics import DURATION_BOUNDS_NS

#: A quarter of an hour, in ns. Midnight is at a quarter's edge in every time zone of today.
QUARTER_NS = 900 * NS

#: What both tables hold of the events of a row: how many they are, how many have a price and a
#: duration, and what they add up to.
SUMS = ("n", "priced", "timed", "duration_ns", *SUM_FIELDS)

#: How many of the durations fall in each bucket; the bounds are those of all histograms together.
BUCKETS = tuple(f"b{i}" for i in range(len(DURATION_BOUNDS_NS) + 1))

#: A sum ends here, whatever producers say (of durations: two years in one row), so that sums of
#: rows stay in SQLite's 64 bits.
MOST = 2**56

_KIND = ("type", "owned", "success")  # success: 1, 0, or -1 where it is not known
_KEY = ("quarter", "labels", *_KIND)
_SESSION_KEY = ("quarter", "session", *_KIND)

_ZEROS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in SUMS)
SCHEMA = f"""
CREATE TABLE rollups (
  quarter INTEGER NOT NULL,             -- occurred_at, in quarters of an hour since 1970
  labels INTEGER NOT NULL REFERENCES label_sets (id),
  type TEXT NOT NULL, owned INTEGER NOT NULL, success INTEGER NOT NULL,
  {_ZEROS},
  {", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in BUCKETS)},
  PRIMARY KEY ({", ".join(_KEY)})
) WITHOUT ROWID;
CREATE TABLE session_rollups (
  quarter INTEGER NOT NULL,
  session TEXT NOT NULL,
  type TEXT NOT NULL, owned INTEGER NOT NULL, success INTEGER NOT NULL,
  {_ZEROS},
  PRIMARY KEY ({", ".join(_SESSION_KEY)})
) WITHOUT ROWID;
CREATE INDEX session_rollups_by_session ON session_rollups (session);
"""


def _upsert(table: str, key: tuple[str, ...], values: tuple[str, ...]) -> str:
    columns = (*key, *values)
    added = ", ".join(f"{name} = min({name} + excluded.{name}, {MOST})" for name in values)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - names from the tables above
        f"VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {added}"
    )


_ADD = _upsert("rollups", _KEY, (*SUMS, *BUCKETS))
_ADD_SUMS = _upsert("rollups", _KEY, SUMS)
_ADD_SESSION = _upsert("session_rollups", _SESSION_KEY, SUMS)


_FIELD_PLACES = tuple((SUMS.index(name), name) for name in SUM_FIELDS)


@dataclass(slots=True)
class Tally:
    """What some events add up to, in the order of SUMS; `buckets` is None without durations."""

    sums: list[int] = field(default_factory=lambda: [0] * len(SUMS))
    buckets: list[int] | None = None

    def add(self, event: Event) -> None:
        """One more event."""
        sums = self.sums
        sums[0] += 1
        duration_ns = event.duration_ns
        if duration_ns is not None:
            sums[2] += 1
            sums[3] += duration_ns
            if self.buckets is None:
                self.buckets = [0] * len(BUCKETS)
            self.buckets[bisect_left(DURATION_BOUNDS_NS, duration_ns)] += 1
        if event.type == "tokens.used":
            fields = event.fields
            sums[1] += "cost_nusd" in fields
            for place, name in _FIELD_PLACES:
                if name in fields:
                    sums[place] += int(fields[name])

    def add_difference(self, before: Event, after: Event) -> None:
        """What a better copy of one event adds to its sums; it is not one event more."""
        for place, name in _FIELD_PLACES:
            self.sums[place] += int(after.fields.get(name, 0)) - int(before.fields.get(name, 0))
        self.sums[1] += ("cost_nusd" in after.fields) - ("cost_nusd" in before.fields)

    def storable(self) -> list[int]:
        """The sums as a row holds them."""
        return [min(amount, MOST) for amount in self.sums]

    def merge(self, other: Tally) -> None:
        """All that another tally holds."""
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        if other.buckets is not None:
            own = self.buckets or [0] * len(BUCKETS)
            self.buckets = [a + b for a, b in zip(own, other.buckets, strict=True)]


#: Type, owned, success: what of an event its roll-ups are kept apart by.
EventKind = tuple[str, bool, int]


def kind(event: Event) -> EventKind:
    """The kind of an event; `success` is -1 where it is not known."""
    return event.type, owns_count(event), -1 if event.success is None else int(event.success)


@dataclass(slots=True)
class Rolled:
    """Tallies on their way into the tables, by quarter, label set or session, and kind."""

    by_labels: dict[tuple[int, int, EventKind], Tally] = field(default_factory=dict)
    by_session: dict[tuple[int, str, EventKind], Tally] = field(default_factory=dict)

    def add(
        self, quarter: int, labels: int, session: str | None, kind: EventKind, tally: Tally
    ) -> None:
        """Put a tally where it belongs."""
        self.by_labels.setdefault((quarter, labels, kind), Tally()).merge(tally)
        if session is not None:
            self.by_session.setdefault((quarter, session, kind), Tally()).merge(tally)

    def store(self, db: sqlite3.Connection) -> None:
        """Add to both tables, inside the caller's transaction."""
        timed, others = [], []
        for (quarter, labels, kind), tally in self.by_labels.items():
            if tally.buckets is None:
                others.append((quarter, labels, *kind, *tally.storable()))
            else:
                timed.append((quarter, labels, *kind, *tally.storable(), *tally.buckets))
        db.executemany(_ADD, timed)
        db.executemany(_ADD_SUMS, others)
        db.executemany(
            _ADD_SESSION,
            [
                (quarter, session, *kind, *tally.storable())
                for (quarter, session, kind), tally in self.by_session.items()
            ],
        )


_EVENT_SUMS = ", ".join(
    (
        "count(*)",
        "count(cost_nusd)",
        "count(duration_ns)",
        *(f"min(coalesce(sum({name}), 0), {MOST})" for name in ("duration_ns", *SUM_FIELDS)),
    )
)
_EDGES = (-1, *DURATION_BOUNDS_NS, 2**63 - 1)
_EVENT_BUCKETS = ", ".join(
    f"count(CASE WHEN duration_ns > {low} AND duration_ns <= {high} THEN 1 END)"
    for low, high in pairwise(_EDGES)
)
_QUARTER = f"occurred_at / {QUARTER_NS}"
_EVENT_KIND = "type, owned, coalesce(success, -1)"


class _BoundedSum:
    """An aggregate of SQLite that ends at 64 bits where its own sum() is an error."""

    def __init__(self) -> None:
        self._total: int | None = None

    def step(self, amount: int | None) -> None:
        if amount is not None:
            self._total = amount + (self._total or 0)

    def finalize(self) -> int | None:
        return None if self._total is None else min(self._total, 2**63 - 1)


def execute_bounded(
    db: sqlite3.Connection, sql: str, values: Sequence[int]
) -> list[tuple[Any, ...]]:
    """All rows of a statement; where sum() overflows it is added up once more, bounded."""
    try:
        return db.execute(sql, values).fetchall()
    except sqlite3.OperationalError as error:
        if "integer overflow" not in str(error):
            raise
    # Somebody reported absurd numbers: slower, but there is an answer.
    db.create_aggregate("bounded_sum", 1, _BoundedSum)  # type: ignore[arg-type]  # None is NULL
    return db.execute(sql.replace("sum(", "bounded_sum("), values).fetchall()


def recount(db: sqlite3.Connection, first: int = 0, last: int = 2**62 // QUARTER_NS) -> None:
    """Make the roll-ups of the quarters from `first` to `last` anew from their live events.

    For quarters whose events are all still there. Inside the caller's transaction.
    """
    live = "state = 'live' AND occurred_at >= ? AND occurred_at < ?"
    since, until = first * QUARTER_NS, (last + 1) * QUARTER_NS
    for table in ("rollups", "session_rollups"):
        db.execute(f"DELETE FROM {table} WHERE quarter BETWEEN ? AND ?", (first, last))  # noqa: S608
    execute_bounded(
        db,
        f"INSERT INTO rollups SELECT {_QUARTER}, labels, {_EVENT_KIND}, {_EVENT_SUMS}, "  # noqa: S608
        f"{_EVENT_BUCKETS} FROM events WHERE {live} GROUP BY 1, 2, 3, 4, 5",
        (since, until),
    )
    execute_bounded(
        db,
        f"INSERT INTO session_rollups SELECT {_QUARTER}, session, {_EVENT_KIND}, {_EVENT_SUMS} "  # noqa: S608
        f"FROM events WHERE {live} AND session IS NOT NULL GROUP BY 1, 2, 3, 4, 5",
        (since, until),
    )
