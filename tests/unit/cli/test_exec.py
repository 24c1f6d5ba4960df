"""`squad-otel exec` as a shell sees it: real children, real signals, a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from squad_otel.events import NS, Event
from squad_otel.ids import session_id
from squad_otel.sources.spool import SpoolSource

ROOT = Path(__file__).parents[3]
EXEC = [sys.executable, "-m", "squad_otel", "exec", "--"]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k != "SQUAD_SESSION_ID"}
    return {**kept, "SQUAD_OTEL_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}


def spooled(environ: dict[str, str]) -> list[Event]:
    home = Path(environ["SQUAD_OTEL_HOME"])
    return SpoolSource(home).poll({}, {}, time.time_ns() + NS).events


def test_exit_code_output_and_input_pass_through(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [*EXEC, "sh", "-c", "cat; echo oops >&2; exit 7"],
        input="typed",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed", "oops\n")
    (event,) = spooled(environ)
    assert event.type == "command.executed"
    assert (event.success, event.error_type) == (False, "exit_7")
    assert event.fields == {"command": "sh", "tool": "exec", "exit_code": 7}


def test_the_duration_is_the_childs(environ: dict[str, str]) -> None:
    before = time.monotonic_ns()
    subprocess.run([*EXEC, "sleep", "0.3"], env=environ, check=True)
    whole = time.monotonic_ns() - before
    (event,) = spooled(environ)
    assert event.duration_ns is not None
    assert 0.3 * NS <= event.duration_ns < whole
    assert abs(event.occurred_at - time.time_ns()) < 5 * NS


@pytest.mark.parametrize(
    ("program", "code", "error_type"),
    [("no-such-program-here", 127, "not_found"), ("/etc/passwd", 126, "not_executable")],
)
def test_a_command_that_cannot_start_ends_as_in_a_shell(
    environ: dict[str, str], program: str, code: int, error_type: str
) -> None:
    done = subprocess.run(
        [*EXEC, program], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert program in done.stderr
    (event,) = spooled(environ)
    assert event.error_type == error_type


def test_a_child_killed_by_a_signal_is_seen_as_killed(environ: dict[str, str]) -> None:
    done = subprocess.run([*EXEC, "sh", "-c", "kill -KILL $$"], env=environ, check=False)
    assert done.returncode == -signal.SIGKILL
    (event,) = spooled(environ)
    assert event.error_type == "signal_SIGKILL"
    assert event.fields["exit_code"] == 137


def test_a_signal_sent_to_us_reaches_the_child(environ: dict[str, str]) -> None:
    script = 'trap "echo got TERM; exit 5" TERM; echo ready; while :; do sleep 0.05; done'
    wrapper = subprocess.Popen(
        [*EXEC, "sh", "-c", script], env=environ, stdout=subprocess.PIPE, text=True
    )
    assert wrapper.stdout is not None
    assert wrapper.stdout.readline() == "ready\n"
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.communicate(timeout=30)[0] == "got TERM\n"
    assert wrapper.returncode == 5
    assert [e.error_type for e in spooled(environ)] == ["exit_5"]


def test_ctrl_c_on_a_terminal_is_the_childs_affair(environ: dict[str, str]) -> None:
    script = (
        'trap "exit 9" INT; test -t 0 && test -t 1 && echo terminal; while :; do sleep 0.05; done'
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(EXEC[0], [*EXEC, "sh", "-c", script], environ)
    seen = b""
    while b"terminal" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 9
    assert [e.error_type for e in spooled(environ)] == ["exit_9"]


def test_the_worktree_names_the_session(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "wt" / "src").mkdir(parents=True)
    (tmp_path / "wt" / ".git").write_text("gitdir: elsewhere\n")
    subprocess.run([*EXEC, "true"], env=environ, check=True, cwd=tmp_path / "wt" / "src")
    subprocess.run([*EXEC, "true"], env={**environ, "SQUAD_SESSION_ID": "named"}, check=True)
    assert [e.session for e in spooled(environ)] == [session_id(str(tmp_path / "wt")), "named"]


def test_a_git_operation_is_recorded_beside_the_command(
    environ: dict[str, str], tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "repo"], check=True)
    done = subprocess.run(
        [*EXEC, "git", "push", "https://me:hunter2@127.0.0.1:1/x.git", "main"],
        env=environ,
        cwd=tmp_path / "repo",
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    command, push = spooled(environ)
    assert command.fields["command"] == "git push"
    assert push.type == "git.push"
    assert push.success is False
    assert push.error_type == command.error_type == f"exit_{done.returncode}"
    (segment,) = (Path(environ["SQUAD_OTEL_HOME"]) / "spool").iterdir()
    assert "hunter2" not in segment.read_text()


def test_what_cannot_be_recorded_is_said_and_changes_nothing(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file in the way")
    done = subprocess.run(
        [*EXEC, "sh", "-c", "exit 3"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "not recorded" in done.stderr


def test_a_signal_without_a_name_is_recorded_by_its_number(environ: dict[str, str]) -> None:
    number = signal.SIGRTMIN + 3
    done = subprocess.run(
        [*EXEC, "sh", "-c", f"kill -{number} $$"], env=environ, capture_output=True, check=False
    )
    assert done.returncode == -number
    (event,) = spooled(environ)
    assert event.error_type == f"signal_{number}"


def test_what_is_ignored_stays_ignored(environ: dict[str, str]) -> None:
    # As under nohup: neither we nor the child die of a hang-up.
    done = subprocess.run(
        [*EXEC, "sh", "-c", "kill -HUP $PPID; kill -HUP $$; sleep 0.2; echo alive"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_a_supervisor_without_a_terminal_interrupts_the_child(environ: dict[str, str]) -> None:
    script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [*EXEC, "sh", "-c", script], env=environ, stdout=subprocess.PIPE, start_new_session=True
    ) as supervised:
        assert supervised.stdout is not None
        assert supervised.stdout.readline() == b"ready\n"
        supervised.send_signal(signal.SIGINT)  # to it alone, as no keyboard does
        try:
            assert supervised.wait(timeout=20) == 5
        except BaseException:
            os.killpg(supervised.pid, signal.SIGKILL)
            raise
    (event,) = spooled(environ)
    assert event.error_type == "exit_5"
