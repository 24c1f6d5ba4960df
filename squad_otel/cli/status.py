"""`squad-otel status`: what the squad does now."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from squad_otel.cli.screen import calendar_of, terminal
from squad_otel.errors import QueryError
from squad_otel.query.journal import JournalBackend
from squad_otel.report import glance, status
from squad_otel.running import running, started_servers
from squad_otel.settings import Settings, load
from squad_otel.spool import home_folder

if TYPE_CHECKING:
    from squad_otel.alertmanager import Alert

_WATCH_S = 2.0


@click.command("status")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="csv: the sessions only.",
)
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until ctrl-c.")
def command(form: str, watch: bool) -> None:
    """Each session: program, repository, branch, state and for how long, commits, errors, cost.

    With it the totals and the alerts that fire now. Without a daemon it shows what the journal
    knew last, and says so.

    \b
    Examples:
      squad-otel status --watch
      squad-otel status --format json | jq '.sessions[] | select(.state == "waiting")'
    """
    if watch and form != "table":
        raise click.UsageError("--watch shows a table: leave --format out")
    home = home_folder()
    settings = load(home)
    if watch:
        _watch(home, settings)
        return
    found = look(home, settings)
    calendar = calendar_of(settings)
    if form == "json":
        click.echo(glance.status_json(found, calendar), nl=False)
    elif form == "csv":
        click.echo(glance.sessions_csv(found.sessions, calendar), nl=False)
    else:
        width, color = terminal()
        click.echo(glance.drawn(glance.status_view(found, calendar, width), width, color), nl=False)


def look(home: Path, settings: Settings) -> status.Status:
    """Ask journal, daemon and Alertmanager. Raises SquadOtelError when there is no journal."""
    now = time.time_ns()
    backend = JournalBackend(home, now)
    try:
        alerts, note = _alerts(home, settings)
        return status.build(backend, running(home), alerts, note, now)
    finally:
        backend.close()


def _alerts(home: Path, settings: Settings) -> tuple[list[Alert] | None, str]:
    url = settings.alertmanager_url or started_servers(home).url("alertmanager")
    if url is None:
        return None, "not known, no Alertmanager runs"
    # Its HTTP library costs a third of the start: it is loaded when there is somebody to ask.
    firing = importlib.import_module("squad_otel.alertmanager").firing
    try:
        return firing(url), ""
    except QueryError as error:
        return None, f"not known, {error}"


def _watch(home: Path, settings: Settings) -> None:
    calendar = calendar_of(settings)
    console = Console(highlight=False, markup=False)
    Live = importlib.import_module("rich.live").Live  # noqa: N806 - a class, loaded when it is used
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                view = glance.status_view(look(home, settings), calendar, console.width)
                live.update(view, refresh=True)
                time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        return
