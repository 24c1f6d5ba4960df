"""The lifetime series as the journal stores them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from squad_otel.errors import QueryError
from squad_otel.schema import journal_path, open_reader

_PAGE = 500  # series that are read at once


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """One lifetime series: integers as they are stored, times UTC ns.

    `released_at` is None while it is still shown as 0. `buckets` are not cumulative, the last one
    is above all bounds; None on a counter.
    """

    journal: str
    metric: str
    labels: Mapping[str, str]
    born_at: int
    released_at: int | None
    count: int
    sum: int
    buckets: tuple[int, ...] | None


class SeriesReader:
    """Reads the series of a journal in pages. Close it after use."""

    def __init__(self, home: Path) -> None:
        """Open the journal of `home`. Raises JournalError."""
        self._db = open_reader(home)
        self._path = journal_path(home)

    def close(self) -> None:
        self._db.close()

    def count(self, since: int) -> int:
        """How many series were born at `since` (UTC ns) or later."""
        (found,) = self._all("SELECT count(*) FROM series WHERE born_at >= ?", (since,))
        return int(found[0])

    def stored(self, since: int) -> Iterator[StoredSeries]:
        """The series born at `since` (UTC ns) or later, in the order of their birth."""
        ((journal,),) = self._all("SELECT value FROM meta WHERE key = 'id'", ())
        after = 0
        while True:
            page = self._all(
                "SELECT id, metric, labels, born_at, released_at, count, sum, buckets FROM series "
                "WHERE id > ? AND born_at >= ? ORDER BY id LIMIT ?",
                (after, since, _PAGE),
            )
            for number, metric, labels, born_at, released_at, count, total, buckets in page:
                after = number
                yield StoredSeries(
                    journal,
                    metric,
                    json.loads(labels),
                    born_at,
                    released_at,
                    count,
                    total,
                    None if buckets is None else tuple(json.loads(buckets)),
                )
            if len(page) < _PAGE:
                return

    def _all(self, statement: str, values: tuple[int, ...]) -> list[tuple]:  # type: ignore[type-arg]  # columns as SQLite has them
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise QueryError(f"cannot read the journal {self._path}: {error}") from error
