"""Where data goes: stdout, or a file that is whole or not there; and how far it has come."""

from __future__ import annotations

import os
import select
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import Progress

from squad_otel.errors import QueryError

T = TypeVar("T")

_BAR_AFTER_S = 1.0  # what takes less needs no bar
_BAR_STEP = 256  # records between two looks at the clock


@contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """A file to write text to; None and `-` are stdout.

    A file gets its name when it is whole, and only its owner may read it; what is no plain file
    (a pipe, a device) is written to as it stands. Raises QueryError when it cannot be written.
    """
    if path is None or str(path) == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        target = path.resolve()  # a link stays one
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8", newline="") as file:
                yield file
            return
        with _replacing(target) as file:
            yield file
    except OSError as error:
        raise QueryError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _replacing(target: Path) -> Iterator[TextIO]:
    descriptor, name = tempfile.mkstemp(prefix=".squad-otel-", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def with_progress(records: Iterable[T], count: Callable[[], int], to_file: bool) -> Iterator[T]:
    """The records, with a bar on stderr when they take long.

    Only where stderr is a terminal and the records go to a file: a pager or a program at the
    other end of a pipe may use the terminal too. `count` (how many there are) is asked when the
    bar is shown, and not before.
    """
    source = iter(records)
    if not sys.stderr.isatty() or not (to_file or _is_file(sys.stdout)):
        yield from source
        return
    began = time.monotonic()
    done = 0
    while time.monotonic() - began < _BAR_AFTER_S:
        part = list(islice(source, _BAR_STEP))
        yield from part
        done += len(part)
        if len(part) < _BAR_STEP:
            return
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task("writing", total=count(), completed=done)
        while part := list(islice(source, _BAR_STEP)):
            yield from part
            bar.advance(task, len(part))


def _is_file(stream: TextIO) -> bool:
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)


def wait_s(seconds: float) -> None:
    """Let time pass. Raises BrokenPipeError as soon as nobody reads stdout any more."""
    descriptor = sys.stdout.fileno()
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        time.sleep(seconds)
        return
    reader = select.poll()
    reader.register(descriptor, 0)  # errors and hang-ups are told always
    if reader.poll(seconds * 1000):
        raise BrokenPipeError
