"""The servers and their tools: on PATH, else in the clone's .tools/bin."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import urllib3

ROOT = Path(__file__).parents[2]


def tool(*names: str) -> str:
    """The first of `names` that is there. A missing one is a failure, not a skip."""
    folders = f"{os.environ['PATH']}:{ROOT / '.tools' / 'bin'}"
    for name in names:
        found = shutil.which(name, path=folders)
        if found is not None:
            return found
    raise AssertionError(f"{' or '.join(names)} is missing: `make setup` brings it")


def run(*arguments: str | Path, cwd: Path = ROOT) -> str:
    """Run a program that must succeed; returns what it said on both outputs."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}:\n{said}"
    return said


def version(program: str) -> tuple[int, ...]:
    """(2, 42, 0) of what `program --version` says."""
    said = run(program, "--version")
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    assert found is not None, said
    return tuple(int(part) for part in found.groups())


def sorted_files(folder: Path, pattern: str) -> Sequence[Path]:
    """The files of the bundle in `folder`; there is at least one."""
    files = sorted(folder.glob(pattern))
    assert files, f"no {pattern} in {folder}"
    return files


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait up to 30 s for a Prometheus or an Alertmanager; its log is told when it fails."""
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
                if pool.request("GET", f"{url}/-/ready").status == 200:
                    return
        except urllib3.exceptions.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"it was not ready: {log.read_text()}")
