"""The spool as a source: reads the segments, decodes records, deletes what was read long ago."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from squad_otel.batch import Batch
from squad_otel.commands import REDACTED, looks_secret
from squad_otel.errors import SourceError
from squad_otel.events import EVENT_TYPES, NS, SUM_FIELDS, Event, FieldValue
from squad_otel.ids import digest
from squad_otel.plain import plain_text
from squad_otel.sessions import Session, State
from squad_otel.spool import RECORD_START, SHELL_SEGMENT

#: Segments are deleted when they were read whole and not written for a day.
KEEP_NS = 24 * 3600 * NS

#: The shell's segment is taken away this often at most, and deleted so long after it was read:
#: there may be many of them. Nobody holds one open for longer than a line takes.
TAKE_NS = 2 * NS
KEEP_TAKEN_NS = 600 * NS

#: A session that a program declared and that left nothing for so long: its program was killed.
SILENT_NS = 24 * 3600 * NS

_AWAKE_S = 60.0
_MAX_POLL_BYTES = 4 << 20
_MAX_TEXT = 200
_MAX_DURATION_NS = 366 * 86400 * NS
_MAX_COUNT = 10**12  # nine million such events add up to less than 2**63
_IDENTITIES = ("revision", "ref")  # fields that name a thing of git, and look like secrets
_SEGMENT = re.compile(r"\d{8}T\d{2}(\d{4}-[0-9a-f]{8})?\.jsonl")


class _Record(msgspec.Struct):
    """One spool line. `at` is UTC ns; `session` an id or a name; `duration_ns` nanoseconds."""

    v: int
    type: str = ""
    id: str | None = None
    at: int | None = None
    session: str | None = None
    program: str | None = None
    repository: str | None = None
    branch: str | None = None
    duration_ns: int | None = None
    success: bool | None = None
    error_type: str | None = None
    source: str = "track"
    fields: dict[str, FieldValue] = {}
    new_session: str | None = None  # the name of a session that this record begins
    dropped: int = 0  # how many records the producer could not keep
    reason: str = ""


_decode = msgspec.json.Decoder(_Record).decode


class _SkippedError(Exception):
    """This line is no record of an event: the reason that is counted, and how often."""

    def __init__(self, reason: str, count: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.count = count


class SpoolSource:
    """Reads `<home>/spool`. Offsets: segment name to the number of bytes read."""

    name = "spool"
    tier = "exact"

    def __init__(self, home: Path, awake: Callable[[], float] = time.monotonic) -> None:
        """`awake` gives seconds and stands still while the machine sleeps."""
        self._awake = awake
        self._folder = home / "spool"
        self._took_at = 0
        self._behind = False  # whether a look left something unread
        # When a segment was first seen to be read whole: a writer that slept with the machine may
        # hold one open whose time seems to have passed.
        self._read_at: dict[str, float] = {}

    def poll(self, sessions: Mapping[str, Session], offsets: Mapping[str, str], now: int) -> Batch:
        """Read what was appended, at most 4 MiB a call. Times: an undated record has the file's."""
        batch = Batch()
        room = _MAX_POLL_BYTES
        self._take_shell_segment(now, batch)
        names = self._segments(batch)
        for name in offsets.keys() - set(names):
            batch.offsets[name] = None
        self._behind = False
        for name in names:
            offset = int(offsets.get(name, "0"))
            room -= self._read(name, offset, room, sessions, now, batch)
            if room <= 0:
                return batch
        if not self._behind:
            _end_the_silent(sessions, now, batch)
        return batch

    def close(self) -> None:
        """Nothing is held open between two looks."""

    def _take_shell_segment(self, now: int, batch: Batch) -> None:
        """Give what shells wrote a name that was never used; who holds it open goes on in it."""
        path = self._folder / SHELL_SEGMENT
        if 0 <= now - self._took_at < TAKE_NS:
            return
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                batch.skip("foreign_file")
            elif status.st_size:
                stem = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // NS))
                path.rename(self._folder / f"{stem}-{os.urandom(4).hex()}.jsonl")
                self._took_at = now
        except FileNotFoundError:
            return
        except OSError:
            batch.skip("unreadable_file")

    def _segments(self, batch: Batch) -> list[str]:
        try:
            names = sorted(entry.name for entry in os.scandir(self._folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SourceError(f"cannot list the spool {self._folder}: {error.strerror}") from error
        segments = [name for name in names if _SEGMENT.fullmatch(name)]
        foreign = len(names) - len(segments) - (SHELL_SEGMENT in names)
        if foreign:
            batch.skip("foreign_file", foreign)
        return segments

    def _read(
        self,
        name: str,
        offset: int,
        room: int,
        sessions: Mapping[str, Session],
        now: int,
        batch: Batch,
    ) -> int:
        path = self._folder / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return 0
        except OSError as error:
            batch.skip("unreadable_file")
            if error.errno is None:
                raise
            return 0
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                batch.skip("foreign_file")
                return 0
            if status.st_size < offset:  # somebody emptied it
                offset = 0
            if status.st_size == offset:
                if offset and self._is_done(name, now - status.st_mtime_ns):
                    path.unlink(missing_ok=True)
                    batch.offsets[name] = None
                return 0
            self._read_at.pop(name, None)
            data = os.pread(fd, room, offset)
        finally:
            os.close(fd)
        at_end = offset + len(data) >= status.st_size
        self._behind |= not at_end
        whole = data.rfind(b"\n") + 1
        if whole == 0:
            if not at_end and room < _MAX_POLL_BYTES:  # cut where the room of this look ends
                return room
            if at_end and now - status.st_mtime_ns > KEEP_NS:  # nobody will complete it
                batch.skip("torn")
                path.unlink(missing_ok=True)
                batch.offsets[name] = None
                return 0
            if len(data) >= _MAX_POLL_BYTES:  # larger than any record
                batch.skip("too_long")
                batch.offsets[name] = str(offset + len(data))
                return len(data)
        at = offset
        for line in data[:whole].split(b"\n")[:-1]:
            self._line(line, f"spool:{name}:{at}", status.st_mtime_ns, sessions, now, batch)
            at += len(line) + 1
        if whole:
            batch.offsets[name] = str(offset + whole)
        return whole

    def _is_done(self, name: str, age_ns: int) -> bool:
        """Whether a segment that was read whole, and written so long ago, can go."""
        keep_ns = KEEP_TAKEN_NS if "-" in name else KEEP_NS
        read_at = self._read_at.setdefault(name, self._awake())
        done = age_ns > keep_ns and self._awake() - read_at >= _AWAKE_S
        if done:
            del self._read_at[name]
        return done

    def _line(
        self,
        line: bytes,
        position: str,
        written_at: int,
        sessions: Mapping[str, Session],
        now: int,
        batch: Batch,
    ) -> None:
        start = 0 if line else -1
        while start >= 0:
            place = f"{position}+{start}" if start else position
            try:
                event, begun = read_record(line[start:], place, min(written_at, now))
            except _SkippedError as skipped:
                batch.skip(skipped.reason, skipped.count)
                # A record that was torn in the middle (a full disk) runs into the next one.
                start = line.find(RECORD_START, start + 1)
                continue
            batch.events.append(event)
            if begun is not None and begun.id not in sessions:
                batch.sessions.append(begun)
            elif event.type == "session.killed":
                _end(event, sessions, batch)
            return


def blank(home: Path, matches: Callable[[Event], bool]) -> int:
    """Overwrite the records that match with empty lines, read or unread; returns how many.

    No byte moves: offsets stay true, and who appends meanwhile is not disturbed.
    """
    folder = home / "spool"
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise SourceError(f"cannot list the spool {folder}: {error.strerror}") from error
    segments = [n for n in names if n == SHELL_SEGMENT or _SEGMENT.fullmatch(n)]
    return sum(_blank_in(folder / name, matches) for name in segments)


def _blank_in(path: Path, matches: Callable[[Event], bool]) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:  # the daemon was faster
        return 0
    except OSError as error:
        raise SourceError(f"cannot open {path}: {error.strerror}") from error
    found = at = 0
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return 0
        for line in file:
            if any(matches(event) for event in _records_in(line, status.st_mtime_ns)):
                os.pwrite(fd, b"\n" * len(line), at)
                found += 1
            at += len(line)
    return found


def _records_in(line: bytes, written_at: int) -> Iterator[Event]:
    """The records of a line, of which there are several where one was torn."""
    start = 0
    while start >= 0:
        with suppress(_SkippedError):
            yield read_record(line[start:], "", written_at)[0]
        start = line.find(RECORD_START, start + 1)


def _end(event: Event, sessions: Mapping[str, Session], batch: Batch) -> None:
    """A producer ended the session that it began: only of such sessions it has the say."""
    begun = {session.id: session for session in batch.sessions}
    session = begun.get(event.session or "") or sessions.get(event.session or "")
    if session is not None and session.live and session.origin == "track":
        batch.sessions.append(_ended(session, event.occurred_at))


def _ended(session: Session, at: int) -> Session:
    return msgspec.structs.replace(
        session, state=State.ENDED, state_since=at, ended_at=at, last_activity=at
    )


def _end_id(session: str) -> str:
    """The id of a session's end: whoever says it, and how often, it ends once."""
    return f"ended:{session}"


def _end_the_silent(sessions: Mapping[str, Session], now: int, batch: Batch) -> None:
    """End the sessions whose program cannot say so any more; when it died is not known."""
    heard = {event.session for event in batch.events}
    for session in sessions.values():
        silent = session.origin == "track" and now - session.last_activity > SILENT_NS
        if silent and session.live and not heard & {session.id, session.name}:
            batch.events.append(
                Event(
                    id=_end_id(session.id),
                    type="session.killed",
                    occurred_at=now,
                    source="spool",
                    session=session.id,
                    duration_ns=max(0, session.last_activity - session.started_at),
                    fields={"reason": "lost"},
                )
            )
            batch.sessions.append(_ended(session, now))


def read_record(line: bytes, position: str, written_at: int) -> tuple[Event, Session | None]:
    """Decode one line: the event, and the session that it begins, if it does.

    Raises _SkippedError with the reason. Undeclared fields are left out, texts are cut.
    """
    try:
        record = _decode(line)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, UnicodeError):
        raise _SkippedError("undecodable") from None
    if record.v != 1:
        raise _SkippedError("unknown_version")
    if record.dropped:
        raise _SkippedError("dropped_by_producer", max(1, min(record.dropped, _MAX_COUNT)))
    declared = EVENT_TYPES.get(record.type)
    if declared is None:
        raise _SkippedError("unknown_type")
    at = written_at if record.at is None else record.at
    if not 0 <= at < 2**62:
        raise _SkippedError("bad_time")
    if record.duration_ns is not None and not 0 <= record.duration_ns <= _MAX_DURATION_NS:
        raise _SkippedError("bad_duration")
    fields: dict[str, FieldValue] = {}
    for name, kind in declared.fields.items():
        value = record.fields.get(name)
        if value is None:
            continue
        if type(value) is not kind:
            raise _SkippedError("bad_field")
        if isinstance(value, str):
            value = plain_text(value, _MAX_TEXT) if name in _IDENTITIES else _without_secrets(value)
            if name == "command":  # a shell may have written it whole
                value = " ".join(value.split()[:2])
        elif not (0 if name in SUM_FIELDS else -_MAX_COUNT) <= value <= _MAX_COUNT:
            raise _SkippedError("bad_field")
        fields[name] = value
    session = None if record.session is None else plain_text(record.session, _MAX_TEXT)
    event = Event(
        id=plain_text(record.id, _MAX_TEXT) if record.id else position,
        type=record.type,
        occurred_at=at,
        source=plain_text(record.source, _MAX_TEXT),
        session=session,
        program=_optional(record.program),
        repository=_optional(record.repository),
        branch=_optional(record.branch),
        duration_ns=record.duration_ns,
        success=record.success,
        error_type=None if record.error_type is None else _without_secrets(record.error_type),
        fields=fields,
    )
    if event.type == "session.killed" and session is not None:
        event = msgspec.structs.replace(event, id=_end_id(session))
    if record.new_session is None:
        return event, None
    key = session or digest("track", event.id)
    event = msgspec.structs.replace(event, session=key)
    return event, Session(
        id=key,
        name=plain_text(record.new_session, _MAX_TEXT),
        program=event.program or "unknown",
        repository=event.repository or "unknown",
        branch=event.branch or "",
        worktree="",
        origin="track",
        state=State.RUNNING,
        state_since=at,
        started_at=at,
        last_activity=at,
    )


def _without_secrets(text: str) -> str:
    """Printable text in which each word that looks like a secret is replaced."""
    return " ".join(
        REDACTED if looks_secret(word) else word for word in plain_text(text, _MAX_TEXT).split()
    )


def _optional(text: str | None) -> str | None:
    return None if text is None else plain_text(text, _MAX_TEXT) or None
