"""`squad-otel exec -- command…`: run a command as if alone, and record that it ran."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from types import FrameType

import click

from squad_otel.commands import git_operation, reduce_command
from squad_otel.errors import SpoolError
from squad_otel.ids import current_session
from squad_otel.spool import append, encode, home_folder

#: Sent to us alone, so the child has to be told. Those of the keyboard reach it by themselves,
#: where there is one.
_FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND…")
@click.pass_context
def command(ctx: click.Context, command_line: tuple[str, ...]) -> None:
    """Run COMMAND and record its program, sub-command, duration and exit code.

    Its input, output, terminal and signals are its own, and its exit code is ours. Arguments are
    not kept. It belongs to the session named by $SQUAD_SESSION_ID, else to the one whose worktree
    you stand in. Without a daemon the record waits on disk.

    \b
    Examples:
      squad-otel exec -- pytest -q
      squad-otel exec -- git push
    """
    started = time.monotonic_ns()
    session = current_session()
    code, failure = _run(command_line)
    duration_ns = time.monotonic_ns() - started
    lines = _records(command_line, session, duration_ns, code, failure)
    try:
        append(home_folder(), lines)
    except SpoolError as error:
        click.echo(f"squad-otel: not recorded: {error}", err=True)
    if code < 0:
        _end_by(-code)
        code = 128 - code
    ctx.exit(code)


def _end_by(number: int) -> None:
    """End by the signal that killed the child, so that a shell sees what happened."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core dump is the child's affair
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _run(command_line: tuple[str, ...]) -> tuple[int, str | None]:
    """Run it; the exit code as Popen gives it (negative: a signal), and why it failed."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    # What is ignored (nohup) stays so, and the child inherits it.
    mine = [n for n in (*_FORWARDED, *_KEYBOARD) if signal.getsignal(n) is not signal.SIG_IGN]
    told = _FORWARDED if _at_keyboard() else (*_FORWARDED, *_KEYBOARD)
    before = {
        # Not SIG_IGN, which the child would inherit: a handler is reset by its exec.
        number: signal.signal(number, forward if number in told else lambda *_: None)
        for number in mine
    }
    try:
        try:
            child = subprocess.Popen(command_line)
        except FileNotFoundError:
            click.echo(f"squad-otel: {command_line[0]}: command not found", err=True)
            return 127, "not_found"
        except OSError as error:
            click.echo(f"squad-otel: {command_line[0]}: {error.strerror}", err=True)
            return 126, "not_executable"
        for number in early:
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if code < 0:
        return code, f"signal_{_signal_name(-code)}"
    return code, f"exit_{code}" if code else None


def _at_keyboard() -> bool:
    """Whether ctrl-c reaches us, and with us the child: we stand in front at a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _signal_name(number: int) -> str:
    """`SIGTERM`; the number of one that has no name, as most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _records(
    command_line: tuple[str, ...],
    session: str | None,
    duration_ns: int,
    code: int,
    failure: str | None,
) -> list[bytes]:
    """The spool lines: the command, and the git operation that it was, if it was one."""
    reduced = reduce_command(command_line)
    token = os.urandom(8).hex()
    common = {
        "at": time.time_ns(),
        "session": session,
        "source": "exec",
        "duration_ns": duration_ns,
        "success": failure is None,
        "error_type": failure,
    }
    fields = {"command": reduced, "tool": "exec", "exit_code": code if code >= 0 else 128 - code}
    lines = [encode({"type": "command.executed", "id": f"{token}:1", **common, "fields": fields})]
    operation = git_operation(command_line)
    if operation is not None:
        record = {"type": f"git.{operation}", "id": f"{token}:2", **common}
        lines.append(encode({**record, "fields": {"command": reduced}}))
    return lines
