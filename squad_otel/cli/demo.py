"""`squad-otel demo`: a small real squad at work, watched from end to end."""

from __future__ import annotations

import json
import secrets
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from squad_otel.demo.check import (
    Record,
    alert_differences,
    differences,
    prometheus_differences,
    report_differences,
    status_differences,
)
from squad_otel.demo.scenario import Scenario, Truth
from squad_otel.demo.stage import Stage
from squad_otel.errors import ServerError, SquadOtelError
from squad_otel.events import NS
from squad_otel.sessions import Session, State

#: Nothing happens for so long at the end: what was new is shown, scraped, and at rest.
_QUIET_S = 6.0
_SETTLE_S = 20.0
_REFRESH_S = 0.5

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_STYLES = {
    State.STARTING: "dim",
    State.RUNNING: "green",
    State.IDLE: "blue",
    State.WAITING: "bold yellow",
    State.FAILED: "bold red",
    State.PAUSED: "magenta",
    State.DEAD: "red",
    State.ENDED: "dim",
}


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where all of it is written; of an earlier demo, or new. Default: a fresh one.",
)
@click.option("--keep", is_flag=True, help="Stay up at the end, print the URLs, until ctrl-c.")
def command(folder: Path | None, keep: bool) -> None:
    """Let four agents work for about a minute, and show what squad-otel tells of it.

    The agents are scripts. What they do is done with tmux, git and files, all below one folder:
    your own home, tmux and git identity are neither read nor changed. At the end, what was
    recorded is compared with what happened; exit code 1 if they differ.

    \b
    Examples:
      squad-otel demo
      squad-otel demo --folder /tmp/squad --keep
    """
    for number in _ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    stage = Stage(folder or Path(tempfile.gettempdir(), f"squad-otel-demo-{secrets.token_hex(4)}"))
    stage.prepare()
    narrator = Narrator(Console(highlight=False), Record(stage.record))
    right = False
    try:
        right = _demonstrate(stage, narrator, keep)
    except KeyboardInterrupt:
        narrator.line("interrupted", "yellow")
    except AssertionError as error:  # how the squad says that tmux or git did not do its part
        raise ServerError(f"the demo came to a halt: {error}") from error
    finally:
        narrator.close()
        for number in _ENDINGS:  # the end is short, and not to be missed
            signal.signal(number, signal.SIG_IGN)
        with suppress(OSError, SystemExit):  # nobody may be there any more to read it
            narrator.title("The end")
            narrator.line("Stopping daemon, servers, tmux and agents…", "dim")
        killed = stage.end()
    if killed:
        narrator.line(f"had to be killed: {', '.join(killed)}", "red")
    left = stage.processes()
    if left:
        narrator.line(f"still running: {', '.join(str(p.pid) for p in left)}", "red")
    else:
        narrator.line("Everything is stopped.")
    sys.exit(0 if right and not killed and not left else 1)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _demonstrate(stage: Stage, narrator: Narrator, keep: bool) -> bool:
    """The whole of it; whether all that happened was counted."""
    narrator.title("A small squad at work, watched for about a minute")
    narrator.line(f"All of it is below {stage.folder}", "dim")
    scenario = Scenario(stage, narrator.say, narrator.idle, narrator.record.times)
    try:
        scenario.build()
        narrator.title("$ squad-otel up --servers local")
        narrator.block(stage.start())
        alertmanager = stage.address("alertmanager")
        watched = alertmanager is not None and stage.address("prometheus") is not None
        if not watched:
            narrator.line(
                "Without Prometheus and Alertmanager no alert can be delivered: "
                "the part SquadSessionWaiting is left out.",
                "yellow",
            )
        narrator.title("The squad works; below, what squad-otel sees")
        try:
            with narrator.live():
                scenario.play(alert=watched)
                _settle(scenario.truth, narrator)
        finally:
            scenario.truth.write(stage.folder / "truth.json")
        found = []
        report = stage.folder / "report.html"
        for arguments in (
            ("status",),
            ("report", "weekly"),
            ("report", "weekly", "--format", "html", "--output", str(report)),
        ):
            line = " ".join(("squad-otel", *arguments))
            narrator.title(f"$ {line}")
            narrator.flush()
            if not stage.show(*arguments):
                found.append(f"`{line}` failed")
        found += _compare(stage, scenario.truth, narrator.record, watched)
        narrator.title("Was everything that happened counted?")
        if found:
            for difference in found:
                narrator.line(difference, "red")
        else:
            narrator.paragraph("✓ " + _summary(scenario.truth, watched), "green")
        _say_where_to_look(stage, narrator)
        if keep:
            _stay(stage, narrator)
        return not found
    finally:
        scenario.close()


def _settle(truth: Truth, narrator: Narrator) -> None:
    """Wait for the quiet in which all is counted; no longer than needed."""
    deadline = time.monotonic() + _SETTLE_S
    while differences(truth, narrator.record) and time.monotonic() < deadline:
        narrator.idle(0.5)
    narrator.say("", "a few quiet seconds, until all is scraped", "dim")
    narrator.idle(_QUIET_S)


def _compare(stage: Stage, truth: Truth, record: Record, watched: bool) -> list[str]:
    """What any of them does not say as it was: record, Prometheus, status, reports, alert."""
    found = differences(truth, record)
    sources = ["journal"]
    prometheus = stage.address("prometheus")
    if prometheus is not None:
        found += prometheus_differences(truth, prometheus, record.journal())
        sources.append("prometheus")
    found += status_differences(truth, json.loads(stage.squad_otel("status", "--format", "json")))
    for source in sources:
        report = stage.squad_otel("report", "weekly", "--source", source, "--format", "json")
        found += report_differences(truth, json.loads(report))
    if watched:
        found += alert_differences(truth, stage.deliveries())
    return found


def _summary(truth: Truth, alert: bool) -> str:
    """What happened, in one sentence."""
    tokens = sum(truth.tokens.values())
    failed = truth.total("command.executed", succeeded=False)
    parts = [
        f"{len(truth.sessions)} sessions",
        f"{truth.total('git.commit')} commits",
        f"{truth.total('git.push')} pushes",
        f"{truth.total('git.push', succeeded=False)} rejected push",
        f"{truth.total('git.pull')} pulls",
        f"{truth.total('git.branch')} branches",
        f"{truth.total('command.executed') + failed} commands ({failed} failed)",
        f"{tokens:,} tokens",
        "one pause, resume, attach, detach and kill",
    ]
    if alert:
        parts.append("one session that waited, its alert delivered")
    return f"Yes, all of it: {', '.join(parts)}."


def _say_where_to_look(stage: Stage, narrator: Narrator) -> None:
    narrator.title("Where to look")
    for name, what in (
        ("report.html", "the report, for a browser"),
        ("alerts.jsonl", "what Alertmanager delivered to the webhook"),
        ("truth.json", "what happened, as written down by those who did it"),
        ("squad-otel", "the record: SQUAD_OTEL_HOME of this squad"),
    ):
        if (stage.folder / name).exists():
            narrator.line(f"{stage.folder / name}\n    {what}")


def _stay(stage: Stage, narrator: Narrator) -> None:
    narrator.title("It stays up until ctrl-c")
    for name in ("daemon", "prometheus", "alertmanager"):
        url = stage.address(name)
        if url is not None:
            narrator.line(f"{name:<14}{url}{'/metrics' if name == 'daemon' else ''}")
    narrator.line(f"SQUAD_OTEL_HOME={stage.record} {stage.program} status --watch")
    narrator.line(f"TMUX_TMPDIR={stage.tmux_folder} tmux attach")
    with suppress(KeyboardInterrupt):
        while True:
            narrator.idle(1.0)


class Narrator:
    """Tells what happens. On a terminal it also shows the sessions as they are recorded."""

    def __init__(self, console: Console, record: Record) -> None:
        self.record = record
        self._console = console
        self._began = time.monotonic()
        self._live: Live | None = None
        self._shown_at = 0.0

    def title(self, text: str) -> None:
        """A heading."""
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def line(self, text: str, style: str = "") -> None:
        """One line, wrapped nowhere: a path stays whole."""
        self._console.print(Text(f"  {text}", style=style), soft_wrap=True)

    def paragraph(self, text: str, style: str) -> None:
        """A long sentence: wrapped on a terminal, one line elsewhere."""
        if self._console.is_terminal:
            self._console.print(Padding(Text(text, style=style), (0, 2)))
        else:
            self.line(text, style)

    def block(self, text: str) -> None:
        """What a command printed."""
        for line in text.splitlines():
            self.line(line)

    def say(self, session: str, text: str, style: str = "") -> None:
        """A step of the play."""
        at = f"{time.monotonic() - self._began:4.0f} s"
        line = Text.assemble((f"{at}  ", "dim"), (f"{session:<15} ", "cyan"), (text, style))
        self._console.print(line, soft_wrap=True)

    def idle(self, seconds: float) -> None:
        """Let time pass, and keep what is shown fresh."""
        end = time.monotonic() + seconds
        while True:
            self._refresh()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.1))

    def live(self) -> Live:
        """While this is entered, the sessions are shown below the steps."""
        self._began = time.monotonic()
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        return self._live

    def flush(self) -> None:
        """Let all be printed before another process prints."""
        self._console.file.flush()

    def close(self) -> None:
        """Show no more of the record."""
        self._live = None
        self.record.close()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._live is None or not self._live.is_started or not self._console.is_terminal:
            return
        if now - self._shown_at >= _REFRESH_S:
            self._shown_at = now
            try:
                sessions = self.record.sessions()
            except (SquadOtelError, sqlite3.Error):  # it is shown with the next look
                return
            seen = Group(Rule(style="dim"), _table(sessions, time.time_ns()))
            self._live.update(seen, refresh=True)


def _table(sessions: list[Session], now: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("session", "program", "repository", "state", "for"):
        table.add_column(column, no_wrap=True, justify="right" if column == "for" else "left")
    for session in sessions:
        table.add_row(
            session.name,
            session.program,
            session.repository,
            Text(
                session.state + (" (attached)" if session.attached else ""), _STYLES[session.state]
            ),
            f"{max(0, now - session.state_since) // NS} s",
        )
    return table
