"""`squad-otel up`: the daemon in the background, and the servers that are to be had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click

from squad_otel import alertmanager, servers
from squad_otel.errors import ServerError
from squad_otel.report.text import clean_lines
from squad_otel.running import Started, running, save, started_servers
from squad_otel.schema import open_reader
from squad_otel.settings import Settings, load
from squad_otel.spool import home_folder, make_private

_START_S = 15.0


@click.command("up")
@click.option(
    "--servers",
    "mode",
    type=click.Choice(["auto", "compose", "local", "none"]),
    default="auto",
    show_default=True,
    help="auto: Compose where a Docker engine answers, else programs on PATH.",
)
def command(mode: str) -> None:
    """Start the daemon and the servers, and say what runs, what is missing and where alerts arrive.

    With Docker: Collector, Prometheus, Alertmanager, Grafana and Tempo, all on loopback. Without
    it: Prometheus and Alertmanager, if they are installed. With neither, the record, `status` and
    `report` work all the same.

    \b
    Examples:
      squad-otel up
      squad-otel up --servers none
    """
    home = home_folder()
    make_private(home)
    settings = load(home)
    started = started_servers(home)
    use_compose = False
    missing: list[str] = []
    if mode in ("auto", "compose"):
        reason = servers.compose_answers()
        if reason is None:
            try:
                environ = servers.compose_environ(home, settings)
                missing = servers.start_compose(home, environ, started)
                use_compose = True
            except ServerError as error:
                if mode == "compose":
                    raise
                said = clean_lines(str(error))
                click.echo(f"Compose did not come up, trying local programs:\n{said}", err=True)
        elif mode == "compose":
            raise ServerError(f"{reason}: start Docker, or use --servers local")
    endpoint = servers.COMPOSE_OTLP if use_compose and not settings.otlp_endpoint else ""
    address = start_daemon(home, {"SQUAD_OTEL_OTLP_ENDPOINT": endpoint} if endpoint else {})
    say("daemon", f"{address}/metrics")
    state = running(home)
    if endpoint and state is not None and state.get("otlp") != endpoint:
        say("daemon", "ran already and does not push: `squad-otel down`, then `up`", warn=True)
    if not use_compose and mode != "none":
        scrape = address.removeprefix("http://")
        missing = servers.start_local(home, settings, scrape, started)
    for name, url in {
        **started.compose,
        **{name: server.url for name, server in started.local.items() if server.process},
    }.items():
        say(name, url)
    for name, wanted in (
        ("prometheus", settings.prometheus_port),
        ("alertmanager", settings.alertmanager_port),
    ):
        server = started.local.get(name)
        if server is not None and wanted and not server.url.endswith(f":{wanted}"):
            say(name, f"port {wanted} was taken, so it has another one", warn=True)
    for name in missing:
        how = "its image cannot be had" if use_compose else "install it, or start Docker"
        say(name, f"missing: {how}", warn=True)
    if not use_compose and mode != "none":
        say("grafana", "needs Docker: then `squad-otel up` brings it", warn=True)
    _end_silence(home, settings, started)
    receiver = settings.alertmanager_url or started.url("alertmanager")
    say("alerts", _where_alerts_arrive(settings, receiver), warn=receiver is None)


def say(name: str, text: str, *, warn: bool = False) -> None:
    """One line of what runs."""
    click.echo(
        f"{click.style('-' if warn else '✓', fg='yellow' if warn else 'green')} {name:<14}{text}"
    )


def _where_alerts_arrive(settings: Settings, url: str | None) -> str:
    if url is None:
        return "arrive nowhere: there is no Alertmanager"
    if settings.notify_webhook_url:
        return f"at {settings.notify_webhook_url}, and in `squad-otel status`"
    return (
        f"in `squad-otel status` and at {url}; "
        "alertmanager/alertmanager.yml says how to have them sent"
    )


def _end_silence(home: Path, settings: Settings, started: Started) -> None:
    url = settings.alertmanager_url
    if url and started.silence:
        alertmanager.end_silence(url, started.silence)
        started.silence = ""
        save(home, started)


def start_daemon(home: Path, environ: Mapping[str, str]) -> str:
    """Start the daemon of `home` unless it runs; returns its address. Raises ServerError."""
    state = running(home)
    if state is not None:
        return str(state["http"])
    log = home / "daemon.log"
    output, begins = servers.open_log(log)
    with output:
        process = subprocess.Popen(
            [sys.executable, "-m", "squad_otel", "daemon", "run"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=home,
            env={**os.environ, **environ, "SQUAD_OTEL_HOME": str(home)},
        )
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        state = running(home)
        if state is not None and servers.answers(f"{state['http']}/healthz"):
            open_reader(home).close()
            return str(state["http"])
        if process.poll() is not None:
            raise ServerError(f"the daemon ended at once; {log} says:\n{servers.tail(log, begins)}")
        time.sleep(0.05)
    raise ServerError(f"the daemon was not ready within {_START_S:.0f} s; see {log}")
