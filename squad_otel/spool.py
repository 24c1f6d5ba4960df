"""Spool: append-only files in which short-lived processes leave records for the daemon.

The writing half (`home_folder`, `encode`, `append`) needs only the standard library, so that a
program that imports squad_otel pays for nothing else.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from squad_otel.errors import SpoolError

#: Every record begins with these bytes. A quote inside a JSON string is escaped, so they stand
#: nowhere else, and a reader that met a torn record can go on at the next one.
RECORD_START = b'{"v":1,'

#: Where a line of shell appends, which could not name a segment without starting `date`. The daemon
#: takes the file away under a name of its own, and a next line begins it anew.
SHELL_SEGMENT = "shell.jsonl"

_MAX_RECORD_BYTES = 60_000  # one write() of this size is not torn by other writers


def home_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where everything of ours lives: $SQUAD_OTEL_HOME, else ~/.squad-otel. Nothing is created."""
    named = environ.get("SQUAD_OTEL_HOME")
    if named:
        return Path(named).expanduser().absolute()
    return Path(environ.get("HOME") or Path.home()) / ".squad-otel"


def segment_name(at_s: float) -> str:
    """The name of the segment for records written in this hour (UTC), e.g. `20261126T18.jsonl`."""
    return time.strftime("%Y%m%dT%H.jsonl", time.gmtime(at_s))


def encode(record: Mapping[str, object]) -> bytes:
    """One spool line. None values are left out; what is no Unicode (a file name) becomes `?`.

    Raises SpoolError when the line is larger than what is written in one piece (60,000 bytes).
    """
    body = json.dumps(
        {key: value for key, value in record.items() if value is not None},
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    if body == "{}":
        raise SpoolError("an empty record cannot be spooled")
    line = RECORD_START + body[1:].encode(errors="replace") + b"\n"
    if len(line) > _MAX_RECORD_BYTES:
        raise SpoolError(f"a record of {len(line)} bytes is too large to be spooled")
    return line


def append(home: Path, lines: Iterable[bytes]) -> None:
    """Append encoded records, several in one `write()`. When this returns they are acknowledged.

    Raises SpoolError when the file cannot be opened or the disk is full; it says how many records
    were written until then.
    """
    folder = home / "spool"
    path = folder / segment_name(time.time())
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            make_private(home)
            make_private(folder)
            fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise SpoolError(f"cannot open the spool file {path}: {error.strerror}") from error
    done = 0
    try:
        for chunk in _chunks(lines):
            size = os.write(fd, chunk)
            done += chunk.count(b"\n", 0, size)
            if size != len(chunk):
                problem = f"only {size} of {len(chunk)} bytes"
                raise SpoolError(f"cannot write to {path}: {problem}", done)
    except OSError as error:
        raise SpoolError(f"cannot write to {path}: {error.strerror}", done) from error
    finally:
        os.close(fd)


def _chunks(lines: Iterable[bytes]) -> Iterable[bytes]:
    waiting: list[bytes] = []
    size = 0
    for line in lines:
        if size + len(line) > _MAX_RECORD_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(line)
        size += len(line)
    if waiting:
        yield b"".join(waiting)


def make_private(folder: Path) -> None:
    """Create `folder` for its owner alone (0700). An existing one must belong to us.

    Raises SpoolError when that is not possible.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
        return
    except FileExistsError:
        pass
    except OSError as error:
        raise SpoolError(
            f"cannot create {folder}: {error.strerror}; set SQUAD_OTEL_HOME to another folder"
        ) from error
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise SpoolError(f"{folder} is not a folder: move it away or set SQUAD_OTEL_HOME")
    if status.st_uid != os.geteuid():
        raise SpoolError(f"{folder} belongs to user {status.st_uid}, not to you")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)
