"""The daemon with real tmux sessions and worktrees, against a bare `tmux list-panes` a second."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from squad_otel.demo.squad import Squad

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
SIZES = (5, 25, 50)
AGENT = "sh -c 'while :; do echo working; sleep 5; done'"


def busy_s(process: psutil.Process) -> float:
    """CPU seconds of a process and of its children that ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def spent(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """CPU seconds that a command takes in the time measured, and its memory at the end (MB)."""
    child = subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process = psutil.Process(child.pid)
        time.sleep(5)  # the start is not what is asked
        before = busy_s(process)
        time.sleep(SECONDS)
        return busy_s(process) - before, process.memory_info().rss / 1e6
    finally:
        child.terminate()
        child.wait()


def main() -> None:
    """Print the ratios first."""
    found = []
    with tempfile.TemporaryDirectory(prefix="sq", dir="/tmp") as folder:
        home = Path(folder)
        with Squad(home / "h", home / "t") as squad:
            repo = squad.make_repo(home / "repo")
            environ = {
                **squad.environment,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "SQUAD_OTEL_HOME": str(home / "record"),
                "SQUAD_OTEL_HTTP_PORT": "0",
            }
            daemon = [sys.executable, "-m", "squad_otel", "daemon", "run"]
            loop = "while :; do tmux list-panes -a >/dev/null; sleep 1; done"
            for size in SIZES:
                while len(squad.instances) < size:
                    squad.create(f"s{len(squad.instances)}", repo, AGENT)
                bare, _ = spent(["sh", "-c", loop], environ)
                ours, memory = spent(daemon, environ)
                found.append((size, ours, bare, memory))
    for size, ours, bare, _ in found:
        print(f"{ours / bare:6.1f}x  daemon / a loop of tmux list-panes, {size} sessions")
    for size, ours, bare, memory in found:
        core = ours / SECONDS * 100
        print(
            f"  {size:3} sessions: {core:5.2f} % of a core (goal at 50: 3 %), "
            f"{memory:.0f} MB (goal: 80 MB); bare loop {bare / SECONDS * 100:.2f} %"
        )
    print(f"  {SECONDS} s each, one look a second, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
