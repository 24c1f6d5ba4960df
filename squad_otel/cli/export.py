"""`squad-otel export`: everything that the journal holds, for other programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from squad_otel.cli.output import output, with_progress
from squad_otel.cli.screen import calendar_of
from squad_otel.errors import QueryError
from squad_otel.query.events import EventReader, Filter
from squad_otel.query.journal import JournalBackend
from squad_otel.query.periods import Calendar
from squad_otel.query.series import SeriesReader
from squad_otel.report import glance, records, status
from squad_otel.report.records import EVENT_COLUMNS, SERIES_COLUMNS, STATS_FIELDS, Record
from squad_otel.report.stream import csv_lines, json_lines
from squad_otel.settings import load
from squad_otel.spool import home_folder


@dataclass(frozen=True, slots=True)
class _Source:
    """Records, how many there are, and how a line of CSV is made of one."""

    records: Iterable[Record]
    count: Callable[[], int]
    columns: Sequence[str]
    flat: Callable[[Record], Record]
    close: Callable[[], None]


def _same(record: Record) -> Record:
    return record


def _nothing() -> None:
    pass


def _stats(home: Path, calendar: Calendar, since: int | None, now: int) -> _Source:
    # The backend holds one state of the journal: nobody who reads slowly may keep it.
    with closing(JournalBackend(home, now)) as backend:
        begin = backend.created_at if since is None else since
        found = list(records.stats_records(backend, calendar, begin, now))
    return _Source(found, lambda: len(found), list(STATS_FIELDS), _same, _nothing)


def _sessions(home: Path, calendar: Calendar, since: int | None, now: int) -> _Source:
    with closing(JournalBackend(home, now)) as backend:
        rows = status.rows(backend, backend.sessions(since or 0, now), now)
    found = (glance.session_record(row, calendar) for row in rows)
    return _Source(found, lambda: len(rows), glance.SESSION_KEYS, _same, _nothing)


def _events(home: Path, calendar: Calendar, since: int | None, _now: int) -> _Source:
    reader = EventReader(home)
    chosen, newest = Filter(since=since), reader.newest()
    found = (records.event_record(one, calendar) for one in reader.stored(chosen, newest))
    return _Source(found, lambda: reader.count(chosen, newest), EVENT_COLUMNS, _same, reader.close)


def _metrics(home: Path, calendar: Calendar, since: int | None, _now: int) -> _Source:
    reader = SeriesReader(home)
    found = (records.series_record(one, calendar) for one in reader.stored(since or 0))
    return _Source(
        found,
        lambda: reader.count(since or 0),
        SERIES_COLUMNS,
        records.flat_series,
        reader.close,
    )


_SOURCES: Mapping[str, Callable[[Path, Calendar, int | None, int], _Source]] = {
    "stats": _stats,
    "sessions": _sessions,
    "events": _events,
    "metrics": _metrics,
}


def _written(found: Iterable[Record], form: str, source: _Source) -> Iterator[str]:
    if form == "json":
        return json_lines(found)
    return csv_lines(map(source.flat, found), source.columns)


@click.command("export")
@click.argument("kind", type=click.Choice(list(_SOURCES)), metavar=f"[{'|'.join(_SOURCES)}]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "csv"]),
    default="json",
    show_default=True,
    help="json: one object a line (JSON Lines).",
)
@click.option("--since", metavar="TIME", help="Begin here: 7d, 24h, 90m, an ISO date/time.")
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Write to this file (only its owner may read it) when all is well; - is stdout.",
)
def command(kind: str, form: str, since: str | None, target: Path | None) -> None:
    """Write what the journal holds, for other programs.

    \b
    stats     every measure of the reports, over the time since --since
    sessions  sessions, live and ended, that lived since then; figures: since the journal began
    events    every event that happened since then, with all fields
    metrics   the lifetime series as they are stored, of those born since then

    Without --since: since the beginning. What the fields mean stands in docs/reference.md.

    \b
    Examples:
      squad-otel export events --since 7d --format csv --output week.csv
      squad-otel export metrics | jq 'select(.kind == "histogram")'
    """
    home, now = home_folder(), time.time_ns()
    calendar = calendar_of(load(home))
    begin = None if since is None else calendar.parse(since, now)
    if begin is not None and begin >= now:
        raise QueryError(f"--since lies in the future: {calendar.iso(begin)}")
    with closing(_SOURCES[kind](home, calendar, begin, now)) as source:
        to_file = target is not None and str(target) != "-"
        found = with_progress(source.records, source.count, to_file)
        with output(target) as out:
            for text in _written(found, form, source):
                out.write(text)
    if to_file:
        click.echo(f"{kind} written to {target}", err=True)
