"""Forgetting: what a person wants removed, from the journal and from the spool."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from squad_otel import retention
from squad_otel.errors import JournalError, QueryError
from squad_otel.events import Event
from squad_otel.retention import Selection
from squad_otel.schema import connect, in_words, journal_path, locked, open_reader
from squad_otel.sessions import Session
from squad_otel.sources.spool import blank

_WAIT_MS = 10_000  # for a daemon that is in the middle of a transaction
_DAEMON_LOOK_S = 2.0
_CLEAN_ATTEMPTS = 10

_decode = msgspec.json.Decoder(Session).decode


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a selection means here: the sessions it is about, events to go, and the pruned past.

    `others` are the sessions that it is not about. `pruned_before` (UTC ns) is where the events
    begin; older ones are in roll-ups only.
    """

    sessions: tuple[Session, ...]
    others: tuple[Session, ...]
    events: int
    pruned_before: int


def find_sessions(home: Path, words: str) -> tuple[str, ...]:
    """The ids of the sessions of this name or id, or whose id begins so (six characters up).

    A word that only events have, whose session never became known, is taken as it is. Raises
    JournalError, QueryError when there is nothing.
    """
    with closing(open_reader(home)) as db:
        known = [_decode(data) for (data,) in db.execute("SELECT data FROM sessions")]
        sql = "SELECT EXISTS (SELECT 1 FROM events WHERE session = ?)"
        (in_events,) = db.execute(sql, (words,)).fetchone()
    found = [s.id for s in known if words in (s.id, s.name)]
    if in_events and words not in found:
        found.append(words)
    if not found and len(words) >= 6:
        found = [s.id for s in known if s.id.startswith(words)]
    if not found:
        raise QueryError(f"no session is called {words!r}: `squad-otel sessions list` has them")
    return tuple(found)


def outlook(home: Path, selection: Selection) -> Outlook:
    """What `forget` would do. Raises JournalError."""
    with closing(open_reader(home)) as db:
        known = [_decode(data) for (data,) in db.execute("SELECT data FROM sessions")]
        meant = tuple(session for session in known if _is_meant(session, selection))
        others = tuple(session for session in known if not _is_meant(session, selection))
        return Outlook(meant, others, retention.count(db, selection), retention.pruned_before(db))


@dataclass(frozen=True, slots=True)
class Removed:
    """What went from the journal, how many spool lines, and whether old pages are still around.

    `traces`: the write-ahead log could not be cleaned, because somebody reads the journal.
    """

    events: int
    sessions: int
    lines: int
    traces: bool


def forget(
    home: Path, selection: Selection, now: int, daemon_look_s: float = _DAEMON_LOOK_S
) -> Removed:
    """Remove it for good. `now` is UTC ns.

    A daemon may run: it reads its memory anew. Raises JournalError when the file is locked for
    long or cannot be written.
    """
    first = _forget_once(home, selection, now)
    if not locked(home):
        return first
    # What the daemon had read from the spool a moment before, it has written by now.
    time.sleep(daemon_look_s)
    again = _forget_once(home, selection, now)
    return Removed(
        first.events + again.events,
        first.sessions + again.sessions,
        first.lines + again.lines,
        again.traces,
    )


def _forget_once(home: Path, selection: Selection, now: int) -> Removed:
    lines = blank(home, _matcher(outlook(home, selection), selection))
    try:
        with closing(connect(journal_path(home), writable=True)) as db:
            db.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
            db.execute("PRAGMA secure_delete = ON")
            with _transaction(db):
                found = retention.forget(db, selection, now)
            return Removed(found.events, found.sessions, lines, not _clean_log(db))
    except sqlite3.Error as error:
        path = journal_path(home)
        raise JournalError(f"cannot write the journal {path}: {in_words(error)}") from error


def _clean_log(db: sqlite3.Connection) -> bool:
    """Empty the write-ahead log, which holds the old pages; False while somebody reads it."""
    db.execute("PRAGMA busy_timeout = 100")  # meanwhile nobody can write
    for _ in range(_CLEAN_ATTEMPTS):
        if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
            return True
        time.sleep(0.2)
    return False


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _is_meant(session: Session, selection: Selection) -> bool:
    if selection.sessions is not None and session.id not in selection.sessions:
        return False
    if selection.repository is not None and session.repository != selection.repository:
        return False
    ended = session.ended_at is None or session.ended_at >= selection.since
    return ended and session.started_at < selection.until


def _matcher(outlook: Outlook, selection: Selection) -> Callable[[Event], bool]:
    """Whether a spool record is selected; it may name its session by id, or by a name."""
    names = {session.name for session in outlook.sessions}
    names -= {session.name for session in outlook.others if session.live}  # those are meant then
    words = {*names, *(session.id for session in outlook.sessions), *(selection.sessions or ())}

    def matches(event: Event) -> bool:
        if not selection.since <= event.occurred_at < selection.until:
            return False
        if selection.sessions is None and selection.repository is None:
            return True
        if event.session in words:
            return True
        return selection.sessions is None and event.repository == selection.repository

    return matches
