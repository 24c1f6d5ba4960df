"""Journal: the durable record of events, and of the series folded from them.

One writer, held by a lock. Events, the series they feed, the sessions and the offsets of what
they came from change in one transaction, so that they agree whatever is killed when.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from squad_otel import retention
from squad_otel.batch import Batch
from squad_otel.errors import JournalError
from squad_otel.events import EVENT_TYPES, NS, SUM_FIELDS, Event, FieldValue, FoldState, owns_count
from squad_otel.metrics import (
    DURATION_BOUNDS_NS,
    LABELS,
    METRICS,
    OTHER,
    UNKNOWN,
    Feed,
    Kind,
    Metric,
    increment,
    label_value,
)
from squad_otel.plain import plain_text
from squad_otel.rollups import (
    QUARTER_NS,
    SUMS,
    EventKind,
    Rolled,
    Tally,
    kind,
)
from squad_otel.schema import connect, in_words, journal_path, lock, prepare
from squad_otel.sessions import Session
from squad_otel.spool import make_private

#: How long an event waits for its session to become known before it counts as unknown.
SESSION_WAIT_NS = 30 * NS

_MAX_LABEL = 100  # characters
_MAX_INTEGER = 2**63 - 1
_DAY_NS = 86400 * NS
_PRUNED_AT_ONCE = 2000

_LABEL_COLUMNS = ", ".join(LABELS)

_EVENT_COLUMNS = (
    "id",
    "type",
    "occurred_at",
    "recorded_at",
    "state",
    "settles_at",
    "folded",
    "labels",
    "owned",
    "source",
    "session",
    "program",
    "repository",
    "branch",
    "duration_ns",
    "success",
    "error_type",
    *SUM_FIELDS,
    "fields",
)
_INSERT_EVENT = (
    f"INSERT INTO events ({', '.join(_EVENT_COLUMNS)}) "  # noqa: S608 - names from the table above
    f"VALUES ({', '.join('?' * len(_EVENT_COLUMNS))})"
)
_SELECT_EVENT = f"SELECT seq, {', '.join(_EVENT_COLUMNS)} FROM events "  # noqa: S608

#: By event type: the fields that are labels, and those that are sums.
_FOLDED_FIELDS = {
    row.name: (
        tuple(name for name in row.fields if name in LABELS),
        tuple(name for name in row.fields if name in SUM_FIELDS),
    )
    for row in EVENT_TYPES.values()
}
_SUMMED = {name for name, (_, sums) in _FOLDED_FIELDS.items() if sums}
_NO_SUMS = (None,) * len(SUM_FIELDS)

_COUNTED = tuple(metric for metric in METRICS if metric.feeds)

#: Where a tally holds what feeds add.
_PLACES = {"1": 0, "duration_ns": SUMS.index("duration_ns")} | {
    name: SUMS.index(name) for name in SUM_FIELDS
}

#: By histogram: which of its own buckets each bucket of a tally belongs to.
_OWN_BUCKETS = {
    metric.name: tuple(
        [bisect_left(metric.bounds_units, bound) for bound in DURATION_BOUNDS_NS]
        + [len(metric.bounds)]
    )
    for metric in _COUNTED
    if metric.bounds
}
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode_session = msgspec.json.Decoder(Session).decode
_decode_fields = msgspec.json.Decoder(dict[str, FieldValue]).decode


@dataclass(slots=True)
class Series:
    """One lifetime series: its labels in the metric's order and its integers.

    `buckets` holds one count a bucket, the last one for what is above all bounds; None on a
    counter. `hold_from` (UTC ns) is when the birth hold began; `released` ends it.
    """

    id: int
    metric: Metric
    labels: tuple[str, ...]
    count: int
    sum: int
    buckets: list[int] | None
    hold_from: int
    released: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One series as it is shown to the outside: zeros while its birth is held."""

    metric: Metric
    labels: tuple[str, ...]
    count: int
    sum: int
    buckets: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch: events new, merged into earlier ones, and known already.

    `overflow` counts labels beyond their budget, `left_out` events by the reason.
    """

    new: int = 0
    merged: int = 0
    known: int = 0
    overflow: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Plan:
    """How events that look alike are folded: their label set, and each series they feed.

    `overflow` names the labels whose value was replaced by `other`.
    """

    labels: int
    kind: EventKind
    steps: list[tuple[Series, str]]
    overflow: tuple[str, ...]


@dataclass(slots=True)
class _Delta:
    count: int = 0
    sum: int = 0
    buckets: list[int] | None = None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the journal holds it: the event, its places in order, and its fold state."""

    seq: int
    folded: int | None
    state: FoldState
    recorded_at: int
    event: Event


class Journal:
    """The writer. Its methods may be called from any thread; each is one transaction."""

    def __init__(self, home: Path, now: int) -> None:
        """Open, or begin, the journal of `home` at `now` (UTC ns).

        Raises JournalBusyError when another process writes it, JournalError when the file is not
        a journal of ours, is newer than this program, or cannot be opened.
        """
        self._mutex = threading.RLock()
        self._stale = False
        make_private(home)
        # Somebody who asks whether a writer runs holds the lock for an instant.
        self._lock_fd: int | None = lock(home / "writer.lock", attempts=10)
        try:
            self._db = connect(journal_path(home), writable=True)
            try:
                prepare(self._db, journal_path(home), now)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock_fd)
            self._lock_fd = None
            raise
        self._path = journal_path(home)
        self._opened_at = now
        try:
            self._reload_or_say()
        except JournalError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and give the lock back."""
        with self._mutex:
            self._db.close()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    # -- what the journal holds ---------------------------------------------------------------

    def sessions(self) -> Mapping[str, Session]:
        """Every session known, by id. The mapping is replaced, not changed, by an append."""
        return self._sessions

    def offsets(self, source: str) -> Mapping[str, str]:
        """How far `source` has read, as it stored it."""
        return self._offsets.get(source, {})

    def shown(self) -> list[Shown]:
        """All lifetime series as they are shown now; what is shown was committed before."""
        with self._mutex:
            return [
                Shown(
                    series.metric,
                    series.labels,
                    series.count if series.released else 0,
                    series.sum if series.released else 0,
                    None
                    if series.buckets is None
                    else tuple(series.buckets if series.released else [0] * len(series.buckets)),
                )
                for series in self._series.values()
            ]

    def size_bytes(self) -> int:
        """Size on disk, write-ahead log included."""
        total = 0
        for suffix in ("", "-wal"):
            try:
                total += Path(f"{self._path}{suffix}").stat().st_size
            except FileNotFoundError:
                continue
        return total

    # -- writing ------------------------------------------------------------------------------

    def append(self, source: str, batch: Batch, now: int) -> Appended:
        """Commit a batch: events folded, sessions and offsets stored. All of it, or nothing."""
        with self._mutex, self._transaction():
            self._store_sessions(batch.sessions)
            result = self._store_events(batch.events, now, reread=source != "spool")
            self._settle(now)
            for name, value in batch.offsets.items():
                self._store_offset(source, name, value)
            self._store_series()
        return result

    def settle(self, now: int) -> None:
        """Fold the pending events whose deadline has passed or whose session became known."""
        with self._mutex:
            if not self._pending:
                return
            with self._transaction():
                self._settle(now)
                self._store_series()

    def release(self, now: int, hold_ns: int) -> int:
        """End the birth hold of the series held for `hold_ns` or longer; returns how many.

        The release is committed before any reader sees the series' value.
        """
        with self._mutex:

            def ripe() -> list[Series]:
                return [s for s in self._held.values() if now - s.hold_from >= hold_ns]

            if not ripe():
                return 0
            with self._transaction():
                due = ripe()  # what was held may have been read again since
                self._db.executemany(
                    "UPDATE series SET released_at = ? WHERE id = ?", [(now, s.id) for s in due]
                )
            for series in due:
                series.released = True
                del self._held[series.id]
            return len(due)

    def prune(self, now: int, keep_ns: int, size_bytes: int) -> int:
        """Delete some of the oldest events, if there are any too many; returns how many.

        Too many are those older than `keep_ns`, and the oldest beyond a size of `size_bytes`, but
        none of the last day; 0 is no limit. Called again and again it deletes all of them, in
        transactions of about 2,000. Roll-ups and lifetime totals stay.
        """
        with self._mutex, self._in_words():
            before = now - keep_ns if keep_ns else 0
            if size_bytes and retention.used_bytes(self._db) > size_bytes:
                before = max(before, now - _DAY_NS)
            old = "SELECT 1 FROM events WHERE occurred_at < ? AND state != 'pending' LIMIT 1"
            if self._db.execute(old, (before - before % QUARTER_NS,)).fetchone() is None:
                return 0
            with self._transaction():
                deleted = retention.prune(self._db, before, _PRUNED_AT_ONCE)
            self._pruned_before = retention.pruned_before(self._db)
        return deleted

    def usage(self, session: str) -> tuple[int, int | None] | None:
        """Tokens of all kinds and cost (nano-USD, None: unknown) of a session; None: no answer."""
        with self._mutex, self._in_words():
            # total() cannot overflow; a gauge is a float in the end.
            count, tokens, priced, cost = self._db.execute(
                "SELECT count(*), total(input_tokens + output_tokens + cache_read_tokens "
                "+ cache_creation_tokens), sum(priced), total(cost_nusd) FROM session_rollups "
                "WHERE session = ? AND type = 'tokens.used'",
                (session,),
            ).fetchone()
        return (int(tokens), int(cost) if priced else None) if count else None

    def cursor(self, name: str) -> int:
        """The fold number up to which the reader `name` is done; 0 at first."""
        with self._mutex, self._in_words():
            row = self._db.execute("SELECT folded FROM cursors WHERE name = ?", (name,)).fetchone()
            return int(row[0]) if row else 0

    def move_cursor(self, name: str, folded: int) -> None:
        """Remember that the reader `name` is done up to and with fold number `folded`."""
        with self._mutex, self._transaction():
            self._db.execute(
                "INSERT INTO cursors VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET folded = excluded.folded",
                (name, folded),
            )

    def folded_after(self, folded: int, limit: int) -> list[StoredEvent]:
        """Up to `limit` live events in the order of their folding, after number `folded`."""
        with self._mutex, self._in_words():
            rows = self._db.execute(
                _SELECT_EVENT + "WHERE folded > ? ORDER BY folded LIMIT ?", (folded, limit)
            )
            return [stored_event(row) for row in rows]

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"cannot read the journal {self._path}: {in_words(error)}"
            ) from error

    # -- inside a transaction -----------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._stale:
            self._reload_or_say()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._others_changes() != self._seen_changes:  # somebody had something forgotten
                self._reload()
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            # What is in memory may be ahead of the file now: read it again, before anything else.
            self._stale = True
            with suppress(JournalError):
                self._reload_or_say()
            if isinstance(error, sqlite3.Error):
                raise JournalError(
                    f"cannot write the journal {self._path}: {in_words(error)}"
                ) from error
            raise
        self._commit_memory()

    def _reload_or_say(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._reload()
        except sqlite3.Error as error:
            raise JournalError(
                f"cannot read the journal {self._path}: {in_words(error)}"
            ) from error

    def _others_changes(self) -> int:
        """A number that changes when another process wrote to the file."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _reload(self) -> None:
        db = self._db
        self._seen_changes = self._others_changes()
        meta = dict(db.execute("SELECT key, value FROM meta"))
        self.id: str = meta["id"]
        self.created_at = int(meta["created_at"])
        self._sessions: dict[str, Session] = {
            key: _decode_session(data) for key, data in db.execute("SELECT id, data FROM sessions")
        }
        self._offsets: dict[str, dict[str, str]] = {}
        for source, name, value in db.execute("SELECT source, name, value FROM offsets"):
            self._offsets.setdefault(source, {})[name] = value
        self._label_sets: dict[tuple[str, ...], int] = {
            tuple(values): key
            for key, *values in db.execute(f"SELECT id, {_LABEL_COLUMNS} FROM label_sets")  # noqa: S608
        }
        self._values: dict[str, set[str]] = {name: set() for name in LABELS}
        for values in self._label_sets:
            for name, value in zip(LABELS, values, strict=True):
                self._values[name].add(value)
        for used in self._values.values():
            used -= {OTHER, UNKNOWN, ""}
        by_name = {metric.name: metric for metric in _COUNTED}
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        for key, name, labels, born_at, released_at, count, total, buckets in db.execute(
            "SELECT id, metric, labels, born_at, released_at, count, sum, buckets FROM series"
        ):
            metric = by_name.get(name)
            if metric is None:  # a metric that an older version had
                continue
            values = tuple(json.loads(labels).values())
            self._series[name, values] = Series(
                key,
                metric,
                values,
                count,
                total,
                None if buckets is None else json.loads(buckets),
                max(born_at, self._opened_at),
                released_at is not None,
            )
        self._held = {s.id: s for s in self._series.values() if not s.released}
        self._pending = {
            row[1]: stored_event(row)
            for row in db.execute(_SELECT_EVENT + "WHERE state = 'pending' ORDER BY seq")
        }
        self._next_fold = 1 + retention.last_folded(db)
        self._pruned_before = retention.pruned_before(db)
        self._forgotten = {key for (key,) in db.execute("SELECT id FROM forgotten")}
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._ids_by_name: dict[str, set[str]] = {}
        for session in self._sessions.values():
            self._ids_by_name.setdefault(session.name, set()).add(session.id)
        self._forget_changes()
        self._stale = False

    def _forget_changes(self) -> None:
        self._tallies: dict[tuple[_Plan, int, str | None], Tally] = {}
        self._deltas: dict[tuple[str, tuple[str, ...]], _Delta] = {}
        self._new_sessions: dict[str, Session] = {}
        self._new_offsets: list[tuple[str, str, str | None]] = []
        self._new_pending: dict[str, StoredEvent] = {}
        self._no_longer_pending: set[str] = set()
        self._overflow: dict[str, int] = {}

    def _commit_memory(self) -> None:
        """The transaction is on disk: now the outside may see it."""
        for key, delta in self._deltas.items():
            series = self._series[key]
            series.count += delta.count
            series.sum = min(series.sum + delta.sum, _MAX_INTEGER)
            if series.buckets is not None and delta.buckets is not None:
                series.buckets = [a + b for a, b in zip(series.buckets, delta.buckets, strict=True)]
        if self._new_sessions:
            self._sessions = {**self._sessions, **self._new_sessions}
        for source, name, value in self._new_offsets:
            known = self._offsets.setdefault(source, {})
            if value is None:
                known.pop(name, None)
            else:
                known[name] = value
        self._pending.update(self._new_pending)
        for key_id in self._no_longer_pending:
            self._pending.pop(key_id, None)
        self._forget_changes()

    def _session(self, key: str) -> Session | None:
        return self._new_sessions.get(key) or self._sessions.get(key)

    def _store_sessions(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self._new_sessions[session.id] = session
            self._ids_by_name.setdefault(session.name, set()).add(session.id)

    def _store_offset(self, source: str, name: str, value: str | None) -> None:
        self._new_offsets.append((source, name, value))
        if value is None:
            self._db.execute("DELETE FROM offsets WHERE source = ? AND name = ?", (source, name))
        else:
            self._db.execute(
                "INSERT INTO offsets VALUES (?, ?, ?) "
                "ON CONFLICT (source, name) DO UPDATE SET value = excluded.value",
                (source, name, value),
            )

    def _store_events(self, events: Sequence[Event], now: int, reread: bool) -> Appended:
        """Insert, merge or know each event; `reread`: their source may read old things again."""
        fresh: dict[str, Event] = {}
        merged = known = gone = conflicts = 0
        stored = self._stored([event.id for event in events])
        for event in events:
            earlier = stored.get(event.id)
            if earlier is None and reread and self._is_gone(event):
                gone += 1
            elif earlier is not None and earlier.event.type != event.type:
                conflicts += 1
            elif earlier is not None:
                better = self._merge_stored(earlier, event, now)
                if better is None:
                    known += 1
                else:
                    stored[event.id] = better
                    merged += 1
            elif event.id in fresh:
                grown = _merge(fresh[event.id], event)
                known += 1
                if grown is not None:
                    fresh[event.id] = grown
            else:
                fresh[event.id] = event
        rows = [self._row(event, now) for event in fresh.values()]
        self._db.executemany(_INSERT_EVENT, rows)
        left_out = {"removed_before": gone, "id_of_another_type": conflicts}
        return Appended(len(fresh), merged, known, dict(self._overflow), left_out)

    def _is_gone(self, event: Event) -> bool:
        """Whether an event that is read again was here and was pruned or forgotten."""
        if event.occurred_at < self._pruned_before:
            return True
        return bool(self._forgotten) and retention.fingerprint(event.id) in self._forgotten

    def _stored(self, ids: Sequence[str]) -> dict[str, StoredEvent]:
        found: dict[str, StoredEvent] = {}
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            marks = ",".join("?" * len(part))
            for row in self._db.execute(_SELECT_EVENT + f"WHERE id IN ({marks})", part):
                found[row[1]] = stored_event(row)
        return found

    def _row(self, event: Event, now: int) -> tuple[object, ...]:
        """The row of a new event; folds it, unless it is history or has to wait."""
        event, resolved = self._resolve(event, now)
        labels = folded = None
        if event.occurred_at < self.created_at:
            state = FoldState.HISTORY
            bounded, _ = self._bounded(event)
            labels = self._label_set(tuple(bounded.values()))
        elif not resolved or (event.settles_at or 0) > now:
            state = FoldState.PENDING
            self._new_pending[event.id] = StoredEvent(0, None, state, now, event)
        else:
            state = FoldState.LIVE
            labels, folded = self._fold(event, now)
        return _event_row(event, now, state, folded, labels)

    def _resolve(self, event: Event, now: int) -> tuple[Event, bool]:
        """Fill in what the event's session knows; False when the session is not known yet."""
        if event.session is None:
            return event, True
        session = self._session(event.session) or self._by_name(event.session)
        if session is None:
            return event, event.program is not None
        self._touch(session, min(event.occurred_at, now))
        return (
            msgspec.structs.replace(
                event,
                session=session.id,
                program=session.program,
                repository=session.repository,
                branch=event.branch or session.branch,
            ),
            True,
        )

    def _touch(self, session: Session, at: int) -> None:
        if session.live and at > session.last_activity:
            self._new_sessions[session.id] = msgspec.structs.replace(session, last_activity=at)

    def _by_name(self, name: str) -> Session | None:
        """The session with this name: a live one first, else the one that began last."""
        found = [self._session(key) for key in self._ids_by_name.get(name, ())]
        matches = [session for session in found if session is not None and session.name == name]
        return max(matches, key=lambda s: (s.live, s.started_at), default=None)

    def _settle(self, now: int) -> None:
        for stored in list({**self._pending, **self._new_pending}.values()):
            event, resolved = self._resolve(stored.event, now)
            waits_until = event.settles_at or 0
            if not resolved:
                waits_until = max(waits_until, stored.recorded_at + SESSION_WAIT_NS)
            if waits_until > now:
                continue
            labels, folded = self._fold(event, now)
            row = _event_row(event, stored.recorded_at, FoldState.LIVE, folded, labels)
            self._update_event(row)
            self._no_longer_pending.add(event.id)

    def _update_event(self, row: tuple[object, ...]) -> None:
        names = ", ".join(f"{name} = ?" for name in _EVENT_COLUMNS[1:])
        self._db.execute(f"UPDATE events SET {names} WHERE id = ?", (*row[1:], row[0]))  # noqa: S608

    def _merge_stored(self, earlier: StoredEvent, event: Event, now: int) -> StoredEvent | None:
        """Merge a better copy into a stored event; folds the difference if that was folded."""
        if earlier.state is FoldState.LIVE and "cost_nusd" not in earlier.event.fields:
            # It was counted as one whose price is not known, and stays so.
            fields = {k: v for k, v in event.fields.items() if k != "cost_nusd"}
            event = msgspec.structs.replace(event, fields=fields)
        grown = _merge(earlier.event, event)
        if grown is None:
            return None
        sums = ", ".join(f"{name} = ?" for name in SUM_FIELDS)
        values = [grown.fields.get(name) for name in SUM_FIELDS]
        self._db.execute(f"UPDATE events SET {sums} WHERE id = ?", (*values, grown.id))  # noqa: S608
        better = StoredEvent(earlier.seq, earlier.folded, earlier.state, earlier.recorded_at, grown)
        if earlier.state is FoldState.PENDING:
            self._new_pending[grown.id] = better
        elif earlier.state is FoldState.LIVE:
            self._fold_difference(earlier.event, grown, now)
        return better

    # -- folding ------------------------------------------------------------------------------

    def _fold(self, event: Event, now: int) -> tuple[int, int]:
        """Add an event to its tally; returns its label set and its fold number."""
        plan = self._plan(event, now)
        self._tally(plan, event).add(event)
        if plan.overflow:
            for name in plan.overflow:
                self._overflow[name] = self._overflow.get(name, 0) + 1
        number = self._next_fold
        self._next_fold += 1
        return plan.labels, number

    def _fold_difference(self, before: Event, after: Event, now: int) -> None:
        plan = self._plan(after, now)  # a sum that `before` had not may need a series of its own
        self._tally(plan, after).add_difference(before, after)

    def _tally(self, plan: _Plan, event: Event) -> Tally:
        key = (plan, event.occurred_at // QUARTER_NS, event.session)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def _add(self, series: Series, value: str, tally: Tally) -> None:
        """Add what a tally holds of `value` to a series."""
        key = (series.metric.name, series.labels)
        delta = self._deltas.get(key)
        if delta is None:
            delta = self._deltas[key] = _Delta()
        delta.sum += tally.sums[_PLACES[value]]
        delta.count += tally.sums[0]
        if series.buckets is not None and tally.buckets is not None:
            if delta.buckets is None:
                delta.buckets = [0] * len(series.buckets)
            for own, number in zip(_OWN_BUCKETS[series.metric.name], tally.buckets, strict=True):
                delta.buckets[own] += number

    def _plan(self, event: Event, now: int) -> _Plan:
        fields = event.fields
        labels, sums = _FOLDED_FIELDS.get(event.type, ((), ()))
        key = (
            event.type,
            event.program,
            event.repository,
            event.success,
            event.error_type,
            event.source == "git",  # with type and success it says who owns the count
            event.duration_ns is None,
            *map(fields.get, labels),
            *map(fields.__contains__, sums),
        )
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._new_plan(event, now)
            if len(self._plans) > 50_000:  # values beyond their budget could grow it for ever
                self._plans = {key: plan}
        return plan

    def _new_plan(self, event: Event, now: int) -> _Plan:
        bounded, overflow = self._bounded(event)
        steps = [
            (self._series_for(metric, feed, bounded, now), feed.value)
            for metric in _COUNTED
            for feed in metric.feeds
            if increment(feed, event) is not None
        ]
        labels = self._label_set(tuple(bounded.values()))
        return _Plan(labels, kind(event), steps, overflow)

    def _bounded(self, event: Event) -> tuple[dict[str, str], tuple[str, ...]]:
        """The event's value of each label within its budget, and the labels beyond it."""
        constants = _constants(event)
        bounded: dict[str, str] = {}
        overflow: list[str] = []
        for name, label in LABELS.items():
            value = ""
            if _carries(event, name, constants):
                value = plain_text(label_value(name, event, constants), _MAX_LABEL)
                used = self._values[name]
                if value not in used and value not in (UNKNOWN, OTHER, ""):
                    if len(used) < label.budget:
                        used.add(value)
                    else:
                        value = OTHER
                        overflow.append(name)
            bounded[name] = value
        return bounded, tuple(overflow)

    def _label_set(self, values: tuple[str, ...]) -> int:
        key = self._label_sets.get(values)
        if key is None:
            marks = ", ".join("?" * len(values))
            statement = f"INSERT INTO label_sets ({_LABEL_COLUMNS}) VALUES ({marks})"  # noqa: S608
            key = self._db.execute(statement, values).lastrowid
            assert key is not None
            self._label_sets[values] = key
        return key

    def _series_for(
        self, metric: Metric, feed: Feed, bounded: Mapping[str, str], now: int
    ) -> Series:
        labels = tuple(feed.labels.get(name, bounded.get(name, UNKNOWN)) for name in metric.labels)
        series = self._series.get((metric.name, labels))
        if series is None:
            buckets = [0] * (len(metric.bounds) + 1) if metric.kind is Kind.HISTOGRAM else None
            named = dict(zip(metric.labels, labels, strict=True))
            key = self._db.execute(
                "INSERT INTO series (metric, labels, born_at, count, sum, buckets) "
                "VALUES (?, ?, ?, 0, 0, ?)",
                (metric.name, json.dumps(named), now, None if buckets is None else "[]"),
            ).lastrowid
            assert key is not None
            series = Series(key, metric, labels, 0, 0, buckets, now, released=False)
            self._series[metric.name, labels] = series
            self._held[key] = series
            self._deltas.setdefault((metric.name, labels), _Delta())
        return series

    def _store_series(self) -> None:
        rolled = Rolled()
        for (plan, quarter, session), tally in self._tallies.items():
            for series, value in plan.steps:
                self._add(series, value, tally)
            rolled.add(quarter, plan.labels, session, plan.kind, tally)
        rolled.store(self._db)
        rows = []
        for key, delta in self._deltas.items():
            series = self._series[key]
            buckets = series.buckets
            if buckets is not None and delta.buckets is not None:
                buckets = [a + b for a, b in zip(buckets, delta.buckets, strict=True)]
            rows.append(
                (
                    series.count + delta.count,
                    min(series.sum + delta.sum, _MAX_INTEGER),
                    None if buckets is None else json.dumps(buckets),
                    series.id,
                )
            )
        self._db.executemany("UPDATE series SET count = ?, sum = ?, buckets = ? WHERE id = ?", rows)
        self._db.executemany(
            "INSERT INTO sessions VALUES (?, ?, ?) ON CONFLICT (id) "
            "DO UPDATE SET ended_at = excluded.ended_at, data = excluded.data",
            [(s.id, s.ended_at, _encode(s).decode()) for s in self._new_sessions.values()],
        )


def _constants(event: Event) -> dict[str, str]:
    """The labels that a feed fixes for this event and that reports group by too."""
    fixed: dict[str, str] = {}
    for metric in _COUNTED:
        for feed in metric.feeds:
            if feed.labels and increment(feed, event) is not None:
                fixed.update({k: v for k, v in feed.labels.items() if k in LABELS})
    return fixed


def _carries(event: Event, name: str, constants: Mapping[str, str]) -> bool:
    """Whether any metric fed by this event has the label `name`."""
    return name in constants or any(
        name in metric.labels and feed.event == event.type
        for metric in _COUNTED
        for feed in metric.feeds
    )


def _merge(earlier: Event, later: Event) -> Event | None:
    """The event with each sum raised to the larger of both; None when nothing grows."""
    grown = {
        name: int(later.fields[name])
        for name in SUM_FIELDS
        if name in later.fields and int(later.fields[name]) > int(earlier.fields.get(name, -1))
    }
    final = earlier.settles_at is not None and later.settles_at is None
    if not grown and not final:
        return None
    return msgspec.structs.replace(
        earlier,
        fields={**earlier.fields, **grown},
        settles_at=None if final else earlier.settles_at,
    )


def _event_row(
    event: Event,
    recorded_at: int,
    state: FoldState,
    folded: int | None,
    labels: int | None,
) -> tuple[object, ...]:
    fields = event.fields
    sums: tuple[FieldValue | None, ...] = _NO_SUMS
    rest = fields
    if event.type in _SUMMED:
        sums = tuple([fields.get(name) for name in SUM_FIELDS])
        rest = {name: value for name, value in fields.items() if name not in SUM_FIELDS}
    return (
        event.id,
        event.type,
        event.occurred_at,
        recorded_at,
        state.value,
        event.settles_at if state is FoldState.PENDING else None,
        folded,
        labels,
        owns_count(event),
        event.source,
        event.session,
        event.program,
        event.repository,
        event.branch,
        event.duration_ns,
        event.success,
        event.error_type,
        *sums,
        _encode(rest).decode(),
    )


def stored_event(row: Sequence[object]) -> StoredEvent:
    """A row of `SELECT seq, <event columns>` as an event."""
    values = dict(zip(("seq", *_EVENT_COLUMNS), row, strict=True))
    fields = _decode_fields(values["fields"])  # type: ignore[arg-type]  # TEXT column
    fields.update({n: values[n] for n in SUM_FIELDS if values[n] is not None})  # type: ignore[misc]  # INTEGER columns
    event = msgspec.convert(
        {
            **{k: v for k, v in values.items() if k in Event.__struct_fields__},
            "success": None if values["success"] is None else bool(values["success"]),
            "fields": fields,
        },
        Event,
    )
    recorded_at = values["recorded_at"]
    folded = values["folded"]
    seq = values["seq"]
    assert isinstance(recorded_at, int)
    assert isinstance(seq, int)
    assert folded is None or isinstance(folded, int)
    return StoredEvent(seq, folded, FoldState(str(values["state"])), recorded_at, event)
