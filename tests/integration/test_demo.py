"""The demo as a user runs it: all of it, its end by ctrl-c, and without the servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from squad_otel.demo.agent import read_scenes
from tests.squad import wait_until
from tests.stack import ROOT

pytestmark = pytest.mark.integration

TOOLS = ROOT / ".tools" / "bin"


class User:
    """Somebody with a home, a git configuration and settings of their own, in none of which the
    demo may look or write."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "user"
        self.demo = folder / "demo"
        self.home.mkdir()
        (self.home / "tmp").mkdir()
        hooks = self.home / "hooks"
        hooks.mkdir()
        hook = hooks / "post-commit"
        hook.write_text(f"#!/bin/sh\necho run >> {self.home}/hook-was-run\n")
        hook.chmod(0o755)
        (self.home / ".gitconfig").write_text(
            f"[user]\nname = Real User\nemail = real@example.org\n[core]\nhooksPath = {hooks}\n"
        )
        (self.home / ".tmux.conf").write_text("set -g status off\n")
        self.environ = {
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "LANG": "C.UTF-8",
            "SQUAD_OTEL_HOME": str(self.home / ".squad-otel"),
            "SQUAD_OTEL_HTTP_PORT": "1",
            "SQUAD_SESSION_ID": "mine",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            "TMUX": f"{self.home}/tmux,1,0",
        }
        self.before = self.everything()

    def everything(self) -> dict[str, object]:
        """Each file of the home and what is in it."""
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in sorted(self.home.rglob("*"))
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "squad_otel", "demo", "--folder", str(self.demo), *arguments]

    def left(self) -> list[str]:
        """Processes that have to do with the demo's folder, or with this home."""
        found = []
        for process in psutil.process_iter():
            try:
                marks = [process.cwd(), *process.cmdline(), *process.environ().values()]
            except psutil.Error:
                continue
            if any(str(self.demo) in mark or str(self.home) in mark for mark in marks):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        return found


@pytest.fixture
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    folder = Path(tmp_path_factory.mktemp("d"))  # short, for the sake of tmux's socket
    someone = User(folder)
    yield someone
    assert someone.left() == []
    assert someone.everything() == someone.before


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_whole_demo(user: User) -> None:
    done = subprocess.run(
        user.command(),
        env=user.environ,
        cwd=user.home,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    output = done.stdout
    assert done.returncode == 0, output + done.stderr
    assert "Yes, all of it: 4 sessions" in output
    assert "\x1b" not in output, "escapes for a reader that is no terminal"
    for name in ("report.html", "alerts.jsonl", "truth.json", "squad-otel"):
        assert str(user.demo / name) in output
        assert (user.demo / name).exists()
    for session in ("checkout page", "fix login", "retry payments"):
        assert session in output.partition("$ squad-otel status")[2]
    assert "webshop" in (user.demo / "report.html").read_text()

    # The truth itself, by another way: what git says was done and by whom.
    truth = json.loads((user.demo / "truth.json").read_text())
    told = {(row["event"], row["repository"], row["succeeded"]): 0 for row in truth["counts"]}
    for row in truth["counts"]:
        told[row["event"], row["repository"], row["succeeded"]] += row["count"]
    for repository in ("webshop", "payments"):
        objects = git(
            user.demo / "code" / repository, "cat-file", "--batch-all-objects", "--batch-check"
        ).splitlines()
        commits = [line.split()[0] for line in objects if " commit " in line]
        # A commit that a pull wrote anew keeps its author's time, and so it is no second one.
        authors = {
            git(user.demo / "code" / repository, "log", "-1", "--format=%an %at %s", commit)
            for commit in commits
        }
        by_the_squad = [
            line for line in authors if line.startswith("Sam ") and "Begin " not in line
        ]
        assert len(by_the_squad) == told["git.commit", repository, True]
    assert told["git.push", "payments", False] == 1
    assert told["session.killed", "payments", True] == 1

    alerts = [
        alert
        for line in (user.demo / "alerts.jsonl").read_text().splitlines()
        for alert in json.loads(line)["body"]["alerts"]
        if alert["labels"]["alertname"] == "SquadSessionWaiting"
    ]
    assert alerts
    assert {alert["labels"]["repository"] for alert in alerts} == {"webshop"}
    assert {alert["labels"]["branch"] for alert in alerts} == {"sam/fix-login"}
    assert all(alert["labels"]["session"].startswith("fix login") for alert in alerts)
    asked = datetime.fromtimestamp(truth["alert"]["waits_since"], UTC)
    seconds = [f"{asked + timedelta(seconds=n):%Y-%m-%d %H:%M:%S}" for n in range(-1, 5)]
    text = alerts[0]["annotations"]["description"]
    assert any(second in text for second in seconds), (text, seconds)


def test_ctrl_c_ends_all_of_it(user: User) -> None:
    child = subprocess.Popen(
        user.command(),
        env=user.environ,
        cwd=user.home,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "starts: codex" in line:
            break
    assert len(user.left()) > 5, "daemon, webhook, tmux and agents run by now"
    os.killpg(child.pid, signal.SIGINT)
    rest = child.stdout.read()
    child.stdout.close()
    assert child.wait(timeout=60) == 1
    assert "Everything is stopped" in rest
    assert "Traceback" not in rest


def test_without_the_servers_it_says_so_and_goes_on(user: User, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for path in Path(folder).glob("*"):
            if not path.name.startswith(("prometheus", "alertmanager")):
                link = programs / path.name
                if not link.exists():
                    link.symlink_to(path)
    environ = {**user.environ, "PATH": str(programs)}
    assert shutil.which("prometheus", path=str(programs)) is None
    done = subprocess.run(
        user.command(), env=environ, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SquadSessionWaiting is left out" in done.stdout
    assert "Yes, all of it: 4 sessions" in done.stdout
    assert not (user.demo / "alerts.jsonl").exists()


@pytest.mark.parametrize("program", ["claude", "codex"])
def test_an_agent_shows_the_recorded_screens(program: str, tmp_path: Path) -> None:
    """What tmux then holds is, line for line, what was recorded."""
    orders = tmp_path / "orders"
    orders.mkdir()
    worktree = tmp_path / "work"
    worktree.mkdir()
    environ = {
        **os.environ,
        "TMUX_TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
    }
    environ.pop("TMUX", None)
    agent = ROOT / "squad_otel" / "demo" / "agent.py"
    command = ["tmux", "-u", "-f", "/dev/null"]

    def tmux(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], env=environ, capture_output=True, text=True, check=True
        ).stdout

    tmux(
        "new-session",
        "-d",
        "-s",
        "x",
        "-x",
        "80",
        "-y",
        "50",
        "-c",
        str(worktree),
        f"exec {sys.executable} {agent} {program} {orders}",
    )
    try:
        scenes = [scene for scene in read_scenes(program) if scene.width == 80]
        for number, scene in enumerate(scenes, start=1):
            with open(orders / "work.orders", "a") as file:
                order = {"number": number, "do": "show", "scenes": [scene.name]}
                file.write(json.dumps(order) + "\n")
            pictures = [
                "\n".join(map(plain, frame["lines"])).rstrip("\n") for frame in scene.frames
            ]

            def shown(pictures: list[str] = pictures) -> bool:
                return tmux("capture-pane", "-p", "-t", "x").rstrip("\n") in pictures

            wait_until(shown, f"scene {scene.name}")
        assert (
            tmux("display-message", "-p", "-t", "x", "#{pane_current_command}").strip() == program
        )
    finally:
        tmux("kill-server")


def plain(line: str) -> str:
    """A line without its styles, and without the blanks that tmux leaves out at its end."""
    first, *styled = line.split("\x1b[")
    return (first + "".join(part.partition("m")[2] for part in styled)).rstrip(" ")
