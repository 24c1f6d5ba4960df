"""Where the demo plays: one folder with its own home, tmux, git identity, ports and programs.

Nothing outside it is written, and what runs in it can be told by its environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from squad_otel.demo import agent, sink
from squad_otel.errors import ServerError
from squad_otel.running import running, started_servers

#: The programs of the squad.
PROGRAMS = ("claude", "codex")

#: So long may the path of a socket be, in bytes.
_SOCKET_BYTES = 107 if sys.platform == "linux" else 103

_END_S = 5.0

#: What a process of the demo sees of the environment that the demo was started in.
_KEPT = ("LOGNAME", "USER", "TZ", "NO_COLOR", "PYTHONPATH", "COLORTERM", "TERM")

#: Waiting for a human is worth an alert at once; all ports are free ones.
_CONFIG = """\
poll_interval_s = 0.5
scrape_interval_s = 1
http_port = 0
prometheus_port = 0
alertmanager_port = 0
alert_session_waiting_s = 8
claude_squad_state = {state}
claude_config_dirs = {claude}
notify_webhook_url = {webhook}
"""

_GIT_CONFIG = """\
[user]
	name = Sam Dev
	email = sam@example.com
[init]
	defaultBranch = main
[pull]
	rebase = true
[advice]
	detachedHead = false
"""


class Stage:
    """The folder of one demo. `prepare` makes it, `end` ends all that runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.home = self.folder / "home"
        self.record = self.folder / "squad-otel"
        self.code = self.folder / "code"
        self.orders = self.folder / "orders"
        self.deliveries_file = self.folder / "alerts.jsonl"
        self._marker = self.folder / ".squad-otel-demo"
        self._tmux = self.folder / "tmux"
        self._bin = self.folder / "bin"
        self._lock: int | None = None
        self._webhook: subprocess.Popen[str] | None = None
        self.environment = {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "PATH": os.pathsep.join(
                (str(self._bin), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
            ),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            # Not every sh gives its place to the program that it is told to run; bash does.
            "SHELL": shutil.which("bash") or "/bin/sh",
            "TMPDIR": str(self.folder / "tmp"),
            "TMUX_TMPDIR": str(self._tmux),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "SQUAD_OTEL_HOME": str(self.record),
        }

    @property
    def tmux_folder(self) -> Path:
        """The folder for tmux's socket."""
        return self._tmux

    @property
    def program(self) -> Path:
        """`squad-otel` as it can be called here."""
        return self._bin / "squad-otel"

    # -- before -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder, anew if an earlier demo left it. Raises ServerError."""
        for program in ("tmux", "git"):
            if shutil.which(program) is None:
                raise ServerError(f"the demo needs {program}: install it, or put it on PATH")
        self._claim()
        for folder in (self.home, self.record, self.code, self.orders, self._tmux, self._bin):
            folder.mkdir(mode=0o700)
        (self.folder / "tmp").mkdir()
        (self.home / ".gitconfig").write_text(_GIT_CONFIG)
        for program in PROGRAMS:
            self._write_program(program, [agent.__file__, program, str(self.orders)])
        self._write_program("squad-otel", ["-m", "squad_otel"])

    def _claim(self) -> None:
        socket = self._tmux / f"tmux-{os.getuid()}" / "default"
        if len(os.fsencode(socket)) > _SOCKET_BYTES:
            raise ServerError(
                f"the folder {self.folder} is too deep for the socket of tmux (its path may have "
                f"{_SOCKET_BYTES} bytes): choose another one with --folder"
            )
        used = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
        if used and not self._marker.is_file():
            raise ServerError(
                f"{self.folder} is in use and not by a demo: choose another one with --folder"
            )
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._marker, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ServerError(
                f"another demo plays in {self.folder}: wait for its end, or choose another "
                "folder with --folder"
            ) from None
        self._end_processes(grace_s=0)
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self._marker:
                path.unlink()

    def _write_program(self, name: str, arguments: Sequence[str]) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *arguments])} "$@"\n')
        path.chmod(0o755)

    # -- what runs here -----------------------------------------------------------------------

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises ServerError when it fails and `check` is set."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,  # ctrl-c is for the demo, which ends all in order
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout or "").strip()
            raise ServerError(f"{shlex.join(command)} failed ({done.returncode}):\n{said}")
        return done

    def squad_otel(self, *arguments: str, check: bool = True) -> str:
        """Run a `squad-otel` command as a user would; returns what it printed."""
        return self.run(sys.executable, "-m", "squad_otel", *arguments, check=check).stdout

    def show(self, *arguments: str) -> bool:
        """Run a `squad-otel` command that prints where the demo prints; whether it went well."""
        command = [sys.executable, "-m", "squad_otel", *arguments]
        return not subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        ).returncode

    def start(self) -> str:
        """Start the webhook, then the daemon and the servers; returns what `up` said."""
        self._webhook = subprocess.Popen(
            [sys.executable, "-m", sink.__name__, str(self.deliveries_file)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._webhook.stdout is not None
        url = self._webhook.stdout.readline().strip()
        if not url:
            raise ServerError("the demo's webhook did not start")
        (self.record / "config.toml").write_text(
            _CONFIG.format(
                state=json.dumps(str(self.home / ".claude-squad" / "state.json")),
                claude=json.dumps(str(self.home / ".claude")),
                webhook=json.dumps(url),
            )
        )
        return self.squad_otel("up", "--servers", "local")

    def address(self, name: str) -> str | None:
        """The URL of the `daemon`, of `prometheus` or of `alertmanager`; None: it does not run."""
        if name == "daemon":
            state = running(self.record)
            return str(state["http"]) if state else None
        return started_servers(self.record).url(name)

    def deliveries(self) -> list[dict[str, Any]]:
        """The alerts that Alertmanager delivered so far, each with `received_at` (Unix s)."""
        try:
            lines = self.deliveries_file.read_text().splitlines()
        except FileNotFoundError:
            return []
        alerts = []
        for line in lines:
            delivery = json.loads(line)
            for alert in delivery["body"]["alerts"]:
                alerts.append({**alert, "received_at": delivery["received_at"]})
        return alerts

    # -- the end ------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """All that runs on this stage: each process has the demo's record in its environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.pid != os.getpid()
                    and process.environ().get("SQUAD_OTEL_HOME") == str(self.record)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def end(self) -> list[str]:
        """End all that runs here, in order; returns the names of what had to be killed."""
        if self.record.exists():
            self.squad_otel("down", check=False)
        if self._tmux.exists():
            self.run("tmux", "kill-server", check=False)
        if self._webhook is not None:
            self._webhook.terminate()
            self._webhook.wait()
            if self._webhook.stdout is not None:
                self._webhook.stdout.close()
        killed = self._end_processes(_END_S)
        self.release()
        return killed

    def release(self) -> None:
        """Let another demo have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_processes(self, grace_s: float) -> list[str]:
        """Wait for what is ending; end what does not."""
        deadline = time.monotonic() + grace_s
        while left := self.processes():
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        names = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                names.append(process.name())
                process.kill()
                process.wait(_END_S)
        return names
