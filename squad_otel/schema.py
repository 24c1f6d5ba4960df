"""The journal's file: its schema, the migrations to it, its lock, and how it is opened."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from squad_otel import rollups
from squad_otel.errors import JournalBusyError, JournalError
from squad_otel.events import NS, SUM_FIELDS
from squad_otel.metrics import LABELS

APPLICATION_ID = 0x5351_4F54  # "SQOT"

_LABEL_COLUMNS = ", ".join(LABELS)

#: Schema version 1. What came later is a step of its own below.
_SCHEMA_1 = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE label_sets (
  id INTEGER PRIMARY KEY,
  {", ".join(f"{name} TEXT NOT NULL" for name in LABELS)},
  UNIQUE ({_LABEL_COLUMNS})
);
CREATE TABLE events (
  seq INTEGER PRIMARY KEY,              -- order of arrival
  id TEXT NOT NULL UNIQUE,
  type TEXT NOT NULL,
  occurred_at INTEGER NOT NULL,         -- UTC ns, as are all times
  recorded_at INTEGER NOT NULL,
  state TEXT NOT NULL,                  -- pending, live, history
  settles_at INTEGER,                   -- while pending: when no better copy can come
  folded INTEGER,                       -- order of folding: what cursors count
  labels INTEGER REFERENCES label_sets (id),
  owned INTEGER NOT NULL,
  source TEXT NOT NULL,
  session TEXT,
  program TEXT, repository TEXT, branch TEXT,
  duration_ns INTEGER, success INTEGER, error_type TEXT,
  {", ".join(f"{name} INTEGER" for name in SUM_FIELDS)},
  fields TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (occurred_at);
CREATE INDEX events_by_session ON events (session, type) WHERE session IS NOT NULL;
CREATE UNIQUE INDEX events_by_fold ON events (folded) WHERE folded IS NOT NULL;
CREATE INDEX events_pending ON events (seq) WHERE state = 'pending';
CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  metric TEXT NOT NULL,
  labels TEXT NOT NULL,                 -- JSON object, keys in the metric's order
  born_at INTEGER NOT NULL,
  released_at INTEGER,                  -- NULL: still shown as 0
  count INTEGER NOT NULL,
  sum INTEGER NOT NULL,
  buckets TEXT,                         -- JSON array, one count a bucket, not cumulative
  UNIQUE (metric, labels)
);
CREATE TABLE sessions (id TEXT PRIMARY KEY, ended_at INTEGER, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE offsets (
  source TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (source, name)
) WITHOUT ROWID;
CREATE TABLE cursors (name TEXT PRIMARY KEY, folded INTEGER NOT NULL) WITHOUT ROWID;
"""


def _begin(db: sqlite3.Connection, now: int) -> None:
    """Version 1: an empty journal."""
    _run(db, _SCHEMA_1)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    # Reflogs have whole seconds: the journal begins with the second it was made in.
    db.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [("id", secrets.token_hex(4)), ("created_at", str(now - now % NS))],
    )


def _add_rollups(db: sqlite3.Connection, _now: int) -> None:
    """Version 2: roll-ups, made of the events that are there; and what was forgotten."""
    _run(db, rollups.SCHEMA)
    # Hashes of ids: a source may read again what a person wanted removed.
    db.execute("CREATE TABLE forgotten (id INTEGER PRIMARY KEY)")
    rollups.recount(db)


#: Each leads from one schema version to the next, in the transaction that says so.
_STEPS = (_begin, _add_rollups)
SCHEMA_VERSION = len(_STEPS)


def _run(db: sqlite3.Connection, script: str) -> None:
    """Several statements inside the caller's transaction, which `executescript` would end."""
    for statement in script.split(";"):
        db.execute(statement)


def journal_path(home: Path) -> Path:
    """Where the journal of this home lies."""
    return home / "journal.db"


def lock(path: Path, attempts: int = 1) -> int:
    """Hold the writer's lock; the descriptor gives it back when closed, or when we die."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(
            f"cannot write in {path.parent}: {error.strerror}; "
            "set SQUAD_OTEL_HOME to another folder"
        ) from error
    for attempt in range(attempts):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if attempt + 1 < attempts:
                time.sleep(0.05)
    os.close(fd)
    raise JournalBusyError(
        f"another daemon writes this journal ({path} is locked): "
        "`squad-otel down` stops it, or set SQUAD_OTEL_HOME to another folder"
    )


def locked(home: Path) -> bool:
    """Whether a writer holds the journal of `home` now."""
    try:
        os.close(lock(home / "writer.lock"))
    except JournalBusyError:
        return True
    except JournalError:
        return False
    return False


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    try:
        if writable:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # Somebody who holds the file locked may delay the daemon's end by as much.
        wait_s = 0.5 if writable else 10
        db = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"cannot open the journal {path}: {error}") from error
    return db


def in_words(error: sqlite3.Error) -> str:
    """What an error of SQLite means for the journal, and what to do where the file is damaged."""
    if "malformed" in str(error) or "not a database" in str(error):
        return (
            f"it is no journal or is damaged ({error}): `squad-otel down`, move it away, and "
            "`squad-otel up` begins a new one"
        )
    return str(error)


def _check(db: sqlite3.Connection, path: Path) -> int:
    """The schema version of an open file; 0 for an empty one."""
    try:
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    except sqlite3.OperationalError as error:  # locked, or in a folder that cannot be written
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{path}: {in_words(error)}") from error
    if empty and application == 0 and version == 0:
        return 0
    if application != APPLICATION_ID:
        raise JournalError(f"{path} belongs to another program: move it away")
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"{path} has schema version {version}, this program knows up to {SCHEMA_VERSION}: "
            "update squad-otel"
        )
    return version


def prepare(db: sqlite3.Connection, path: Path, now: int) -> None:
    """Make an open file a journal of the newest schema; one that is newer is refused.

    Raises JournalError. The caller holds the writer's lock.
    """
    version = _check(db, path)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")  # what is removed is gone
        if version < SCHEMA_VERSION:
            db.execute("BEGIN IMMEDIATE")
            for step in _STEPS[version:]:
                step(db, now)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise JournalError(f"cannot write the journal {path}: {in_words(error)}") from error


def open_reader(home: Path) -> sqlite3.Connection:
    """A connection that can only read the journal of `home`.

    One of an older version is brought up to date first. Raises JournalError when there is none
    yet, it is not one of ours, or a daemon of an older version writes it.
    """
    path = journal_path(home)
    if not path.exists():
        raise JournalError(f"no journal at {path}: `squad-otel up` begins one")
    db = _connect_unwritable(path) or connect(path, writable=False)
    try:
        version = _check(db, path)
        if version == 0:
            raise JournalError(f"the journal {path} is empty: `squad-otel up` begins it")
        if version < SCHEMA_VERSION:
            _update(home)
        db.execute("PRAGMA query_only = ON")
    except BaseException:
        db.close()
        raise
    return db


def _connect_unwritable(path: Path) -> sqlite3.Connection | None:
    """A file in a folder that nobody can write, which no log belongs to; None for any other.

    SQLite would write beside a file in order to read it.
    """
    log = Path(f"{path}-wal")
    if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
        return None
    name = quote(str(path.absolute()))
    return sqlite3.connect(f"file:{name}?immutable=1", uri=True, isolation_level=None)


def _update(home: Path) -> None:
    try:
        held = lock(home / "writer.lock")
    except JournalBusyError as error:
        raise JournalError(
            "the daemon that runs is of an older version: `squad-otel down`, then `squad-otel up`"
        ) from error
    try:
        db = connect(journal_path(home), writable=True)
        try:
            prepare(db, journal_path(home), 0)
        finally:
            db.close()
    finally:
        os.close(held)
