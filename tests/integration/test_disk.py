"""Disks that are full, cannot be written, or hold a damaged journal: real ones, of 64 MB.

The full and the unwritable one are small file systems in memory, mounted in a namespace of their
own, in which this very file then plays the scene.
"""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from squad_otel import spool
from squad_otel.events import NS, Event
from squad_otel.journal import Batch, Journal
from squad_otel.schema import journal_path, open_reader
from tests.stack import ROOT, Stack, ended, get, wait_for

pytestmark = pytest.mark.integration

RECORDED = 100_300  # more than a producer keeps while it cannot write

PRODUCER = f"""
import sys, squad_otel
squad_otel.init()
for _ in range({RECORDED}):
    squad_otel.prompt()
print(squad_otel.flush(), flush=True)  # the disk is full
sys.stdin.readline()
print(squad_otel.flush(), flush=True)
"""


def in_small_disk(scene: str, folder: Path) -> None:
    """Play a scene below `folder`, a file system of 64 MB of its own."""
    play = '"$2" -m tests.integration.test_disk "$3" "$1"'
    script = f'mount -t tmpfs -o size=64m tmpfs "$1" && exec {play}'
    may = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if may.returncode:
        pytest.skip(f"this machine lets nobody mount a file system: {may.stderr.strip()}")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(folder), sys.executable, scene],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_full_disk_drops_with_a_counted_reason_and_recovers(tmp_path: Path) -> None:
    in_small_disk("full", tmp_path)


def test_a_home_that_cannot_be_written_is_read_and_nothing_else(tmp_path: Path) -> None:
    in_small_disk("unwritable", tmp_path)


def metric(stack: Stack, part: str) -> int:
    """The sum of the series in whose lines `part` stands."""
    lines = [line for line in get(f"{stack.url}/metrics").splitlines() if line[0] != "#"]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if part in line)


def prompts(stack: Stack) -> int:
    reader = open_reader(stack.home)
    try:
        sql = "SELECT count(*) FROM events WHERE type = 'prompt.sent'"
        return int(reader.execute(sql).fetchone()[0])
    finally:
        reader.close()


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC


def full(folder: Path) -> None:
    stack = Stack(folder)
    with ended(stack.daemon):
        stack.start_daemon()
        spool.append(stack.home, [spool.encode({"type": "prompt.sent"}) for _ in range(100)])
        wait_for(lambda: prompts(stack) == 100, "the first records")
        # What is in the spool already when the disk is full cannot be committed: it waits there.
        os.kill(stack.daemon.pid, signal.SIGSTOP)
        spool.append(stack.home, [spool.encode({"type": "prompt.sent"}) for _ in range(5000)])
        fill(folder / "filler")
        os.kill(stack.daemon.pid, signal.SIGCONT)
        errors = "squad_otel_source_errors_total"
        wait_for(lambda: metric(stack, errors) > 0, "a counted failure")
        assert prompts(stack) == 100
        # The page that the segment ends in has room for a few more lines.
        said = (stack.run("exec", "--", "true").stderr for _ in range(200))
        assert any("not recorded" in words for words in said)
        with subprocess.Popen(
            [sys.executable, "-c", PRODUCER],
            env=stack.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as producer:
            assert producer.stdout is not None
            assert producer.stdout.readline() == "False\n"
            (folder / "filler").unlink()
            producer.communicate("\n", timeout=60)

        def accounted() -> int:
            return prompts(stack) - 5100 + metric(stack, 'reason="dropped_by_producer"')

        wait_for(lambda: accounted() == RECORDED, "every record, written or counted", 60)
        assert prompts(stack) > 5100
        wait_for(lambda: metric(stack, "squad_prompts_total") == prompts(stack), "the series")


def unwritable(folder: Path) -> None:
    stack = Stack(folder)
    now = time.time_ns()
    journal = Journal(stack.home, now - NS)
    events = [Event(id="p", type="prompt.sent", occurred_at=now, source="x")]
    journal.append("spool", Batch(events=events), now)
    journal.close()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    for command in (["status"], ["sessions", "list"], ["report", "weekly"], ["down"]):
        done = stack.run(*command)
        assert "squad-otel:" not in done.stderr, done.stderr
    for command in (["daemon", "run"], ["up", "--servers", "none"]):
        done = stack.run(*command, check=False)
        assert done.returncode == 1, command
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
    assert "not recorded" in stack.run("exec", "--", "true").stderr


def test_a_damaged_journal_is_said_and_left_alone(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    now = time.time_ns()
    journal = Journal(stack.home, now - NS)
    events = [
        Event(id=f"p{n}", type="prompt.sent", occurred_at=now, source="x") for n in range(2000)
    ]
    journal.append("spool", Batch(events=events), now)
    journal.close()
    path = journal_path(stack.home)
    with sqlite3.connect(path) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sessions'").fetchone()[
            0
        ]
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    before = path.read_bytes()
    spool.append(stack.home, [spool.encode({"type": "prompt.sent"})])
    for command in (["daemon", "run"], ["status"], ["report", "weekly"]):
        done = stack.run(*command, check=False)
        assert done.returncode == 1, command
        assert "damaged" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert path.read_bytes() == before
    # As it says: moved away, a new one begins, and what waits in the spool is in it.
    path.rename(tmp_path / "old.db")
    with ended(stack.daemon):
        stack.start_daemon()
        wait_for(lambda: prompts(stack) == 1, "the record of the spool")


if __name__ == "__main__":
    {"full": full, "unwritable": unwritable}[sys.argv[1]](Path(sys.argv[2]))
    os._exit(0)
