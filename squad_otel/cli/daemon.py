"""`squad-otel daemon run`: the daemon in the foreground."""

from __future__ import annotations

import logging
import os
import time

import click

from squad_otel.daemon import Daemon, run_until_signal, sources
from squad_otel.settings import load
from squad_otel.spool import home_folder


@click.group("daemon")
def command() -> None:
    """The daemon itself; `squad-otel up` runs it in the background."""


@command.command("run")
def run() -> None:
    """Watch, record, serve /metrics and send OTLP until SIGTERM or ctrl-c.

    \b
    Example:
      SQUAD_OTEL_POLL_INTERVAL_S=0.5 squad-otel daemon run
    """
    home = home_folder()
    settings = load(home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)sZ %(levelname)s %(message)s")
    logging.Formatter.converter = time.gmtime
    for noisy in ("opentelemetry", "waitress", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    daemon = Daemon(home, settings, sources(home, settings, os.environ))
    logging.getLogger("squad_otel.daemon").info(
        "journal %s, metrics at http://127.0.0.1:%d/metrics", daemon.journal.id, daemon.port
    )
    run_until_signal(daemon)
