"""Removing events from the journal: the oldest ones, and what a person wants forgotten.

Lifetime totals are never touched. Every function works inside the caller's transaction.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from squad_otel.rollups import QUARTER_NS, recount


def used_bytes(db: sqlite3.Connection) -> int:
    """What the journal's pages hold, without those that are free for use again."""
    pages, free, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def pruned_before(db: sqlite3.Connection) -> int:
    """Events before it (UTC ns, the edge of a quarter of an hour) were pruned; 0: none were."""
    row = db.execute("SELECT value FROM meta WHERE key = 'pruned_before'").fetchone()
    return int(row[0]) if row else 0


def prune(db: sqlite3.Connection, before: int, limit: int) -> int:
    """Delete the oldest events that occurred before `before` (UTC ns); returns how many.

    Whole quarters of an hour, so many that about `limit` events go at once. Their roll-ups stay.
    What is still pending stays, too, and so do the sessions: a report of old days names them.
    """
    end = before - before % QUARTER_NS
    row = db.execute(
        "SELECT occurred_at FROM events WHERE occurred_at < ? ORDER BY occurred_at "
        "LIMIT 1 OFFSET ?",
        (end, limit),
    ).fetchone()
    if row is not None:
        end = min(end, (row[0] // QUARTER_NS + 1) * QUARTER_NS)
    _keep_fold_number(db)
    old = "occurred_at < ? AND state != 'pending'"
    newest = db.execute(f"SELECT max(occurred_at) FROM events WHERE {old}", (end,)).fetchone()[0]  # noqa: S608
    if newest is None:
        return 0
    # Not `end`: what happened after the newest one that goes was not here, and may still come.
    _set(db, "pruned_before", max((newest // QUARTER_NS + 1) * QUARTER_NS, pruned_before(db)))
    return db.execute(f"DELETE FROM events WHERE {old}", (end,)).rowcount  # noqa: S608


#: Events of sources that may read the same thing again; a spool is read once.
_REREAD = "source NOT IN ('track', 'exec', 'daemon', 'forget')"
_REPOSITORY = "json_extract(data, '$.repository') = ?"


@dataclass(frozen=True, slots=True)
class Selection:
    """What is to be forgotten: all conditions given must hold.

    `sessions` are ids, `repository` is a name, `since` (inclusive) and `until` are UTC ns.
    """

    sessions: Sequence[str] | None = None
    repository: str | None = None
    since: int = 0
    until: int = 2**62


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much was removed."""

    events: int
    sessions: int


def count(db: sqlite3.Connection, selection: Selection) -> int:
    """How many events `forget` would remove."""
    where, values = _events_where(selection)
    found: int = db.execute(f"SELECT count(*) FROM events WHERE {where}", values).fetchone()[0]  # noqa: S608
    return found


def forget(db: sqlite3.Connection, selection: Selection, now: int) -> Forgotten:
    """Remove the events selected, what roll-ups hold of them, and sessions that ended.

    Where events were pruned, roll-ups are all there is: those of a session lose its name (what
    it adds to its repository's stays), those of a time go by whole quarters of an hour.
    """
    horizon = pruned_before(db)
    where, values = _events_where(selection)
    ids = db.execute(f"SELECT id FROM events WHERE {where} AND {_REREAD}", values)  # noqa: S608
    hashes = [(fingerprint(key),) for (key,) in ids]
    db.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", hashes)
    quarters = db.execute(
        f"SELECT DISTINCT occurred_at / {QUARTER_NS} FROM events "  # noqa: S608
        f"WHERE {where} AND occurred_at >= ?",
        (*values, horizon),
    ).fetchall()
    _forget_pruned(db, selection, horizon)
    _keep_fold_number(db)
    last = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
    events = db.execute(f"DELETE FROM events WHERE {where}", values).rowcount  # noqa: S608
    for (quarter,) in quarters:
        recount(db, quarter, quarter)
    if events:
        _note(db, last + 1, now)
    return Forgotten(events, _forget_sessions(db, selection))


def fingerprint(event_id: str) -> int:
    """What is kept of the id of a forgotten event."""
    return int.from_bytes(hashlib.sha256(event_id.encode()).digest()[:8], "big", signed=True)


def _note(db: sqlite3.Connection, seq: int, now: int) -> None:
    """An event that says that others were removed; it also keeps their places from coming again."""
    db.execute(
        "INSERT INTO events "
        "(seq, id, type, occurred_at, recorded_at, state, owned, source, fields) "
        "VALUES (?, ?, 'system.forget', ?, ?, 'history', 1, 'forget', '{}')",
        (seq, f"forget:{secrets.token_hex(8)}", now, now),
    )


def _where(
    selection: Selection,
    time: str = "occurred_at",
    unit: int = 1,
    session: str = "session",
    repository: str = "repository = ?",
) -> tuple[str, list[object]]:
    """SQL and its parameters; `time` is a column in `unit` ns, rounded outwards."""
    parts, values = [f"{time} >= ?", f"{time} < ?"], [selection.since // unit]
    values.append(-(-selection.until // unit))
    found: list[object] = list(values)
    if selection.sessions is not None:
        parts.append(f"{session} IN ({', '.join('?' * len(selection.sessions))})")
        found += selection.sessions
    if selection.repository is not None:
        parts.append(repository)
        found.append(selection.repository)
    return " AND ".join(parts), found


def _events_where(selection: Selection) -> tuple[str, list[object]]:
    where, values = _where(selection)
    return f"{where} AND source != 'forget'", values  # the notes of earlier times stay


def _forget_sessions(db: sqlite3.Connection, selection: Selection) -> int:
    """The sessions of which nothing is left: they ended, and lived wholly in the time selected."""
    where, values = _where(
        selection, "json_extract(data, '$.started_at')", session="id", repository=_REPOSITORY
    )
    sql = f"DELETE FROM sessions WHERE {where} AND ended_at < ?"  # noqa: S608 - our own words
    return db.execute(sql, (*values, selection.until)).rowcount


def _forget_pruned(db: sqlite3.Connection, selection: Selection, horizon: int) -> None:
    """Roll-ups whose events are gone already."""
    known = f"session IN (SELECT id FROM sessions WHERE {_REPOSITORY})"  # noqa: S608 - our own words
    where, values = _where(selection, "quarter", QUARTER_NS, repository=known)
    values.append(horizon // QUARTER_NS)
    db.execute(f"DELETE FROM session_rollups WHERE {where} AND quarter < ?", values)  # noqa: S608
    if selection.sessions is None:
        labels = "labels IN (SELECT id FROM label_sets WHERE repository = ?)"
        where, values = _where(selection, "quarter", QUARTER_NS, repository=labels)
        values.append(horizon // QUARTER_NS)
        db.execute(f"DELETE FROM rollups WHERE {where} AND quarter < ?", values)  # noqa: S608


def last_folded(db: sqlite3.Connection) -> int:
    """The last fold number that was given, whatever was removed since; 0: none was."""
    sql = "SELECT folded FROM events WHERE folded IS NOT NULL ORDER BY folded DESC LIMIT 1"
    found = db.execute(sql).fetchone()  # by its index
    last = int(found[0]) if found else 0
    row = db.execute("SELECT value FROM meta WHERE key = 'folded'").fetchone()
    return max(last, int(row[0]) if row else 0)


def _keep_fold_number(db: sqlite3.Connection) -> None:
    """Remember the last fold number: readers' cursors count with it, so none is given twice."""
    _set(db, "folded", last_folded(db))


def _set(db: sqlite3.Connection, key: str, value: int) -> None:
    db.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, str(value)),
    )
