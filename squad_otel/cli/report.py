"""`squad-otel report`: a day, a week, a month or any period, from the journal or Prometheus."""

from __future__ import annotations

import time
from datetime import date, datetime
from pathlib import Path

import click

from squad_otel.cli.output import output
from squad_otel.cli.screen import calendar_of, terminal
from squad_otel.errors import JournalError, QueryError
from squad_otel.query.journal import JournalBackend
from squad_otel.query.periods import KINDS, Calendar, Period
from squad_otel.query.prometheus import PrometheusBackend
from squad_otel.report.insights import with_insights
from squad_otel.report.render import FORMATS, render
from squad_otel.report.sections import build
from squad_otel.running import started_servers
from squad_otel.schema import journal_path
from squad_otel.settings import Settings, load
from squad_otel.spool import home_folder


@click.command("report")
@click.argument(
    "kind",
    type=click.Choice(KINDS),
    metavar="[daily|weekly|monthly]",
    required=False,
    default="weekly",
)
@click.option("--previous", is_flag=True, help="The day, week or month before this one.")
@click.option(
    "--date",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="The day, week or month that this date lies in.",
)
@click.option("--since", metavar="TIME", help="Begin here instead: 7d, 24h, 90m, an ISO date/time.")
@click.option("--until", metavar="TIME", help="End here (exclusive); with --since only. [now]")
@click.option(
    "--source",
    type=click.Choice(["auto", "prometheus", "journal"]),
    default="auto",
    show_default=True,
    help="auto: the journal where there is one, for it is exact; else Prometheus.",
)
@click.option(
    "--all", "all_journals", is_flag=True, help="From Prometheus: every journal's series."
)
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="table", show_default=True
)
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Write to this file (only its owner may read it) instead of stdout.",
)
def command(
    kind: str,
    previous: bool,
    day: datetime | None,
    since: str | None,
    until: str | None,
    source: str,
    all_journals: bool,
    form: str,
    target: Path | None,
) -> None:
    """Report on the running day, week (ISO, from Monday) or month, or on any period.

    Each headline stands beside the same part of the period before. The time zone and the first
    day of a week are settings (time_zone, week_start).

    \b
    Examples:
      squad-otel report weekly
      squad-otel report monthly --previous --format html --output october.html
      squad-otel report --since 90m
      squad-otel report weekly --source prometheus --all --format csv
    """
    home, now = home_folder(), time.time_ns()
    settings = load(home)
    calendar = calendar_of(settings)
    try:
        period = choose_period(calendar, kind, now, previous, day and day.date(), since, until)
        calendar.before(period, now)
    except (OverflowError, ValueError):  # at an edge of what a date can be
        raise click.UsageError("that is too far from today") from None
    backend = choose_backend(home, settings, source, all_journals, now)
    try:
        report = with_insights(build(backend, calendar, period, now))
    finally:
        backend.close()
    if target is None or str(target) == "-":
        click.echo(render(report, form, *terminal()), nl=False)
        return
    with output(target) as file:
        file.write(render(report, form))
    click.echo(f"report written to {target}", err=True)


def choose_period(
    calendar: Calendar,
    kind: str,
    now: int,
    previous: bool = False,
    day: date | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Period:
    """The period that the options name. Raises click.UsageError where they contradict."""
    if sum((previous, day is not None, since is not None)) > 1:
        raise click.UsageError("--previous, --date and --since exclude each other")
    if since is not None:
        end = now if until is None else calendar.parse(until, now)
        return calendar.custom(calendar.parse(since, now), end, now)
    if until is not None:
        raise click.UsageError("--until needs --since")
    if previous:
        return calendar.previous(kind, now)
    if day is not None:
        period = calendar.period(kind, day, now)
        if period.since >= now:
            raise click.UsageError(f"{period.title} is in the future")
        return period
    return calendar.current(kind, now)


def choose_backend(
    home: Path, settings: Settings, source: str, all_journals: bool, now: int
) -> JournalBackend | PrometheusBackend:
    """The backend that `source` names, opened. Raises QueryError or JournalError."""
    there = journal_path(home).exists()
    if source == "journal" or (source == "auto" and there and not all_journals):
        if all_journals:
            raise click.UsageError("--all needs Prometheus: the journal knows only itself")
        return JournalBackend(home, now)
    url = settings.prometheus_url or started_servers(home).url("prometheus")
    if not url:
        if source == "auto" and not all_journals:
            return JournalBackend(home, now)  # says that there is none, and how to begin one
        raise QueryError("no Prometheus is known: set prometheus_url, or start one (squad-otel up)")
    return PrometheusBackend(url, now, None if all_journals else _own_journal(home, now))


def _own_journal(home: Path, now: int) -> str:
    try:
        backend = JournalBackend(home, now)
    except JournalError as error:
        raise QueryError(
            f"whose series? {error}, or take every journal's series with --all"
        ) from error
    backend.close()
    return backend.journals[0]
