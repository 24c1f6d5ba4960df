"""Reflogs: git writes them, and so may anybody who can write into `.git`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.stored import check_batch
from squad_otel.batch import Batch
from squad_otel.sources.reflog import OpenFile, branch_names, moved, operation, read_run

OLD, NEW = "0" * 40, "9" * 40
OPERATIONS = {None, "commit", "push", "pull", "branch"}


def check(data: bytes) -> None:
    """Every whole line is an entry or is counted, and what is read ends with a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        path.write_bytes(data)
        file = OpenFile(str(path))
        try:
            batch = Batch(skipped={})
            run = read_run(file, None, batch)
        finally:
            file.close()
    check_batch(batch)
    assert len(run.entries) + sum(batch.skipped.values()) == data.count(b"\n")
    assert run.offset == data.rfind(b"\n") + 1
    known = sum(line.startswith(_valid(b"")) for line in data.split(b"\n")[:-1])
    assert len(run.entries) >= known
    for entry, end in zip(run.entries, run.ends, strict=True):
        assert data[end - 1 : end] == b"\n"
        assert 0 <= entry.at < 2**63
        check_message(entry.message)
    assert len(branch_names(run.entries, "a")) == len(run.entries)


def check_message(message: str) -> None:
    """Any message tells one of the operations or none, and a move at least where it went."""
    assert operation(message) in OPERATIONS
    move = moved(message)
    assert move is None or move[1]


def _valid(message: bytes) -> bytes:
    return f"{OLD} {NEW} A <a@b> 1795000000 +0000\t".encode() + message


def seeds() -> Iterator[bytes]:
    """A line of each kind that git writes."""
    for message in (
        b"commit (initial): x",
        b"checkout: moving from main to u/side",
        b"Branch: renamed refs/heads/a to refs/heads/b",
        b"pull --rebase (finish): returning to refs/heads/main",
        b"merge x: Merge made by the 'ort' strategy.",
        b"update by push",
        b"branch: Created from HEAD",
    ):
        yield _valid(message) + b"\n"
    yield b"".join(_valid(b"commit: %d\n" % n) for n in range(3)) + b"torn"
