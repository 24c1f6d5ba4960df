"""Stored events, found and read in pages, so that memory and the write-ahead log stay small.

No transaction outlives a page: whoever reads slowly, or for ever, hinders nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from squad_otel.errors import JournalError, QueryError
from squad_otel.events import EVENT_TYPES, SUM_FIELDS, Event, FieldValue, FoldState
from squad_otel.schema import journal_path, open_reader

_PAGE = 1000  # events that are read at once

#: How often a journal that was replaced is tried before its error is said: it may just be begun.
_ATTEMPTS = 10

_EVENT_COLUMNS = (
    "id",
    "type",
    "occurred_at",
    "source",
    "session",
    "program",
    "repository",
    "branch",
    "duration_ns",
    "success",
    "error_type",
    "settles_at",
)
_COLUMNS = (*_EVENT_COLUMNS, *SUM_FIELDS, "fields", "seq", "recorded_at", "state")
_SELECT = (
    f"SELECT {', '.join(f'e.{name}' for name in _COLUMNS)}, json_extract(s.data, '$.name') "  # noqa: S608
    "FROM events AS e LEFT JOIN sessions AS s ON s.id = e.session WHERE "
)
_FAILED = "(e.success = 0 OR e.type = 'error' OR coalesce(e.error_type, '') <> '')"
#: An event whose session is not known yet has the name that its producer gave.
_OF_SESSIONS = (
    "(+e.session IN ({marks}) OR +e.session IN "
    "(SELECT id FROM sessions WHERE json_extract(data, '$.name') IN ({marks})))"
)

_decode_fields = msgspec.json.Decoder(dict[str, FieldValue]).decode


@dataclass(frozen=True, slots=True)
class Found:
    """An event as it is stored: its place in order of arrival, its fold state, its session's name.

    `recorded_at` is UTC ns.
    """

    seq: int
    event: Event
    recorded_at: int
    fold: FoldState
    session_name: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are meant; what is empty does not restrict. Times are UTC ns, `until` exclusive.

    `sessions` are ids or names, `failed` takes errors and whatever did not succeed.
    """

    types: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    failed: bool = False

    def sql(self) -> tuple[str, list[object]]:
        """A condition on `events AS e`, and its values."""
        # The plus keeps SQLite to the order of time or arrival: a page then needs no sorting.
        tests, values = ["1"], list[object]()
        for column, chosen in (
            ("type", self.types),
            ("program", self.programs),
            ("repository", self.repositories),
            ("branch", self.branches),
        ):
            if chosen:
                tests.append(f"+e.{column} IN ({_marks(chosen)})")
                values += chosen
        if self.sessions:
            tests.append(_OF_SESSIONS.format(marks=_marks(self.sessions)))
            values += [*self.sessions, *self.sessions]
        for operator, at in ((">=", self.since), ("<", self.until)):
            if at is not None:
                tests.append(f"e.occurred_at {operator} ?")
                values.append(at)
        if self.failed:
            tests.append(_FAILED)
        return " AND ".join(tests), values


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def types_named(word: str) -> tuple[str, ...]:
    """The event types that a word names: a type, or what stands before its point (`git`).

    Raises QueryError, which says what is allowed.
    """
    if word in EVENT_TYPES:
        return (word,)
    family = tuple(name for name in EVENT_TYPES if name.startswith(f"{word}."))
    if not word or not family:
        raise QueryError(
            f"{word!r} is no type of event: it must be one of {', '.join(EVENT_TYPES)}, "
            "or what stands before the point"
        )
    return family


class EventReader:
    """Reads the events of a journal, whether a daemon writes it or not. Close it after use."""

    def __init__(self, home: Path) -> None:
        """Open the journal of `home`. Raises JournalError."""
        self._home = home
        self._path = journal_path(home)
        self._open()

    def close(self) -> None:
        self._db.close()

    def newest(self) -> int:
        """The number of the event that arrived last; 0 in an empty journal."""
        return int(str(self._all("SELECT coalesce(max(seq), 0) FROM events", ())[0][0]))

    def session(self, word: str) -> str:
        """What to look for where a person wrote `word`: a session's id, its beginning, or a name.

        Raises QueryError when nothing is called so, or several ids begin so.
        """
        exact = self._all(
            "SELECT 1 FROM sessions WHERE id = ? OR json_extract(data, '$.name') = ? "
            "UNION ALL SELECT 1 FROM events WHERE session = ? LIMIT 1",
            (word, word, word),
        )
        if exact:
            return word
        begins = self._all(
            "SELECT id FROM sessions WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT 4",
            (len(word), word),
        )
        if len(begins) == 1:
            return str(begins[0][0])
        if begins and word:
            ids = ", ".join(str(row[0]) for row in begins)
            raise QueryError(
                f"several sessions' ids begin with {word!r} ({ids}…): write more of it"
            )
        raise QueryError(
            f"no session is called {word!r}, and no id begins so: "
            "`squad-otel sessions list` shows what there is"
        )

    def count(self, chosen: Filter, newest: int) -> int:
        """How many events up to number `newest` are meant."""
        where, values = chosen.sql()
        rows = self._all(
            f"SELECT count(*) FROM events AS e WHERE +e.seq <= ? AND {where}",  # noqa: S608
            (newest, *values),
        )
        return int(str(rows[0][0]))

    def stored(self, chosen: Filter, newest: int, limit: int | None = None) -> Iterator[Found]:
        """The events up to number `newest`, oldest first; of them the latest `limit`."""
        if limit == 0:
            return
        where, values = chosen.sql()
        at = (chosen.since or 0, -1)
        if limit is not None:
            begin = self._all(
                f"SELECT e.occurred_at, e.seq FROM events AS e WHERE +e.seq <= ? AND {where} "  # noqa: S608
                "ORDER BY e.occurred_at DESC, e.seq DESC LIMIT 1 OFFSET ?",
                (newest, *values, limit - 1),
            )
            if begin:
                at = (int(str(begin[0][0])), int(str(begin[0][1])) - 1)
        statement = (
            f"{_SELECT} (e.occurred_at, e.seq) > (?, ?) AND +e.seq <= ? AND {where} "
            "ORDER BY e.occurred_at, e.seq LIMIT ?"
        )
        while True:
            page = self._page(statement, (*at, newest, *values, _PAGE))
            yield from page
            if len(page) < _PAGE:
                return
            at = (page[-1].event.occurred_at, page[-1].seq)

    def follow(
        self,
        chosen: Filter,
        after: int,
        wait: Callable[[], None],
        note: Callable[[str], None],
    ) -> Iterator[Found]:
        """The events that are committed after number `after`, in that order, for ever.

        `wait` is called when there is none. A journal that takes this one's place is read from
        its beginning, and `note` is told.
        """
        # Its own bounds in time stay, but what is new is read by number alone.
        where, values = replace(chosen, since=None).sql()
        if chosen.since is not None:
            where, values = f"{where} AND +e.occurred_at >= ?", [*values, chosen.since]
        statement = f"{_SELECT} e.seq > ? AND {where} ORDER BY e.seq LIMIT ?"
        while True:
            if self._replaced(wait, note):
                after = 0
            newest = self.newest()
            after = min(after, newest)  # the last ones were forgotten: their numbers come again
            page = self._page(statement, (after, *values, _PAGE))
            yield from page
            if len(page) == _PAGE:
                after = page[-1].seq
                continue
            after = max(newest, page[-1].seq) if page else newest
            wait()

    def _open(self) -> None:
        self._db = open_reader(self._home)
        try:
            self._file = _identity(self._path)
            self._journal = str(self._all("SELECT value FROM meta WHERE key = 'id'", ())[0][0])
        except BaseException:
            self._db.close()
            raise

    def _replaced(self, wait: Callable[[], None], note: Callable[[str], None]) -> bool:
        """Open the journal anew where another file has taken its place; whether it is another."""
        if _identity(self._path) == self._file:
            return False
        before = self._journal
        note(f"{self._path} is another file now, or gone: waiting for a journal there")
        self._db.close()
        failures = 0
        while True:
            if _identity(self._path) is not None:
                try:
                    self._open()
                    break
                except (JournalError, QueryError):
                    failures += 1
                    if failures == _ATTEMPTS:
                        raise
            wait()
        note(f"reading journal {self._journal}")
        return self._journal != before

    def _page(self, statement: str, values: Sequence[object]) -> list[Found]:
        return [_found(row) for row in self._all(statement, values)]

    def _all(self, statement: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise QueryError(f"cannot read the journal {self._path}: {error}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _found(row: tuple[object, ...]) -> Found:
    *columns, session_name = row
    values = dict(zip(_COLUMNS, columns, strict=True))
    fields = _decode_fields(values["fields"])  # type: ignore[arg-type]  # TEXT column
    fields.update({n: values[n] for n in SUM_FIELDS if values[n] is not None})  # type: ignore[misc]  # INTEGER columns
    own = {name: values[name] for name in _EVENT_COLUMNS}
    if own["success"] is not None:
        own["success"] = bool(own["success"])
    return Found(
        int(str(values["seq"])),
        Event(**own, fields=fields),  # type: ignore[arg-type]  # the columns' types are the fields'
        int(str(values["recorded_at"])),
        FoldState(str(values["state"])),
        None if session_name is None else str(session_name),
    )
