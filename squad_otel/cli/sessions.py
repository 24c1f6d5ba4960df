"""`squad-otel sessions list`: the sessions that the journal knows."""

from __future__ import annotations

import time

import click

from squad_otel.cli.screen import calendar_of, terminal
from squad_otel.query.journal import JournalBackend
from squad_otel.report import glance, status
from squad_otel.settings import load
from squad_otel.spool import home_folder


@click.group("sessions")
def command() -> None:
    """Sessions, live and ended."""


@command.command("list")
@click.option("--live", is_flag=True, help="Only those that have not ended.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
)
def list_sessions(live: bool, limit: int, form: str) -> None:
    """List sessions, the latest first, with what each did.

    \b
    Examples:
      squad-otel sessions list --live
      squad-otel sessions list --limit 1000 --format csv > sessions.csv
    """
    home, now = home_folder(), time.time_ns()
    calendar = calendar_of(load(home))
    backend = JournalBackend(home, now)
    try:
        found = [s for s in backend.sessions(0, now) if s.live or not live][:limit]
        rows = status.rows(backend, found, now)
    finally:
        backend.close()
    if form == "json":
        click.echo(glance.sessions_json(rows, calendar), nl=False)
    elif form == "csv":
        click.echo(glance.sessions_csv(rows, calendar), nl=False)
    else:
        width, color = terminal()
        view = glance.sessions_view(rows, calendar, now, width)
        click.echo(glance.drawn(view, width, color), nl=False)
