"""The command line: a table of commands, each loaded when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping

import click

from squad_otel import __version__
from squad_otel.errors import SquadOtelError
from squad_otel.report.text import clean_lines

#: Command -> (module of this package, one line of help). One file a command.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("up", "Start the daemon and the servers."),
    "down": ("down", "Stop what `up` started."),
    "status": ("status", "Each session, the totals, the alerts firing now."),
    "sessions": ("sessions", "List sessions, live and ended."),
    "events": ("events", "Show events, and follow what happens now."),
    "export": ("export", "Write everything the journal holds, for other programs."),
    "report": ("report", "Report on a day, a week, a month or any period."),
    "forget": ("forget", "Remove what was recorded of a session, a repository or a time."),
    "exec": ("exec", "Run a command and record it."),
    "daemon": ("daemon", "Run the daemon in the foreground."),
    "demo": ("demo", "Watch a small real squad at work, in about a minute."),
}


class LazyGroup(click.Group):
    """Knows the names and help lines of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        row = COMMANDS.get(name)
        if row is None:
            return None
        module = importlib.import_module(f"squad_otel.cli.{row[0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, row[1]) for name, row in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader went away (`| head`): nothing to say, and nothing to flush at exit. Not
            # in `main`, where it would not arrive: click ends by itself then, with code 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Everything is kept in ~/.squad-otel, or where SQUAD_OTEL_HOME points.",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting, for this command and what it starts; wins over environment and file.",
)
@click.version_option(__version__, "-V", "--version", prog_name="squad-otel")
def cli(pairs: tuple[str, ...]) -> None:
    """Watch a squad of coding agents without touching it."""
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise click.UsageError(f"--set takes KEY=VALUE, not {pair!r}")
        os.environ[f"SQUAD_OTEL_{key.upper()}"] = value


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 an error that is said on stderr, 2 wrong usage."""
    try:
        cli(prog_name="squad-otel")
    except SquadOtelError as error:
        # It may quote what a server or a file says.
        click.echo(f"squad-otel: {clean_lines(str(error))}", err=True)
        sys.exit(1)
    except OSError as error:  # a full disk behind stdout, a folder that cannot be read
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"squad-otel: {where}{error.strerror or error}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
