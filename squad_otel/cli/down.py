"""`squad-otel down`: stop what `up` started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click
import psutil

from squad_otel import alertmanager, servers
from squad_otel.errors import QueryError, ServerError, SettingsError
from squad_otel.report.text import clean_lines
from squad_otel.running import Started, running, save, started_servers
from squad_otel.schema import open_reader
from squad_otel.settings import Settings, load
from squad_otel.spool import home_folder

_STOP_S = 10.0


@click.command("down")
def command() -> None:
    """Stop the daemon and the servers that `up` started. The record stays.

    An Alertmanager of your own (setting alertmanager_url) is told not to call the daemon gone.
    """
    home = home_folder()
    try:
        settings = load(home)
    except SettingsError as error:  # whatever they say, what runs can be stopped
        click.echo(f"squad-otel: {clean_lines(str(error))}", err=True)
        settings = Settings()
    started, before = started_servers(home), started_servers(home)
    state = running(home)
    if state is not None and settings.alertmanager_url:
        _silence(home, settings.alertmanager_url, started)
    said = stop_daemon(home)
    click.echo(f"daemon        {'stopped' if said else 'did not run'}")
    for name, server in reversed(list(started.local.items())):
        stopped = servers.stop(server)
        click.echo(f"{name:<14}{'stopped' if stopped else 'did not run'}")
        del started.local[name]
    if started.compose:
        servers.stop_compose(servers.compose_environ(home, settings))
        click.echo("compose       stopped; its volumes stay")
        started.compose = {}
    if started != before:
        save(home, started)


def _silence(home: Path, url: str, started: Started) -> None:
    reader = open_reader(home)
    journal = dict(reader.execute("SELECT key, value FROM meta"))["id"]
    reader.close()
    try:
        started.silence = alertmanager.silence_daemon_gone(url, journal, time.time())
        click.echo(f"alertmanager  SquadDaemonGone of journal {journal} is silenced until `up`")
    except QueryError as error:
        click.echo(f"alertmanager  not silenced: {clean_lines(str(error))}", err=True)


def stop_daemon(home: Path) -> bool:
    """Stop the daemon of `home` in order; False when none ran. Raises ServerError."""
    state = running(home)
    if state is None:
        return False
    pid = int(state["pid"])
    try:
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return True
    if not servers.ends(process, _STOP_S):
        raise ServerError(f"the daemon (pid {pid}) did not stop within {_STOP_S:.0f} s")
    return True
