"""`squad-otel events`: what happened, event by event, and what happens now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Literal

import click

from squad_otel.cli.output import output, wait_s, with_progress
from squad_otel.cli.screen import calendar_of, terminal
from squad_otel.errors import QueryError
from squad_otel.query.events import EventReader, Filter, Found, types_named
from squad_otel.report.events import FORMATS, render
from squad_otel.settings import load
from squad_otel.spool import home_folder

_POLL_S = 0.5
_FOLLOWED = 10  # stored events that are shown before the new ones
_SHOWN = 50  # events that people are shown at once
_STREAMS = ("table", "json", "csv")


def _limit(
    _ctx: click.Context, _param: click.Parameter, word: str | None
) -> int | Literal["all"] | None:
    if word is None or word == "all":
        return "all" if word else None
    if word.isascii() and word.isdigit() and len(word) < 16:
        return int(word)
    raise click.BadParameter(f"{word!r} is neither a number nor 'all'")


def _types(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(name for word in words for name in types_named(word)))
    except QueryError as error:
        raise click.BadParameter(str(error)) from error


@click.command("events")
@click.option(
    "--type",
    "types",
    multiple=True,
    callback=_types,
    help="A type (git.commit), or what stands before its point (git). May be repeated.",
)
@click.option(
    "--session", "sessions", multiple=True, help="A session's id, its beginning, or its name."
)
@click.option("--program", "programs", multiple=True, help="An agent's program: claude, codex, …")
@click.option("--repository", "repositories", multiple=True, help="A repository's folder name.")
@click.option("--branch", "branches", multiple=True, help="A branch.")
@click.option("--since", metavar="TIME", help="Begin here: 7d, 24h, 90m, an ISO date/time.")
@click.option("--until", metavar="TIME", help="End here (exclusive).")
@click.option("--error", "failed", is_flag=True, help="Only errors and what did not succeed.")
@click.option(
    "--limit",
    metavar="N|all",
    callback=_limit,
    help=f"The latest so many. [json, csv: all; else {_SHOWN}; with --follow {_FOLLOWED}]",
)
@click.option(
    "--follow", is_flag=True, help="Then show what is new as it is recorded, until ctrl-c."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="table",
    show_default=True,
    help="json: one object a line (JSON Lines).",
)
def command(
    types: tuple[str, ...],
    sessions: tuple[str, ...],
    programs: tuple[str, ...],
    repositories: tuple[str, ...],
    branches: tuple[str, ...],
    since: str | None,
    until: str | None,
    failed: bool,
    limit: int | Literal["all"] | None,
    follow: bool,
    form: str,
) -> None:
    """Show events, the oldest first. An option that is repeated takes any of its values.

    With --follow, what is new comes in the order in which it is recorded, and as it is known
    then: a model's answer may still grow (`fold` is `pending`).

    \b
    Examples:
      squad-otel events --error --since 24h
      squad-otel events --type git --type session.killed --session checkout-fix
      squad-otel events --follow --limit 0 --format json | jq -r .type
      squad-otel events --type tokens.used --since 7d --format csv > tokens.csv
    """
    if follow and until is not None:
        raise click.UsageError("--follow has no end: leave --until out")
    if follow and form not in _STREAMS:
        raise click.UsageError(f"--follow writes {', '.join(_STREAMS)}, not {form}")
    home, now = home_folder(), time.time_ns()
    calendar = calendar_of(load(home))
    begin, end = (None if word is None else calendar.parse(word, now) for word in (since, until))
    if begin is not None and end is not None and begin >= end:
        raise QueryError(
            f"the period is empty: it begins {calendar.iso(begin)} and ends {calendar.iso(end)}"
        )
    reader = EventReader(home)
    try:
        named = tuple(reader.session(word) for word in sessions)
        chosen = Filter(types, named, programs, repositories, branches, begin, end, failed)
        events = _events(reader, chosen, _most(limit, form, follow), follow)
        width, color = terminal()
        fits = width if sys.stdout.isatty() else None
        with output(None) as out:
            lines = 0
            for text in render(events, form, calendar, fits, color):
                out.write(text)
                lines += 1
                if follow:
                    out.flush()
        if form == "table" and lines == 1:  # the header alone
            click.echo("no event matches", err=True)
    except KeyboardInterrupt:
        if not follow:
            raise
    finally:
        reader.close()


def _most(limit: int | Literal["all"] | None, form: str, follow: bool) -> int | None:
    """How many stored events are shown at most; None: all."""
    if isinstance(limit, int):
        return limit
    if limit == "all":
        return None
    if follow:
        return _FOLLOWED
    return None if form in ("json", "csv") else _SHOWN


def _events(
    reader: EventReader, chosen: Filter, limit: int | None, follow: bool
) -> Iterator[Found]:
    newest = reader.newest()
    stored = reader.stored(chosen, newest, limit)
    if not follow:
        yield from with_progress(stored, lambda: _count(reader, chosen, newest, limit), False)
        return
    yield from stored
    note = partial(click.echo, err=True)
    yield from reader.follow(chosen, newest, partial(wait_s, _POLL_S), note)


def _count(reader: EventReader, chosen: Filter, newest: int, limit: int | None) -> int:
    found = reader.count(chosen, newest)
    return found if limit is None else min(found, limit)
