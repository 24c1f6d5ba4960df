"""What the command line takes to start: `--help` and `status`, against `python -c pass`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from squad_otel.batch import Batch
from squad_otel.journal import Journal
from squad_otel.sessions import Session

ROUNDS = 25
COMMAND = str(Path(sys.executable).with_name("squad-otel"))


def spent(commands: dict[str, list[str]], environ: dict[str, str]) -> dict[str, float]:
    """Seconds of each whole process: the best of a few rounds, in which all take turns."""
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(ROUNDS):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def make_journal(home: Path) -> None:
    """A journal of eight live sessions."""
    now = time.time_ns()
    sessions = [
        Session(
            id=f"s{i}",
            name=f"task {i}",
            program="claude",
            repository="shop",
            branch=f"b{i}",
            worktree=f"/w/{i}",
            started_at=now,
        )
        for i in range(8)
    ]
    journal = Journal(home, now)
    journal.append("bench", Batch(sessions=sessions), now)
    journal.close()


def main() -> None:
    """Print the ratios first."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "SQUAD_OTEL_HOME": folder}
        make_journal(Path(folder))
        took = spent(
            {
                "python -c pass": [sys.executable, "-c", "pass"],
                "--help": [COMMAND, "--help"],
                "status": [COMMAND, "status"],
            },
            environ,
        )
    bare = took["python -c pass"]
    print(f"{took['--help'] / bare:.1f}x  squad-otel --help / python -c pass (goal: 6x)")
    print(f"{took['status'] / bare:.1f}x  squad-otel status / python -c pass (goal: 12x)")
    for name, seconds in took.items():
        print(f"  {name:<15}{seconds * 1e3:7.1f} ms")
    print(f"  whole processes, the best of {ROUNDS}; status of 8 sessions, no daemon")


if __name__ == "__main__":
    main()
