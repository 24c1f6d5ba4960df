"""Reflogs: what git writes down each time a ref moves, read from files bit by bit.

A reflog that is held open can be read to its end after it was deleted.
"""

# Paths are strings here: a quiet look is a handful of system calls a session.
# ruff: noqa: PTH116

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from squad_otel.batch import Batch
from squad_otel.events import NS

#: A reflog is read in pieces of this size, one piece a look.
CHUNK_BYTES = 1 << 20

BRANCHES = "refs/heads"

_TAIL_BYTES = 256
_MAX_MESSAGE = 4096


class Entry(NamedTuple):
    """A line of a reflog: the ref went from `old` to `new` (hex) at `at` (UTC ns, whole seconds).

    `message` is for telling what happened and never kept: it has subjects and addresses.
    """

    old: str
    new: str
    at: int
    message: str


_LINE = re.compile(
    rb"([0-9a-f]{40}|[0-9a-f]{64}) ([0-9a-f]{40}|[0-9a-f]{64}) "
    rb".*?> (\d{1,12}) [+-]\d{4,6}(?:\t(.*))?",
    re.DOTALL,
)


def parse_line(line: bytes) -> Entry | None:
    """The entry in one line (without its line feed); None where it is no line of a reflog."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    old, new, seconds, message = match.groups()
    at = int(seconds) * NS
    if at >= 1 << 63:
        return None
    text = (message or b"")[:_MAX_MESSAGE].decode(errors="replace")
    return Entry(old.decode(), new.decode(), at, text)


_COMMIT = re.compile(
    r"(?:commit(?: \([a-z -]+\))?|cherry-pick|revert|am):"
    r"|merge .*: (?:Merge made by|In-index merge)"
)
_PULL = re.compile(r"pull(?: .*?)?(?: \((?P<step>[a-z-]+)\))?: (?P<what>.*)", re.DOTALL)
_PULLED = ("Fast-forward", "Merge made by", "In-index merge")


def operation(message: str) -> str | None:
    """What a reflog's message tells: commit, push, pull, branch, or None.

    A commit is a new one, by whatever command: amend, merge, cherry-pick, revert and am too. What
    a rebase writes anew was counted before, and a fast-forward makes none. A pull is one pull,
    whether it went forward, merged (no commit then) or rebased: then its last step is it.
    """
    if message == "update by push":
        return "push"
    if message.startswith(("branch: Created from ", "Branch: copied ")):
        return "branch"
    if _COMMIT.match(message):
        return None if message == "cherry-pick: fast-forward" else "commit"
    if message == "initial pull":
        return "pull"
    pull = _PULL.fullmatch(message)
    if pull is None:
        return None
    done = pull["step"] == "finish" if pull["step"] else pull["what"].startswith(_PULLED)
    return "pull" if done else None


_MOVED = re.compile(
    r"checkout: moving from (?P<source>\S+) to (?P<target>\S+)"
    r"|Branch: renamed refs/heads/(?P<before>\S+) to refs/heads/(?P<after>\S+)"
    r"|[^:]* \(finish\): returning to refs/heads/(?P<back>\S+)"
)


def moved(message: str) -> tuple[str | None, str] | None:
    """The branches, from and to, that a line of HEAD's reflog moves between."""
    match = _MOVED.match(message)
    if match is None:
        return None
    source = match["source"] or match["before"]
    return source, match["target"] or match["after"] or match["back"]


def branch_names(entries: Sequence[Entry], name: str) -> list[str]:
    """The name that the branch, `name` after all of `entries`, had at each of them."""
    names = []
    for entry in reversed(entries):
        names.append(name)
        if entry.message.startswith(("Branch: renamed ", "Branch: copied ")):
            parts = entry.message.split(" ")
            if len(parts) == 5 and parts[4] == f"{BRANCHES}/{name}":
                name = parts[2].removeprefix(f"{BRANCHES}/")
    return names[::-1]


class Bookmark(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a reflog was read; `tail` is a hash of what stands before `offset` (bytes).

    By the hash a file is known again: a path may be deleted and made anew, an inode's number is
    reused, and an expired reflog is written anew. `inode` only tells files apart that are open at
    the same time and begin alike. `branch` is where HEAD stood there; `inside` is set where the
    rest of a line too long is passed over.
    """

    offset: int
    tail: str
    inode: int = 0
    branch: str | None = None
    inside: bool = False


_decode_bookmark = msgspec.json.Decoder(Bookmark).decode


def _bookmark(text: str | None) -> Bookmark | None:
    try:
        return None if text is None else _decode_bookmark(text)
    except (msgspec.MsgspecError, ValueError):
        return None


class OpenFile:
    """An open reflog. What a kill deletes can still be read through it."""

    def __init__(self, path: str) -> None:
        # A fifo would block, a link could lead anywhere.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FileNotFoundError(path)
        # Good for as long as the file is open.
        self.identity = (status.st_dev, status.st_ino)

    def size_bytes(self) -> int:
        return os.fstat(self.descriptor).st_size

    def deleted(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0

    def tail(self, offset: int) -> str:
        start = max(0, offset - _TAIL_BYTES)
        before = os.pread(self.descriptor, offset - start, start)
        return blake2b(before, digest_size=8).hexdigest()

    def holds(self, bookmark: Bookmark) -> bool:
        """Whether the bookmark was made in this file, or in one that reads the same up to it."""
        if not 0 < bookmark.offset <= self.size_bytes():
            return False
        return self.tail(bookmark.offset) == bookmark.tail

    def close(self) -> None:
        os.close(self.descriptor)


class Run(NamedTuple):
    """What one file gave in one look. `ends` are the offsets at which the entries end."""

    file: OpenFile
    start: Bookmark | None
    entries: list[Entry]
    ends: list[int]
    offset: int
    inside: bool
    whole: bool  # the file's end was reached


def read_run(file: OpenFile, start: Bookmark | None, batch: Batch) -> Run:
    begin = start.offset if start else 0
    inside = start.inside if start else False
    gone = file.deleted()  # asked first: what is written until then is in the piece
    piece = os.pread(file.descriptor, CHUNK_BYTES, begin)
    whole = len(piece) < CHUNK_BYTES
    position = 0
    if inside:
        position = piece.find(b"\n") + 1 or len(piece)
        inside = not piece[:position].endswith(b"\n")
    end = max(piece.rfind(b"\n") + 1, position)
    entries: list[Entry] = []
    ends: list[int] = []
    for line in piece[position:end].split(b"\n")[:-1]:
        position += len(line) + 1
        entry = parse_line(line)
        if entry is None:
            batch.skip("no_reflog_line")
            continue
        entries.append(entry)
        ends.append(begin + position)
    rest = len(piece) - end
    if rest == CHUNK_BYTES or (rest and whole and gone):
        batch.skip("line_too_long" if rest == CHUNK_BYTES else "torn_line")
        inside = True
        end = len(piece)
    return Run(file, start, entries, ends, begin + end, inside, whole)


class Reflog:
    """A path of a reflog, and the files that stood there and are not read and stored yet."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.key = path.encode(errors="backslashreplace").decode()
        self.files: list[OpenFile] = []
        self._settled: tuple[str | None, int] | None = None

    def open(self, batch: Batch) -> None:
        """Open what stands at the path now, if that is another file than the last one."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
            if not self.files or self.files[-1].identity != (status.st_dev, status.st_ino):
                self.files.append(OpenFile(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            batch.skip("unreadable_file")

    def read(self, text: str | None, batch: Batch) -> list[Run]:
        """What follows the bookmark, in order: what is left of deleted files, then the present."""
        if self._settled is not None and len(self.files) == 1:
            if self._settled == (text, self.files[0].size_bytes()):
                return []
            self._settled = None
        start = _bookmark(text)
        first = 0
        if start is not None:
            held = [i for i, file in enumerate(self.files) if file.holds(start)]
            own = [i for i in held if self.files[i].identity[1] == start.inode]
            first, start = ((own or held)[0], start) if held else (0, None)
        for file in self.files[:first]:  # the bookmark is past them, and it is stored
            file.close()
        del self.files[:first]
        runs: list[Run] = []
        for file in self.files:
            runs.append(read_run(file, start, batch))
            start = None
            if not runs[-1].whole:
                break
        return runs

    def settle(self, text: str | None, run: Run) -> None:
        """Remember that with this bookmark there is nothing to read until the file grows."""
        if run.whole and run.offset == run.file.size_bytes():
            self._settled = (text, run.offset)

    def close(self) -> None:
        for file in self.files:
            file.close()
        self.files.clear()
