"""Claude Code's transcripts of the squad's worktrees as a source, for tokens and cost only.

An answer is written as several lines, each repeating its usage, and copied into forks; its
request id makes one event of them, in which each count is the largest that any copy has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from squad_otel.batch import Batch
from squad_otel.events import NS, Event, FieldValue
from squad_otel.ids import digest
from squad_otel.prices import Prices, Usage
from squad_otel.sessions import Session

#: How long an answer that was cut off, or whose end was not written, may still be corrected.
SETTLE_NS = 10 * NS

_CHUNK_BYTES = 8 << 20  # read of one file in one look
_POLL_BYTES = 32 << 20  # read of all files in one look
_MAX_LINE_BYTES = 64 << 20
_HEAD_BYTES = 1024  # of the first line, by which a file is known again
_SWEEP_NS = 3600 * NS
_MAX_TEXT = 200
_MAX_NS = 2**63 - 1
_MAX_NAME = 200  # Claude Code cuts longer folder names and adds a hash
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_OTHER_CHARACTER = re.compile(r"[^a-zA-Z0-9]")

Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]  # of one answer
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class _ServerTools(msgspec.Struct):
    web_search_requests: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerTools | None = None
    speed: str | None = None
    inference_geo: str | None = None


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Line(msgspec.Struct, rename="camel"):
    """What is looked at of an assistant's line. The text is passed over, never decoded."""

    message: _Message
    timestamp: Moment
    cwd: str
    request_id: str | None = None
    is_aborted_mid_stream: bool | None = None


class _Kind(msgspec.Struct, rename="camel"):
    """What tells whether a line is an answer of a model."""

    type: str = ""
    is_api_error_message: bool | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode


class _SkippedError(Exception):
    """This line is no record of an answer: the reason that is counted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line's word on a model's answer; `at` is UTC ns. `id` is empty where it has none."""

    id: str
    at: int
    cwd: str
    model: str
    usage: Usage
    final: bool

    def merged(self, other: Answer) -> Answer:
        """What two lines together say of the same answer."""
        return Answer(
            self.id,
            min(self.at, other.at),
            self.cwd,
            self.model or other.model,
            self.usage.merged(other.usage),
            self.final or other.final,
        )


def parse_answer(line: bytes) -> Answer | None:
    """What a transcript's line says of an answer; None for a line about something else.

    Raises _SkippedError with the reason for a line that looks like an answer and is none.
    """
    # Most lines are about something else: two searches spare their decoding.
    if b'"usage"' not in line or b'"assistant"' not in line:
        return None
    try:
        kind = _decode_kind(line)
    except msgspec.ValidationError as error:
        raise _SkippedError("wrong_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _SkippedError("undecodable") from error
    if kind.type == "api-request-blob":  # repeats what other lines say
        raise _SkippedError("api_request_blob")
    if kind.type != "assistant":
        return None
    if kind.is_api_error_message:
        raise _SkippedError("api_error")
    try:
        record = _decode_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _SkippedError("wrong_type") from error
    message = record.message
    if message.model == "<synthetic>":  # written by the program, not by a model
        raise _SkippedError("synthetic")
    usage = _usage(message.usage)
    if not usage:  # a fork's copy of an answer that its origin has in full
        return None
    at = (record.timestamp - _EPOCH) // _US * 1000
    if not 0 <= at <= _MAX_NS:
        raise _SkippedError("bad_time")
    return Answer(
        _answer_id(record.request_id, message.id),
        at,
        record.cwd,
        _text(message.model),
        usage,
        message.stop_reason is not None and not record.is_aborted_mid_stream,
    )


def _answer_id(request: str | None, message: str | None) -> str:
    if request:
        return f"cc:req:{_text(request)}"
    return f"cc:msg:{_text(message)}" if message else ""


def _text(text: str | None) -> str:
    if text and (len(text) > _MAX_TEXT or not text.isprintable()):
        raise _SkippedError("wrong_type")
    return text or ""


def _usage(raw: _Usage | None) -> Usage:
    if raw is None:
        return Usage()
    split = raw.cache_creation or _CacheCreation()
    for_an_hour = split.ephemeral_1h_input_tokens or 0
    created = raw.cache_creation_input_tokens
    if created is None:
        created = for_an_hour + (split.ephemeral_5m_input_tokens or 0)
    return Usage(
        raw.input_tokens or 0,
        raw.output_tokens or 0,
        raw.cache_read_input_tokens or 0,
        created,
        # A fork sets the counts to zero and leaves the split: the count is what holds.
        min(for_an_hour, created),
        (raw.server_tool_use.web_search_requests or 0) if raw.server_tool_use else 0,
        raw.speed or "",
        raw.inference_geo or "",
    )


def folder_name(worktree: str) -> str:
    """The name of a worktree's folder below `projects`, before it is cut.

    Claude Code replaces each UTF-16 unit that is no ASCII letter or digit.
    """
    return _OTHER_CHARACTER.sub(lambda m: "--" if ord(m[0]) > 0xFFFF else "-", worktree)


@dataclass(frozen=True, slots=True)
class _Place:
    """A session's worktree, under each of its names (links resolved or not)."""

    session: Session
    paths: tuple[str, ...]

    @staticmethod
    def of(session: Session) -> _Place:
        """The place of a session that has a worktree."""
        paths = (session.worktree.rstrip("/") or "/", os.path.realpath(session.worktree))
        return _Place(session, tuple(dict.fromkeys(paths)))

    def owns(self, cwd: str) -> bool:
        """Whether a line of this worktree's folder, written in `cwd`, is this worktree's.

        Another path may give the same folder name; then the line is not. An agent that went
        elsewhere (an added directory, a worktree of its own) is still this session's.
        """
        here = (cwd, *map(str, Path(cwd).parents))
        if any(path in here for path in self.paths):
            return True
        names = {folder_name(path)[:_MAX_NAME] for path in self.paths}
        return not any(folder_name(path)[:_MAX_NAME] in names for path in here)


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far a file was read, and the digest of its beginning. As text: `<offset> <digest>`."""

    offset: int = 0
    head: str = ""

    @staticmethod
    def parse(text: str | None) -> _Mark:
        """The mark that a source's offset holds; the file's beginning where it is none."""
        offset, _, head = (text or "").partition(" ")
        return _Mark(int(offset), head) if head and offset.isdecimal() else _Mark()

    def __str__(self) -> str:
        return f"{self.offset} {self.head}"


_FileState = tuple[str | None, int, int, int]  # mark, size in bytes, mtime in ns, inode


@dataclass(slots=True)
class _Look:
    """What one poll has to go by, and what it found."""

    offsets: Mapping[str, str]
    batch: Batch
    quiet_before: Mapping[str, _FileState]
    quiet: dict[str, _FileState] = field(default_factory=dict)
    answers: dict[str, tuple[Session, Answer]] = field(default_factory=dict)

    def take(self, line: bytes, position: str, place: _Place) -> None:
        """Add what a line says; `position` identifies a line that has no id of its own."""
        try:
            answer = parse_answer(line)
            if answer is None:
                return
            if not place.owns(answer.cwd):
                raise _SkippedError("other_worktree")
        except _SkippedError as skipped:
            self.batch.skip(str(skipped))
            return
        key = answer.id or f"cc:line:{digest(place.session.id, position)}"
        if key in self.answers:
            session, earlier = self.answers[key]
            self.answers[key] = (session, earlier.merged(answer))
        else:
            self.answers[key] = (place.session, answer)


class ClaudeSource:
    """Reads what Claude Code wrote about the worktrees of the sessions that it is shown.

    `config_dirs` are Claude Code's configuration folders; those that do not exist are no error.
    Transcripts of other worktrees are never opened.
    """

    name = "claude"
    tier = "late"

    def __init__(self, config_dirs: Sequence[Path], prices: Prices) -> None:
        self._roots = tuple(Path(folder) / "projects" for folder in config_dirs)
        self._prices = prices
        # How files looked when nothing was to be had from them; only to save opening them again.
        self._quiet: Mapping[str, _FileState] = {}
        self._swept_at: int | None = None

    def poll(self, sessions: Mapping[str, Session], offsets: Mapping[str, str], now: int) -> Batch:
        """New answers in the transcripts of `sessions`; at most 32 MiB are read at a time."""
        batch = Batch()
        look = _Look(offsets, batch, self._quiet)
        self._sweep(offsets, batch, now)
        left = _POLL_BYTES
        for session in sessions.values():
            if not session.worktree:
                continue
            place = _Place.of(session)
            for path in self._transcripts(place, batch):
                if left > 0:
                    left -= self._read(path, place, look)
        self._quiet = look.quiet
        batch.events = [
            self._event(key, session, answer, now)
            for key, (session, answer) in look.answers.items()
        ]
        return batch

    def close(self) -> None:
        """Nothing is held open."""

    # -- which files --------------------------------------------------------------------------

    def _transcripts(self, place: _Place, batch: Batch) -> Iterator[Path]:
        """The transcripts of a worktree, sub-agents' after the others."""
        for folder in self._folders(place, batch):
            transcripts, agents = _listing(folder, batch)
            yield from transcripts
            for path in agents:
                yield from _listing(path / "subagents", batch)[0]

    def _folders(self, place: _Place, batch: Batch) -> Iterator[Path]:
        for root in self._roots:
            for name in map(folder_name, place.paths):
                if len(name) <= _MAX_NAME:
                    yield root / name
                else:
                    start = name[:_MAX_NAME]
                    yield from (p for p in _listing(root, batch)[1] if p.name.startswith(start))

    def _sweep(self, offsets: Mapping[str, str], batch: Batch, now: int) -> None:
        """Once an hour, forget how far files were read that do not exist any more."""
        if self._swept_at is not None and 0 <= now - self._swept_at < _SWEEP_NS:
            return
        self._swept_at = now
        roots = [root for root in self._roots if not _gone(root)]
        for name in offsets:
            path = Path(name.partition(":")[2])
            if any(path.is_relative_to(root) for root in roots) and _gone(path):
                batch.offsets[name] = None

    # -- one file -----------------------------------------------------------------------------

    def _read(self, path: Path, place: _Place, look: _Look) -> int:
        """Read on in a file; returns how many bytes were read."""
        # Two worktrees may share a folder: each session has its own mark in a file.
        name = f"{place.session.id}:{path}"
        saved = look.offsets.get(name)
        try:
            status = path.stat()
            state = (saved, status.st_size, status.st_mtime_ns, status.st_ino)
            if look.quiet_before.get(name) == state:
                look.quiet[name] = state
                return 0
            with path.open("rb") as file:
                mark = _mark_in(file, saved)
                data, length, too_long = _whole_lines(file, mark.offset)
        except FileNotFoundError:  # gone since it was listed
            return 0
        except OSError:
            look.batch.skip("unreadable_file")
            return 0
        if length == 0:
            look.quiet[name] = state
            if saved and mark.offset == 0:  # cut short: what comes now is new, whatever it is
                look.batch.offsets[name] = None
            return 0
        if too_long:
            look.batch.skip("line_too_long")
        position = mark.offset
        for line in data.split(b"\n"):
            look.take(line, f"{mark.head}:{position}", place)
            position += len(line) + 1
        look.batch.offsets[name] = str(_Mark(mark.offset + length, mark.head))
        return length

    def _event(self, key: str, session: Session, answer: Answer, now: int) -> Event:
        usage = answer.usage
        fields: dict[str, FieldValue] = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_creation_tokens": usage.cache_creation_tokens,
        }
        if answer.model:
            fields["model"] = answer.model
        cost_nusd = self._prices.cost_nusd(answer.model, usage)
        if cost_nusd is not None:
            fields["cost_nusd"] = cost_nusd
        return Event(
            id=key,
            type="tokens.used",
            occurred_at=answer.at,
            source=self.name,
            session=session.id,
            program=session.program,
            repository=session.repository,
            branch=session.branch,
            fields=fields,
            settles_at=None if answer.final else now + SETTLE_NS,
        )


def _gone(path: Path) -> bool:
    """Whether there is nothing at `path`; what cannot be looked at may be there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _listing(folder: Path, batch: Batch) -> tuple[list[Path], list[Path]]:
    """The transcripts in a folder and the folders in it, in the order of their names.

    A folder or an entry that cannot be looked at is skipped: the others can.
    """
    transcripts, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir():
                        folders.append(Path(entry.path))
                    elif entry.name.endswith(".jsonl") and entry.is_file():
                        transcripts.append(Path(entry.path))
                except OSError:  # a link that leads round in a circle
                    batch.skip("unreadable_file")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:
        batch.skip("unreadable_folder")
    return sorted(transcripts), sorted(folders)


def _mark_in(file: BinaryIO, saved: str | None) -> _Mark:
    """Where to read on: at the saved mark, if the file is still the one that it was set in."""
    first = file.read(_HEAD_BYTES)
    head = digest(first[: first.find(b"\n") + 1 or _HEAD_BYTES].hex())
    mark = _Mark.parse(saved)
    if mark.head == head and mark.offset > 0:
        file.seek(mark.offset - 1)
        if file.read(1) == b"\n":
            return mark
    return _Mark(0, head)


def _whole_lines(file: BinaryIO, offset: int) -> tuple[bytes, int, bool]:
    """Whole lines from `offset` on, how many bytes they are, and whether one was too long.

    A line too long to be kept is passed over. A last line without its end is left for later.
    """
    file.seek(offset)
    data = fresh = file.read(_CHUNK_BYTES)
    while fresh and b"\n" not in fresh and len(data) <= _MAX_LINE_BYTES:
        fresh = file.read(_CHUNK_BYTES)
        data += fresh
    length = data.rfind(b"\n") + 1
    if length or len(data) <= _MAX_LINE_BYTES:
        return data[:length], length, False
    length = len(data)
    while fresh := file.read(_CHUNK_BYTES):
        end = fresh.find(b"\n") + 1
        if end:
            return b"", length + end, True
        length += len(fresh)
    return b"", 0, False
