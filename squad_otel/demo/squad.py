"""A claude-squad for the demo and the tests: it leaves in tmux, git and its state file what the
real one leaves, in the same order, and nothing more. Not a line of the real one is in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

Size = tuple[int, int]

BIRTH: Size = (80, 24)
PREVIEW: Size = (111, 39)
FULL: Size = (180, 50)

RUNNING, PAUSED = 0, 3


def wait_until(seen: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait until `seen()`; fails with `what` when it does not come about."""
    deadline = time.monotonic() + timeout_s
    while not seen():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {what}")
        time.sleep(0.02)


class TerminalClient:
    """A process on a terminal of its own: a pseudo terminal that can be resized."""

    def __init__(self, command: list[str], size: Size, environment: dict[str, str]) -> None:
        # Nobody reads what is shown: tmux drops what a slow terminal does not take.
        self._terminal, inner = pty.openpty()
        self._set_size(size)
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            start_new_session=True,
        )
        os.close(inner)

    @property
    def pid(self) -> int:
        return self.process.pid

    def resize(self, size: Size) -> None:
        self._set_size(size)
        with contextlib.suppress(ProcessLookupError):  # the session may be gone, and it with it
            os.kill(self.pid, signal.SIGWINCH)

    def _set_size(self, size: Size) -> None:
        width, height = size
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        """Hang up, as when a terminal's window is closed."""
        if self._terminal < 0:
            return
        os.close(self._terminal)
        self._terminal = -1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGHUP)
        self.process.wait(timeout=10)


@dataclass
class Instance:
    """One session as the squad's own program knows it."""

    title: str
    repo: Path
    program: str
    branch: str
    worktree: Path
    base: str
    created_at: datetime
    tmux: str
    status: int = RUNNING
    client: TerminalClient | None = None


@dataclass
class Squad:
    """A claude-squad in `home`, with the tmux server of `tmux_dir` (a short path, for the socket).

    It is running when it is made. `quit` ends it and leaves the sessions alone, `start` runs it
    again; `close` ends the tmux server too. Instances are named by their titles. What is not said
    by a method here (attach, pause…) leaves no trace in the state file: that is how it is.
    """

    home: Path
    tmux_dir: Path
    preview: Size = PREVIEW
    full: Size = FULL
    prefix: str = "dev/"
    instances: dict[str, Instance] = field(default_factory=dict)
    people: list[TerminalClient] = field(default_factory=list)
    lingering: list[TerminalClient] = field(default_factory=list)
    running: bool = False

    def __post_init__(self) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMUX_TMPDIR": str(self.tmux_dir),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "GIT_AUTHOR_NAME": "Dev",
            "GIT_AUTHOR_EMAIL": "dev@example.com",
            "GIT_COMMITTER_NAME": "Dev",
            "GIT_COMMITTER_EMAIL": "dev@example.com",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tmux_dir.mkdir(parents=True, exist_ok=True)
        if not self.state_file.exists():
            self._write({"help_screens_seen": 0, "instances": []})
        self.start()

    def __enter__(self) -> Squad:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        return self.home / ".claude-squad"

    @property
    def state_file(self) -> Path:
        return self.folder / "state.json"

    # What a person does with it

    def create(self, title: str, repo: Path, program: str) -> Instance:
        """A new session: branch and worktree, tmux session, own client, and only then the file."""
        created_at = datetime.now(UTC)
        branch = self.prefix + branch_part(title)
        worktree = self.folder / "worktrees" / f"{branch}_{time.time_ns():x}"
        base = self.git(repo, "rev-parse", "HEAD")
        self.git(repo, "worktree", "add", "-q", "-b", branch, str(worktree), base)
        instance = Instance(
            title, repo, program, branch, worktree, base, created_at, tmux_name(title)
        )
        self._new_tmux_session(instance)
        self.instances[title] = instance
        self._open_client(instance)
        self._save()
        return instance

    def attach(self, title: str) -> None:
        """The own client grows to the whole terminal. Nothing else happens."""
        self._resize(self.instances[title], self.full)

    def detach(self, title: str) -> None:
        """A new own client replaces the old one."""
        instance = self.instances[title]
        before = self.clients(title)
        self._close_client(instance)
        wait_until(lambda: len(self.clients(title)) < len(before), "the old client's end")
        self._open_client(instance)

    def resize_terminal(self, preview: Size, full: Size) -> None:
        """The terminal in which the squad's program runs gets another size; nobody is attached."""
        self.preview, self.full = preview, full
        for instance in self.instances.values():
            if instance.client and instance.status != PAUSED:
                self._resize(instance, preview)

    def pause(self, title: str) -> None:
        """Commit what is there, put the worktree away. The agent runs on, in a deleted folder."""
        instance = self.instances[title]
        if self.git(instance.worktree, "status", "--porcelain"):
            self.git(instance.worktree, "add", ".")
            when = datetime.now(UTC).strftime("%d %b %y %H:%M UTC")
            message = f"[claudesquad] update from '{title}' on {when} (paused)"
            self.git(instance.worktree, "commit", "-q", "-m", message, "--no-verify")
        self._remove_worktree(instance)
        instance.status = PAUSED

    def resume(self, title: str) -> None:
        """The worktree comes back at the same path; tmux is attached again, or made anew.

        The client of before is forgotten, not closed: it lingers until `collect_garbage`.
        """
        instance = self.instances[title]
        self.git(instance.repo, "worktree", "add", "-q", str(instance.worktree), instance.branch)
        instance.status = RUNNING
        if not self._has_tmux_session(instance):
            self._close_client(instance)
            self._new_tmux_session(instance)
        if instance.client is not None:
            self.lingering.append(instance.client)
        self._open_client(instance)

    def kill(self, title: str) -> None:
        """Out of the file first; then the tmux session, the worktree and the branch."""
        self.unregister(title)
        self.finish_kill(title)

    def unregister(self, title: str) -> None:
        """The first half of a kill: the others are read from the file and saved without this one.

        Reading them is starting them: each that is not paused in the file is running again, and
        gets one more client, of 80x24, which lingers until `collect_garbage`.
        """
        saved = json.loads(self.state_file.read_text())["instances"]
        statuses = {entry["title"]: entry["status"] for entry in saved}
        for other, status in statuses.items():
            instance = self.instances.get(other)
            if instance and status != PAUSED and self._has_tmux_session(instance):
                self.lingering.append(self._attach_client(instance))
        self._save({t: s if s == PAUSED else RUNNING for t, s in statuses.items() if t != title})

    def finish_kill(self, title: str) -> None:
        """The second half of a kill."""
        instance = self.instances.pop(title)
        if self._has_tmux_session(instance):
            self.tmux("kill-session", "-t", f"={instance.tmux}")
        self._close_client(instance)
        if instance.worktree.exists():
            self._remove_worktree(instance)
        self.git(instance.repo, "branch", "-q", "-D", instance.branch)

    def collect_garbage(self) -> None:
        """The clients that were forgotten are closed, as happens within two minutes."""
        for client in self.lingering:
            client.close()
        self.lingering = []

    def reset(self) -> None:
        """`cs reset`: an empty file, no tmux sessions, no worktrees; the branches stay."""
        self._write({"help_screens_seen": 2, "instances": []})
        for instance in self.instances.values():
            if self._has_tmux_session(instance):
                self.tmux("kill-session", "-t", f"={instance.tmux}")
            self._close_client(instance)
            if instance.worktree.exists():
                self._remove_worktree(instance)
        self.instances = {}

    def quit(self) -> None:
        """The program ends: the file is saved, its clients go, the sessions stay."""
        if not self.running:
            return
        self.running = False
        self._save()
        for instance in self.instances.values():
            self._close_client(instance)
        self.collect_garbage()

    def start(self) -> None:
        """The program runs (again): a new client in every session that is not paused."""
        self.running = True
        for instance in self.instances.values():
            if instance.status != PAUSED and self._has_tmux_session(instance):
                self._open_client(instance)

    # What happens to it

    def agent_dies(self, title: str) -> None:
        """The agent ends by itself, and its tmux session with it. The file does not notice."""
        instance = self.instances[title]
        pid = self.tmux("list-panes", "-t", f"={instance.tmux}:", "-F", "#{pane_pid}")
        os.kill(int(pid.splitlines()[0]), signal.SIGKILL)
        wait_until(lambda: not self._has_tmux_session(instance), f"the end of {instance.tmux}")
        self._close_client(instance)

    def open_terminal_tab(self, title: str) -> None:
        """The Terminal tab is shown: a second tmux session, a shell in the same worktree."""
        instance = self.instances[title]
        name = instance.tmux.replace("claudesquad_", "claudesquad_term_", 1)
        self.tmux("new-session", "-d", "-s", name, "-c", str(instance.worktree), "sleep 600")

    def person_attaches(self, title: str, size: Size = (120, 40)) -> TerminalClient:
        """Somebody's own `tmux attach`, from a shell of theirs; `close()` it to leave."""
        name = self.instances[title].tmux
        before = self.clients(title)
        person = TerminalClient(
            ["sh", "-c", f"tmux -u attach-session -t '={name}'; exit"], size, self.environment
        )
        self.people.append(person)
        wait_until(lambda: len(self.clients(title)) > len(before), f"a client on {name}")
        return person

    def person_leaves(self, title: str, person: TerminalClient) -> None:
        before = self.clients(title)
        person.close()
        wait_until(lambda: len(self.clients(title)) < len(before), "a client less")

    def save(self) -> None:
        """Write the file once more, as any create, kill or quit of another session does."""
        self._save()

    def close(self) -> None:
        """End everything that was started here."""
        for client in (*self.people, *self.lingering):
            client.close()
        for instance in self.instances.values():
            self._close_client(instance)
        subprocess.run(
            ["tmux", "kill-server"], env=self.environment, capture_output=True, check=False
        )

    # Its means

    def tmux(self, *arguments: str) -> str:
        return self._run("tmux", "-u", "-f", "/dev/null", *arguments)

    def git(self, folder: Path, *arguments: str) -> str:
        return self._run("git", "-C", str(folder), *arguments)

    def clients(self, title: str) -> list[str]:
        """The sizes and process ids of the clients of a session: `111x39 4711`."""
        name = self.instances[title].tmux
        form = "#{client_width}x#{client_height} #{client_pid}"
        return self.tmux("list-clients", "-t", f"={name}", "-F", form).splitlines()

    def screen(self, title: str) -> str:
        """What the agent's pane shows."""
        return self.tmux("capture-pane", "-p", "-t", f"={self.instances[title].tmux}:")

    def make_repo(self, folder: Path) -> Path:
        """A repository with one commit."""
        folder.mkdir(parents=True)
        self.git(folder, "init", "-q", "-b", "main")
        (folder / "README").write_text("hello\n")
        self.git(folder, "add", ".")
        self.git(folder, "commit", "-q", "-m", "first")
        return folder

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode:
            raise AssertionError(f"{command}: {done.stderr.strip()}")
        return done.stdout.removesuffix("\n")

    def _new_tmux_session(self, instance: Instance) -> None:
        place = str(instance.worktree)
        self.tmux("new-session", "-d", "-s", instance.tmux, "-c", place, instance.program)
        self.tmux("set-option", "-t", f"={instance.tmux}:", "history-limit", "10000")
        self.tmux("set-option", "-t", f"={instance.tmux}:", "mouse", "on")

    def _has_tmux_session(self, instance: Instance) -> bool:
        done = subprocess.run(
            ["tmux", "has-session", "-t", f"={instance.tmux}"],
            env=self.environment,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def _open_client(self, instance: Instance) -> None:
        """A client is born with 80x24 and gets the preview's size right after."""
        instance.client = self._attach_client(instance)
        self._resize(instance, self.preview)

    def _attach_client(self, instance: Instance) -> TerminalClient:
        command = ["tmux", "-u", "attach-session", "-t", f"={instance.tmux}"]
        client = TerminalClient(command, BIRTH, self.environment)
        wait_until(
            lambda: any(line.endswith(f" {client.pid}") for line in self.clients(instance.title)),
            f"a client on {instance.tmux}",
        )
        return client

    def _resize(self, instance: Instance, size: Size) -> None:
        assert instance.client is not None
        instance.client.resize(size)
        line = f"{size[0]}x{size[1]} {instance.client.pid}"
        wait_until(lambda: line in self.clients(instance.title), line)

    def _close_client(self, instance: Instance) -> None:
        if instance.client is not None:
            instance.client.close()
            instance.client = None

    def _remove_worktree(self, instance: Instance) -> None:
        self.git(instance.repo, "worktree", "remove", "-f", str(instance.worktree))
        self.git(instance.repo, "worktree", "prune")

    def _save(self, statuses: dict[str, int] | None = None) -> None:
        """Write all instances as they are, or only those of `statuses`, with these."""
        now = datetime.now(UTC)
        if statuses is None:
            statuses = {title: instance.status for title, instance in self.instances.items()}
        entries = [
            self._entry(self.instances[title], status, now) for title, status in statuses.items()
        ]
        self._write({"help_screens_seen": 2, "instances": entries})

    def _entry(self, instance: Instance, status: int, now: datetime) -> dict[str, object]:
        return {
            "title": instance.title,
            "path": str(instance.repo),
            "branch": instance.branch,
            "status": status,
            "height": 0,
            "width": 0,
            "created_at": rfc3339(instance.created_at),
            "updated_at": rfc3339(now),
            "auto_yes": False,
            "program": instance.program,
            "worktree": {
                "repo_path": str(instance.repo),
                "worktree_path": str(instance.worktree),
                "session_name": instance.title,
                "branch_name": instance.branch,
                "base_commit_sha": instance.base,
                "is_existing_branch": False,
            },
            "diff_stats": self._diff_stats(instance),
        }

    def _diff_stats(self, instance: Instance) -> dict[str, object]:
        """The whole diff stands in the file: it is somebody's code."""
        if not instance.worktree.exists():
            return {"added": 0, "removed": 0, "content": ""}
        self.git(instance.worktree, "add", "-N", ".")
        content = self.git(instance.worktree, "diff", instance.base)
        lines = content.splitlines()
        return {
            "added": sum(line.startswith("+") and not line.startswith("+++") for line in lines),
            "removed": sum(line.startswith("-") and not line.startswith("---") for line in lines),
            "content": content,
        }

    def _write(self, state: dict[str, object]) -> None:
        """In place: the file is emptied, then written; a reader can come in between."""
        with open(self.state_file, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=2)


def tmux_name(title: str) -> str:
    """The tmux session's name: no whitespace, no dots."""
    return "claudesquad_" + re.sub(r"\s+", "", title).replace(".", "_")


def branch_part(title: str) -> str:
    """The title as a branch: lower case, dashes for blanks, only plain characters."""
    kept = re.sub(r"[^a-z0-9\-_/.]", "", title.lower().replace(" ", "-"))
    return re.sub(r"-+", "-", kept).strip("-/") or "session"


def rfc3339(moment: datetime) -> str:
    """As Go writes it: up to nine decimals, Z for UTC."""
    return moment.isoformat().replace("+00:00", "Z")
