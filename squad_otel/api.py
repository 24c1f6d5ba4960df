"""The track API: what a program imports to leave events for the daemon.

Unconfigured, every call is a no-op. Configured, a call hands a tuple to a background thread; it
never blocks, and never raises into its host. Standard library only.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from squad_otel.commands import GIT_OPERATIONS, reduce_command, reduce_command_line
from squad_otel.ids import current_session, digest
from squad_otel.spool import append, encode, home_folder

_log = logging.getLogger("squad_otel")

_MAX_QUEUE = 100_000
_DRAIN_INTERVAL_S = 0.2


class Recorder:
    """Takes records from the host's threads and appends them to the spool from its own."""

    def __init__(self, home: Path, session: str | None) -> None:
        self.session = session
        self._home = home
        self._queue: deque[tuple[int, str, str | None, dict[str, Any]]] = deque()
        self._renew()

    def _renew(self) -> None:
        """Fresh locks and thread: at first, and in a forked child, whose parent keeps the queue."""
        self._queue.clear()
        self._full = 0
        self._lost = False
        self._lines: list[bytes] = []
        self._token = os.urandom(8).hex()
        self._numbers = count(1)
        self._lock = threading.RLock()
        self._draining = False
        self._wake = threading.Event()
        self._awake = False
        self._failed = False
        self._thread: threading.Thread | None = None

    def record(self, kind: str, values: dict[str, Any]) -> None:
        """Queue one record; beyond 100,000 waiting ones it is dropped and counted."""
        queue = self._queue
        if len(queue) >= _MAX_QUEUE:
            self._full += 1
            self._lost = True
            return
        queue.append((time.time_ns(), kind, self.session, values))
        if not self._awake:
            self._awake = True
            self._rouse()

    def _rouse(self) -> None:
        self._wake.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="squad-otel", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter shuts down; the last flush writes the rest
                self._thread = None

    def _run(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(_DRAIN_INTERVAL_S)
            self._wake.clear()
            self._awake = False
            self.drain()

    def drain(self) -> bool:
        """Append what is queued to the spool; False when that failed (it is kept, and tried again).

        A record that cannot be encoded, or is too large, is dropped and counted.
        """
        with self._lock:
            if self._draining:  # a signal handler that interrupted this very function
                return False
            self._draining = True
            try:
                self._encode_queue()
                return self._append_lines()
            finally:
                self._draining = False

    def flush(self) -> bool:
        """Drain; False also when a record was dropped since the last flush."""
        written = self.drain()
        lost, self._lost = self._lost, False
        return written and not lost

    def _encode_queue(self) -> None:
        while self._queue:
            at, kind, session, values = self._queue.popleft()
            key = f"{self._token}:{next(self._numbers)}"
            try:
                self._lines.append(_line(at, kind, session, values, key))
            except Exception as error:
                self._full += 1
                self._lost = True
                self._complain(error)

    def _append_lines(self) -> bool:
        lines, dropped = self._lines, self._full
        if dropped:
            lines = [*lines, encode({"dropped": dropped, "reason": "producer"})]
        if not lines:
            return True
        try:
            append(self._home, lines)
        except Exception as error:
            self._complain(error)
            del self._lines[: getattr(error, "written", 0)]
            if len(self._lines) > _MAX_QUEUE:
                self._full += len(self._lines)
                self._lost = True
                self._lines.clear()
            return False
        self._lines.clear()
        self._full -= dropped
        return True

    def _complain(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            _log.warning("squad-otel cannot record: %s", error)


def _line(at: int, kind: str, session: str | None, values: Mapping[str, Any], key: str) -> bytes:
    record = {"type": kind, "id": key, "at": at, "session": session, **values}
    duration_s = record.pop("duration_s", None)
    if duration_s is not None:
        record["duration_ns"] = int(duration_s * 1e9)
    if kind == "command.executed":
        fields = record["fields"]
        text, exit_code = fields["command"], int(fields["exit_code"])
        reduced = reduce_command_line(text) if isinstance(text, str) else reduce_command(text)
        error_type = record["error_type"] or (f"exit_{exit_code}" if exit_code else None)
        record |= {
            "success": error_type is None,
            "error_type": error_type,
            "fields": {**fields, "command": reduced, "exit_code": exit_code},
        }
    return encode(record)


_recorder: Recorder | None = None


def init(home: str | os.PathLike[str] | None = None) -> None:
    """Start recording into the spool below `home` ($SQUAD_OTEL_HOME, else ~/.squad-otel).

    Nothing is read, written or started until the first record. Never raises; calling it again
    changes nothing.
    """
    global _recorder
    if _recorder is not None:
        return
    try:
        folder = home_folder() if home is None else Path(home).expanduser().absolute()
        _recorder = Recorder(folder, current_session())
        os.register_at_fork(after_in_child=_recorder._renew)
        atexit.register(_recorder.drain)
    except Exception as error:
        _log.warning("squad-otel cannot start recording: %s", error)


def command(
    command: str | Sequence[str],
    *,
    duration_s: float | None = None,
    exit_code: int = 0,
    error_type: str | None = None,
) -> None:
    """Record a command that ended. Only its program and sub-command are kept.

    `duration_s` is seconds; `error_type` says why it failed where the exit code does not.
    """
    if _recorder is None:
        return
    _recorder.record(
        "command.executed",
        {
            "duration_s": duration_s,
            "error_type": error_type,
            "fields": {"command": command, "tool": "track", "exit_code": exit_code},
        },
    )


def git(
    operation: str,
    *,
    success: bool = True,
    duration_s: float | None = None,
    error_type: str | None = None,
) -> None:
    """Record a git operation: commit, push, pull or branch. Another word is ignored.

    A success is counted from the repository's reflog, this call adds its duration; a failure,
    which leaves no trace in the repository, is counted here.
    """
    if _recorder is None or operation not in GIT_OPERATIONS:
        return
    _recorder.record(
        f"git.{operation}",
        {
            "duration_s": duration_s,
            "success": success,
            "error_type": error_type or (None if success else "failed"),
        },
    )


def prompt() -> None:
    """Record that a prompt was given to the agent. Its text is not wanted."""
    if _recorder is None:
        return
    _recorder.record("prompt.sent", {})


def error(error_type: str, *, severity: str = "error", component: str = "agent") -> None:
    """Record an error: a short class such as `TimeoutError`, never a message."""
    if _recorder is None:
        return
    _recorder.record(
        "error",
        {
            "success": False,
            "error_type": error_type,
            "fields": {"severity": severity, "component": component},
        },
    )


@contextmanager
def timer(operation: str) -> Iterator[None]:
    """Time a block, or as a decorator a function. An exception makes it a failure, and passes."""
    if _recorder is None:
        yield
        return
    started = time.monotonic_ns()
    failure: str | None = None
    try:
        yield
    except BaseException as raised:
        failure = type(raised).__name__
        raise
    finally:
        _recorder.record(
            "operation.completed",
            {
                "duration_ns": time.monotonic_ns() - started,
                "success": failure is None,
                "error_type": failure,
                "fields": {"operation": operation},
            },
        )


class TrackedSession:
    """A session that this process declared; also a context manager, which ends it.

    `id` may be handed to other processes as $SQUAD_SESSION_ID.
    """

    def __init__(self, key: str) -> None:
        self.id = key
        self._started = time.monotonic_ns()
        self._ended = False

    def end(self, reason: str = "ended") -> None:
        """Record the end, once. Later records of the process belong to no session."""
        if self._ended or _recorder is None:
            return
        self._ended = True
        _recorder.record(
            "session.killed",
            {
                "session": self.id,
                "duration_ns": time.monotonic_ns() - self._started,
                "fields": {"reason": reason},
            },
        )
        if _recorder.session == self.id:
            _recorder.session = None

    def __enter__(self) -> TrackedSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end("ended" if kind is None else "failed")


def session(
    name: str,
    *,
    program: str = "unknown",
    repository: str = "unknown",
    branch: str = "",
) -> TrackedSession:
    """Declare a session of which no claude-squad knows; what is recorded next belongs to it."""
    key = digest("track", os.urandom(8).hex())
    tracked = TrackedSession(key)
    if _recorder is not None:
        _recorder.session = key
        _recorder.record(
            "session.created",
            {
                "new_session": name,
                "program": program,
                "repository": repository,
                "branch": branch,
            },
        )
    return tracked


def flush() -> bool:
    """Write what was recorded so far. True: all of it is acknowledged, no crash can lose it.

    False: the spool could not be written (it is tried again), a record since the last flush was
    dropped, or a signal handler asks while a flush of the same thread is under way.
    """
    return True if _recorder is None else _recorder.flush()
