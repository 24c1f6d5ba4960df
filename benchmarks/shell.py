"""One spool line from `/bin/sh`, as a hook writes it, against a bare `printf >> file`."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

RUNS = 400
ROUNDS = 5
RECORD = '{"v":1,"type":"error","session":"%s","error_type":"hook"}'


def spent(script: str, folder: Path) -> float:
    """Seconds a run of `/bin/sh -c script`: the best of a few rounds."""
    environ = {"SQUAD_SESSION_ID": "s-7", "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(RUNS):
            subprocess.run(["/bin/sh", "-c", script], env=environ, check=True)
        best = min(best, time.perf_counter() - began)
    return best / RUNS


def main() -> None:
    """Print the ratio first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ".squad-otel" / "spool").mkdir(parents=True)
        target = ">> ~/.squad-otel/spool/shell.jsonl"
        ours = spent(f"printf '{RECORD}\\n' \"$SQUAD_SESSION_ID\" {target}", folder)
        bare = spent("printf 'x\\n' >> ~/file", folder)
        size = (folder / ".squad-otel" / "spool" / "shell.jsonl").stat().st_size
    assert size == RUNS * ROUNDS * (len(RECORD) + 2)
    print(f"{ours / bare:.2f}x  a spool line from /bin/sh / printf >> file (goal: 1.5x)")
    print(f"  spool line  {ours * 1e3:6.3f} ms")
    print(f"  printf      {bare * 1e3:6.3f} ms")
    print(f"  {RUNS} runs of /bin/sh -c, the best of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
