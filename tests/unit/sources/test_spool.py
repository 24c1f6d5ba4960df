"""Spool writer and reader together, on real files."""

from __future__ import annotations

import os
import subprocess
import time
from itertools import count
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.errors import SpoolError
from squad_otel.events import NS
from squad_otel.journal import Journal
from squad_otel.schema import open_reader
from squad_otel.sessions import Session
from squad_otel.sources.spool import KEEP_NS, KEEP_TAKEN_NS, SILENT_NS, TAKE_NS, SpoolSource
from squad_otel.spool import RECORD_START, append, encode, home_folder, segment_name

NOW = 1_795_000_000 * NS


def read_all(home: Path, offsets: dict[str, str] | None = None, now: int = NOW) -> Batch:
    awake = count(0, 100).__next__  # there is always time enough between two questions
    return SpoolSource(home, awake).poll({}, offsets or {}, now)


def record(**more: object) -> bytes:
    return encode({"type": "prompt.sent", "id": "x", "at": NOW, **more})


def write_raw(home: Path, data: bytes, name: str = "20261118T06.jsonl") -> Path:
    (home / "spool").mkdir(exist_ok=True)
    path = home / "spool" / name
    with path.open("ab") as file:
        file.write(data)
    return path


def test_what_was_appended_is_read_once(tmp_path: Path) -> None:
    append(tmp_path, [record(id="a"), record(id="b")])
    batch = read_all(tmp_path)
    assert [e.id for e in batch.events] == ["a", "b"]
    assert batch.events[0].occurred_at == NOW
    append(tmp_path, [record(id="c")])
    offsets = {k: v for k, v in batch.offsets.items() if v is not None}
    assert [e.id for e in read_all(tmp_path, offsets).events] == ["c"]


def test_folder_and_segment_are_private_and_named_by_the_hour(tmp_path: Path) -> None:
    home = tmp_path / "home"
    append(home, [record()])
    (segment,) = (home / "spool").iterdir()
    assert segment.name in (segment_name(time.time()), segment_name(time.time() - 2))
    assert segment.stat().st_mode & 0o777 == 0o600
    assert (home / "spool").stat().st_mode & 0o777 == home.stat().st_mode & 0o777 == 0o700


def test_a_shell_can_write_records(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    line = '{"v":1,"type":"git.push","success":false,"error_type":"hook"}'
    script = f"printf '%s\\n' '{line}' >> \"$1/spool/shell.jsonl\""
    source = SpoolSource(tmp_path)
    offsets: dict[str, str] = {}
    ids = set()
    before = time.time_ns()
    for looks in range(3):
        for _ in range(2):
            subprocess.run(["/bin/sh", "-c", script, "sh", str(tmp_path)], check=True)
        batch = source.poll({}, offsets, time.time_ns() + looks * TAKE_NS)
        offsets.update({name: at for name, at in batch.offsets.items() if at is not None})
        assert [e.type for e in batch.events] == ["git.push", "git.push"]
        assert all(before - 5 * NS < e.occurred_at <= time.time_ns() for e in batch.events)
        ids |= {e.id for e in batch.events}
        assert not (tmp_path / "spool" / "shell.jsonl").exists()
    assert len(ids) == 6  # positional: equal lines are several events


def test_a_shell_that_holds_the_segment_open_while_it_is_taken_loses_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "spool").mkdir()
    source = SpoolSource(tmp_path)
    with (tmp_path / "spool" / "shell.jsonl").open("ab", buffering=0) as held:
        held.write(record(id="a"))
        first = source.poll({}, {}, NOW)
        held.write(record(id="b"))
    (tmp_path / "spool" / "shell.jsonl").write_bytes(record(id="c"))
    offsets = {name: at for name, at in first.offsets.items() if at is not None}
    # As after a daemon that was killed and begins anew:
    second = SpoolSource(tmp_path).poll({}, offsets, NOW + TAKE_NS)
    assert [e.id for e in first.events] == ["a"]
    assert sorted(e.id for e in second.events) == ["b", "c"]


def test_a_taken_segment_goes_soon_but_not_while_its_writers_may_have_slept(
    tmp_path: Path,
) -> None:
    path = write_raw(tmp_path, record(), "20261118T061500-0123abcd.jsonl")
    offsets = {path.name: str(path.stat().st_size)}
    later = path.stat().st_mtime_ns + KEEP_TAKEN_NS + 1
    seconds = 0.0
    source = SpoolSource(tmp_path, lambda: seconds)
    source.poll({}, offsets, later)
    seconds = 59.0
    source.poll({}, offsets, later)
    assert path.exists()
    seconds = 60.0
    assert source.poll({}, offsets, later).offsets == {path.name: None}
    assert not path.exists()


def test_a_torn_last_line_waits_for_its_rest(tmp_path: Path) -> None:
    whole = record(id="a")
    write_raw(tmp_path, whole + record(id="b")[:-9])
    batch = read_all(tmp_path)
    assert [e.id for e in batch.events] == ["a"]
    assert batch.offsets == {"20261118T06.jsonl": str(len(whole))}
    assert batch.skipped == {}
    write_raw(tmp_path, record(id="b")[-9:])
    offsets = {"20261118T06.jsonl": str(len(whole))}
    assert [e.id for e in read_all(tmp_path, offsets).events] == ["b"]


def test_a_record_torn_by_a_full_disk_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    write_raw(tmp_path, record(id="a")[:20] + record(id="b"))
    batch = read_all(tmp_path)
    assert [e.id for e in batch.events] == ["b"]
    assert batch.skipped == {"undecodable": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "undecodable"),
        (b'{"v":1,"type":"prompt.sent","at":"soon"}', "undecodable"),
        (b'{"v":2,"type":"prompt.sent"}', "unknown_version"),
        (b'{"v":1,"type":"no.such"}', "unknown_type"),
        (b'{"v":1,"type":"prompt.sent","at":-1}', "bad_time"),
        (b'{"v":1,"type":"prompt.sent","at":99999999999999999999}', "bad_time"),
        (b'{"v":1,"type":"operation.completed","duration_ns":-5}', "bad_duration"),
        (b'{"v":1,"type":"tokens.used","fields":{"input_tokens":-5}}', "bad_field"),
        (b'{"v":1,"type":"tokens.used","fields":{"input_tokens":true}}', "bad_field"),
        (b'{"v":1,"type":"command.executed","fields":{"command":7}}', "bad_field"),
        (b"[" * 100_000, "undecodable"),
    ],
)
def test_a_line_that_is_no_record_is_skipped_with_its_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    write_raw(tmp_path, record(id="a") + line + b"\n" + record(id="b"))
    batch = read_all(tmp_path)
    assert [e.id for e in batch.events] == ["a", "b"]
    assert batch.skipped == {reason: 1}


def test_fields_that_the_type_does_not_have_are_left_out(tmp_path: Path) -> None:
    write_raw(
        tmp_path,
        encode(
            {
                "type": "command.executed",
                "fields": {"command": "git push", "tool": "exec", "prompt": "secret text"},
            }
        ),
    )
    (event,) = read_all(tmp_path).events
    assert event.fields == {"command": "git push", "tool": "exec"}


def test_what_looks_like_a_secret_is_replaced_whoever_wrote_it(tmp_path: Path) -> None:
    token = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
    fields = {"command": f"deploy {token} --to https://me:{token}@host", "tool": "exec"}
    line = {"type": "command.executed", "error_type": f"denied {token}", "fields": fields}
    sha = "0123456789abcdef0123456789abcdef01234567"
    push = {"type": "git.push", "fields": {"revision": sha}}
    write_raw(tmp_path, encode(line) + encode(push))
    command, pushed = read_all(tmp_path).events
    assert command.fields == {"command": "deploy redacted", "tool": "exec"}
    assert command.error_type == "denied redacted"
    assert pushed.fields == {"revision": sha}


def test_texts_are_cut_and_cleaned(tmp_path: Path) -> None:
    write_raw(tmp_path, record(session="a\x1b[31m\n" + "b" * 10_000, repository="\ud800x"))
    (event,) = read_all(tmp_path).events
    assert event.session is not None
    assert event.session.startswith("a[31m b")
    assert len(event.session) <= 200
    assert event.repository == "?x"


def test_a_long_backlog_is_read_in_parts_and_whole(tmp_path: Path) -> None:
    lines = [record(id=f"e{i}", repository="r" * 150) for i in range(30_000)]
    for start in range(0, len(lines), 1000):
        append(tmp_path, lines[start : start + 1000])
    offsets: dict[str, str] = {}
    seen: list[str] = []
    polls = 0
    while batch := read_all(tmp_path, offsets):
        offsets.update({k: v for k, v in batch.offsets.items() if v})
        seen += [e.id for e in batch.events]
        polls += 1
    assert seen == [f"e{i}" for i in range(30_000)]
    assert polls > 1


def test_a_line_larger_than_any_record_is_skipped(tmp_path: Path) -> None:
    write_raw(tmp_path, b"x" * (9 << 20) + b"\n" + record(id="after"))
    offsets: dict[str, str] = {}
    seen: list[str] = []
    skipped = 0
    while batch := read_all(tmp_path, offsets):
        offsets.update({k: v for k, v in batch.offsets.items() if v})
        seen += [e.id for e in batch.events]
        skipped += sum(batch.skipped.values())
    assert seen == ["after"]
    assert skipped >= 1


def test_a_segment_read_whole_is_deleted_a_day_later(tmp_path: Path) -> None:
    path = write_raw(tmp_path, record())
    written = path.stat().st_mtime_ns
    offsets = {path.name: str(path.stat().st_size)}
    assert not read_all(tmp_path, offsets, written + KEEP_NS)
    assert path.exists()
    batch = read_all(tmp_path, offsets, written + KEEP_NS + 1)
    assert not path.exists()
    assert batch.offsets == {path.name: None}


def test_an_unread_segment_is_never_deleted(tmp_path: Path) -> None:
    path = write_raw(tmp_path, record(id="old"))
    batch = read_all(tmp_path, {}, path.stat().st_mtime_ns + 30 * KEEP_NS)
    assert [e.id for e in batch.events] == ["old"]
    assert path.exists()


def test_a_torn_tail_is_given_up_with_its_segment_a_day_later(tmp_path: Path) -> None:
    torn = RECORD_START + b'"type":"pro'
    path = write_raw(tmp_path, record(id="a") + torn)
    offsets = {path.name: str(len(record(id="a")))}
    written_at = path.stat().st_mtime_ns
    assert not read_all(tmp_path, offsets, written_at + KEEP_NS)
    assert path.exists()
    batch = read_all(tmp_path, offsets, written_at + KEEP_NS + 1)
    assert batch.skipped == {"torn": 1}
    assert batch.offsets == {path.name: None}
    assert not path.exists()


def test_a_session_whose_program_was_killed_ends_after_a_day_of_silence(tmp_path: Path) -> None:
    append(
        tmp_path, [encode({"type": "session.created", "id": "a", "at": NOW, "new_session": "n"})]
    )
    first = read_all(tmp_path)
    (begun,) = first.sessions
    offsets = {name: at for name, at in first.offsets.items() if at is not None}
    known = {begun.id: begun}
    assert not SpoolSource(tmp_path).poll(known, offsets, NOW + SILENT_NS)
    lost = SpoolSource(tmp_path).poll(known, offsets, NOW + SILENT_NS + 1)
    (event,) = lost.events
    assert (event.type, event.session) == ("session.killed", begun.id)
    assert event.fields == {"reason": "lost"}
    (ended,) = lost.sessions
    assert ended.ended_at == NOW + SILENT_NS + 1
    # It was only asleep after all: its own word comes too late to be a second end.
    append(tmp_path, [encode({"type": "session.killed", "id": "b", "session": begun.id})])
    late = SpoolSource(tmp_path).poll({begun.id: ended}, offsets, NOW + 2 * SILENT_NS)
    assert [other.id for other in late.events] == [event.id]


def test_a_silent_session_with_records_on_the_way_goes_on(tmp_path: Path) -> None:
    append(
        tmp_path, [encode({"type": "session.created", "id": "a", "at": NOW, "new_session": "n"})]
    )
    (begun,) = read_all(tmp_path).sessions
    (segment,) = (tmp_path / "spool").iterdir()
    offsets = {segment.name: str(segment.stat().st_size)}
    append(tmp_path, [encode({"type": "prompt.sent", "id": "c", "session": "n"})])
    batch = SpoolSource(tmp_path).poll({begun.id: begun}, offsets, NOW + 2 * SILENT_NS)
    assert [event.type for event in batch.events] == ["prompt.sent"]


def test_what_a_full_look_cuts_off_is_not_torn_and_nobody_is_silent(tmp_path: Path) -> None:
    # A backlog of three old segments, the first of which fills a look to a few bytes.
    (tmp_path / "spool").mkdir()
    lines = [record(id=f"{n:07}", error_type="x" * 150, session="s") for n in range(25_000)]
    big = (4 << 20) // len(lines[0])
    parts = [lines[:big], lines[big : big + 100], lines[big + 100 :]]
    for hour, part in enumerate(parts):
        (tmp_path / "spool" / f"20261110T0{hour}.jsonl").write_bytes(b"".join(part))
    quiet = Session(
        id="s", name="n", program="p", repository="r", branch="", worktree="", origin="track"
    )
    offsets: dict[str, str] = {}
    ids: list[str] = []
    now = NOW + 400 * KEEP_NS  # all of it was written long ago
    source = SpoolSource(tmp_path, count(0, 100).__next__)
    for _ in range(4):
        batch = source.poll({"s": quiet}, offsets, now)
        offsets.update({name: at for name, at in batch.offsets.items() if at is not None})
        assert not batch.skipped
        ids += [event.id for event in batch.events if event.type == "prompt.sent"]
        ended = [event for event in batch.events if event.type == "session.killed"]
        assert not ended or (len(ids) == 25_000 and len(batch.events) == 1)
    assert ids == [f"{n:07}" for n in range(25_000)]


def test_a_record_is_not_cut_where_the_room_of_a_look_ends(tmp_path: Path) -> None:
    # Two segments: what the first leaves of a look's 4 MiB ends within a record of the second.
    (tmp_path / "spool").mkdir()
    size = len(record(id="0000000", error_type="x" * 150))
    count = (4 << 20) // size
    lines = [record(id=f"{n:07}", error_type="x" * 150) for n in range(2 * count)]
    (tmp_path / "spool" / "20261118T06.jsonl").write_bytes(b"".join(lines[: count - 1]))
    (tmp_path / "spool" / "20261118T07.jsonl").write_bytes(b"".join(lines[count - 1 :]))
    offsets: dict[str, str] = {}
    ids: list[str] = []
    for _ in range(6):
        batch = read_all(tmp_path, offsets)
        assert not batch.skipped
        offsets.update({name: at for name, at in batch.offsets.items() if at is not None})
        ids += [event.id for event in batch.events]
    assert ids == [f"{n:07}" for n in range(2 * count)]


def test_a_line_of_many_torn_records_is_skipped_piece_by_piece(tmp_path: Path) -> None:
    write_raw(tmp_path, RECORD_START * 5000 + record(id="a")[len(RECORD_START) :] + record(id="b"))
    batch = read_all(tmp_path)
    assert [event.id for event in batch.events] == ["a", "b"]
    assert batch.skipped == {"undecodable": 4999}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_segment_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path, record())
    os.chown(path, 12345, -1)
    batch = read_all(tmp_path)
    assert batch.events == []
    assert batch.skipped == {"foreign_file": 1}


def test_a_link_in_place_of_a_segment_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    secret.write_bytes(record())
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / segment_name(time.time())).symlink_to(secret)
    assert read_all(tmp_path).events == []
    with pytest.raises(SpoolError):
        append(tmp_path, [record(id="b")])
    assert secret.read_bytes() == record()


def test_a_full_disk_is_an_error_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / segment_name(time.time())).symlink_to("/dev/full")
    monkeypatch.setattr(os, "O_NOFOLLOW", 0)
    with pytest.raises(SpoolError, match="No space left"):
        append(tmp_path, [record()])


def test_home_follows_the_environment() -> None:
    assert home_folder({"SQUAD_OTEL_HOME": "/x/y", "HOME": "/h"}) == Path("/x/y")
    assert home_folder({"HOME": "/h"}) == Path("/h/.squad-otel")


def test_a_spool_that_grew_for_a_week_is_read_whole_and_then_put_away(tmp_path: Path) -> None:
    # No daemon ran: a segment an hour, each ending in a line that its writer never finished.
    home = tmp_path / "home"
    begun = NOW - 7 * 24 * 3600 * NS
    (home / "spool").mkdir(parents=True)
    written = []
    for hour in range(7 * 24):
        at = begun + hour * 3600 * NS
        ids = [f"{hour}-{n}" for n in range(50)]
        lines = [record(id=key, at=at + n * NS) for n, key in enumerate(ids)]
        path = home / "spool" / segment_name(at / NS)
        path.write_bytes(b"".join(lines) + RECORD_START + b'"type":"prompt.se')
        os.utime(path, ns=(at, at))
        written += ids
    journal = Journal(home, begun - NS)
    source = SpoolSource(home, count(0, 100).__next__)
    torn = 0
    while batch := source.poll(journal.sessions(), journal.offsets("spool"), NOW):
        journal.append("spool", batch, NOW)
        torn += batch.skipped.get("torn", 0)
    reader = open_reader(home)
    found = [key for (key,) in reader.execute("SELECT id FROM events ORDER BY occurred_at, seq")]
    reader.close()
    assert found == written
    # What was torn within the last day may still be completed.
    assert torn == 6 * 24
    assert len(list((home / "spool").iterdir())) == len(journal.offsets("spool")) == 24
    journal.close()
