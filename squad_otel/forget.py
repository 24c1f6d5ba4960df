"""Forgetting: what a person wants removed, from the journal and from the spool."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from squad_otel import retention
from squad_otel.errors import JournalError, QueryError
from squad_otel.events import Event
from squad_otel.retention import Forgotten, Selection
from squad_otel.schema import connect, journal_path, open_reader
from squad_otel.sessions import Session
from squad_otel.sources.spool import blank

_WAIT_MS = 10_000  # for a daemon that is in the middle of a transaction

_decode = msgspec.json.Decoder(Session).decode


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a selection means here: the sessions it is about, events to go, and the pruned past.

    `pruned_before` (UTC ns) is where the events begin; older ones are in roll-ups only.
    """

    sessions: tuple[Session, ...]
    events: int
    pruned_before: int


def find_sessions(home: Path, words: str) -> list[Session]:
    """The sessions that have this name, this id, or an id that begins so (six characters up).

    Raises JournalError, QueryError when there is none.
    """
    with closing(open_reader(home)) as db:
        known = [_decode(data) for (data,) in db.execute("SELECT data FROM sessions")]
    found = [s for s in known if words in (s.id, s.name)]
    if not found and len(words) >= 6:
        found = [s for s in known if s.id.startswith(words)]
    if not found:
        raise QueryError(f"no session is called {words!r}: `squad-otel sessions list` has them")
    return found


def outlook(home: Path, selection: Selection) -> Outlook:
    """What `forget` would do. Raises JournalError."""
    with closing(open_reader(home)) as db:
        known = [_decode(data) for (data,) in db.execute("SELECT data FROM sessions")]
        meant = tuple(session for session in known if _is_meant(session, selection))
        return Outlook(meant, retention.count(db, selection), retention.pruned_before(db))


def forget(home: Path, selection: Selection) -> tuple[Forgotten, int]:
    """Remove it for good; returns what went from the journal, and how many spool lines.

    A daemon may run: it reads the journal again. Raises JournalError when the file is locked for
    long or cannot be written.
    """
    meant = outlook(home, selection).sessions
    # The spool first: what a daemon reads from it meanwhile is in the journal afterwards.
    lines = blank(home, _matcher(meant, selection))
    try:
        with closing(connect(journal_path(home), writable=True)) as db:
            db.execute(f"PRAGMA busy_timeout = {_WAIT_MS}")
            db.execute("PRAGMA secure_delete = ON")
            with _transaction(db):
                found = retention.forget(db, selection)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log holds the old pages
    except sqlite3.Error as error:
        raise JournalError(f"cannot write the journal {journal_path(home)}: {error}") from error
    return found, lines


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


def _matcher(meant: tuple[Session, ...], selection: Selection) -> Callable[[Event], bool]:
    """Whether a spool record is selected; it may name its session by id or by name."""
    words = {word for session in meant for word in (session.id, session.name)}

    def matches(event: Event) -> bool:
        if not selection.since <= event.occurred_at < selection.until:
            return False
        if selection.sessions is None and selection.repository is None:
            return True
        if event.session in words:
            return True
        return selection.sessions is None and event.repository == selection.repository

    return matches
