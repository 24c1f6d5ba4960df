"""`squad-otel forget`: remove what was recorded of a session, a repository or a time."""

from __future__ import annotations

import time

import click

from squad_otel import forget
from squad_otel.cli.screen import calendar_of
from squad_otel.forget import Outlook
from squad_otel.query.periods import Calendar
from squad_otel.retention import Selection
from squad_otel.settings import load
from squad_otel.spool import home_folder


@click.command("forget")
@click.option("--session", metavar="NAME", help="Its name or id; an id may be cut to six letters.")
@click.option("--repository", metavar="NAME", help="The repository's folder name.")
@click.option("--since", metavar="TIME", help="From this time on, e.g. 7d or 2026-11-26.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(
    session: str | None, repository: str | None, since: str | None, until: str | None, yes: bool
) -> None:
    """Remove events for good: from the journal, its roll-ups and the spool.

    Several options narrow it down: all of them must hold. Lifetime totals stay as they are, and
    so does what Prometheus, Tempo and others were already given. A daemon may run meanwhile.

    \b
    Examples:
      squad-otel forget --session "fix login"
      squad-otel forget --repository secret-project --yes
      squad-otel forget --since 2026-11-26T10:00 --until 2026-11-26T12:00
    """
    if not any((session, repository, since, until)):
        raise click.UsageError("say what: --session, --repository, --since or --until")
    home, now = home_folder(), time.time_ns()
    calendar = calendar_of(load(home))
    found = forget.find_sessions(home, session) if session else None
    selection = Selection(
        found,
        repository,
        0 if since is None else calendar.parse(since, now),
        2**62 if until is None else calendar.parse(until, now),
    )
    if selection.since >= selection.until:
        raise click.UsageError("--since lies after --until")
    meant = forget.outlook(home, selection)
    click.echo(_announcement(meant, calendar), err=True)
    if not yes:
        click.confirm("Remove them for good?", abort=True, err=True)
    gone = forget.forget(home, selection, now)
    click.echo(
        f"removed: {gone.events} events, {gone.sessions} ended sessions, {gone.lines} spool lines; "
        "lifetime totals stay, and so does what was exported"
    )
    if gone.traces:
        click.echo(
            "somebody reads the journal just now: its log holds the old pages until they are done",
            err=True,
        )


def _announcement(meant: Outlook, calendar: Calendar) -> str:
    """What will go, and what cannot be told apart any more."""
    text = f"{meant.events} events, {len(meant.sessions)} sessions"
    live = [session.name for session in meant.sessions if session.live]
    if live:
        text += f"; {len(live)} still live, and will be recorded further"
    if meant.pruned_before:
        text += (
            f"\nbefore {calendar.moment(meant.pruned_before)} only sums of quarters of an hour "
            "are kept: they go with their repository or time, and lose a session's name"
        )
    return text
