"""`squad-otel events` and `squad-otel export`, as they are typed."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.events import Event
from squad_otel.journal import Journal
from squad_otel.metrics import BY_NAME
from squad_otel.query.measures import MEASURES
from squad_otel.report.records import EVENT_COLUMNS, SERIES_COLUMNS
from squad_otel.sessions import Session
from tests import week

ROOT = Path(__file__).parents[3]
END = week.START + week.DAYS * week.DAY


def environ(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SQUAD_", "NO_COLOR"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "SQUAD_OTEL_HOME": str(home),
        "SQUAD_OTEL_TIME_ZONE": "UTC",
        "TERM": "xterm",
    }


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "squad_otel", *arguments],
        env=environ(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines(home: Path, *arguments: str) -> list[dict[str, object]]:
    done = run(home, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


Fortnight = tuple[Path, week.Truth]


def test_events_are_all_there_for_programs_and_the_latest_for_people(fortnight: Fortnight) -> None:
    home, truth = fortnight
    commands = lines(home, "events", "--type", "command.executed", "--format", "json")
    assert len(commands) == len(truth.of(week.Command, week.START, END))
    assert [row["occurred_at"] for row in commands] == sorted(
        str(row["occurred_at"]) for row in commands
    )
    table = run(home, "events", "--type", "command.executed").stdout.splitlines()
    assert len(table) == 1 + 50
    last = lines(home, "events", "--type", "command.executed", "--limit", "3", "--format", "json")
    assert last == commands[-3:]


def test_events_of_a_period_that_failed(fortnight: Fortnight) -> None:
    home, truth = fortnight
    since, until = week.START + 7 * week.DAY, week.START + 8 * week.DAY
    found = lines(
        home,
        *("events", "--type", "command", "--error", "--format", "json"),
        *("--since", "2025-11-17", "--until", "2025-11-18"),
    )
    expected = [c for c in truth.of(week.Command, since, until) if c.error_type]
    assert len(found) == len(expected) > 0


def test_export_events_has_every_stored_event(fortnight: Fortnight) -> None:
    home, _ = fortnight
    db = sqlite3.connect(home / "journal.db")
    stored = {row[0] for row in db.execute("SELECT id FROM events")}
    db.close()
    assert {row["id"] for row in lines(home, "export", "events")} == stored
    done = run(home, "export", "events", "--format", "csv", "--since", "2025-11-23T12:00")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert 0 < len(rows) < len(stored)
    assert tuple(rows[0]) == EVENT_COLUMNS
    assert all(row["occurred_at"] >= "2025-11-23T12:00" for row in rows)


def test_export_stats_has_every_measure(fortnight: Fortnight) -> None:
    home, truth = fortnight
    rows = {row["measure"]: row for row in lines(home, "export", "stats")}
    assert set(rows) == set(MEASURES)
    assert rows["commands"]["value"] == len(truth.of(week.Command, week.START, END))
    assert rows["command_p95"]["unit"] == "s"
    second = {r["measure"]: r for r in lines(home, "export", "stats", "--since", "2025-11-17")}
    assert second["commands"]["value"] == len(
        truth.of(week.Command, week.START + 7 * week.DAY, END)
    )
    assert second["commands"]["since"] == "2025-11-17T00:00:00+00:00"


def test_export_sessions_has_those_that_lived_since_then(fortnight: Fortnight) -> None:
    home, truth = fortnight
    rows = lines(home, "export", "sessions")
    assert len(rows) == len(truth.of(week.SessionStart, week.START, END))
    ended = truth.of(week.SessionEnd, week.START, week.START + 7 * week.DAY)
    later = lines(home, "export", "sessions", "--since", "2025-11-17")
    assert len(later) == len(rows) - len(ended)
    done = run(home, "export", "sessions", "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == len(rows)


def test_export_metrics_has_the_series_as_stored(fortnight: Fortnight) -> None:
    home, truth = fortnight
    rows = lines(home, "export", "metrics")
    starts = [row for row in rows if row["metric"] == "squad.session.starts"]
    assert sum(int(str(row["sum"])) for row in starts) == len(
        truth.of(week.SessionStart, week.START, END)
    )
    timed = [row for row in rows if row["metric"] == "squad.command.duration"]
    assert timed
    for row in timed:
        buckets = row["buckets"]
        assert isinstance(buckets, list)
        assert [b["le"] for b in buckets[:-1]] == list(BY_NAME["squad.command.duration"].bounds)
        assert buckets[-1]["le"] == "+Inf"
        assert sum(b["count"] for b in buckets) == row["count"]
    done = run(home, "export", "metrics", "--format", "csv")
    table = list(csv.DictReader(io.StringIO(done.stdout)))
    assert tuple(table[0]) == SERIES_COLUMNS
    assert [row["label_program"] for row in table] == [
        row["labels"].get("program", "")  # type: ignore[attr-defined]
        for row in rows
    ]


def test_a_file_is_whole_private_and_said_on_stderr(fortnight: Fortnight, tmp_path: Path) -> None:
    target, link = tmp_path / "e.json", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o644)
    link.symlink_to(target)
    done = run(fortnight[0], "export", "events", "--output", str(link))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"events written to {link}\n"
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_text() == run(fortnight[0], "export", "events", "--output", "-").stdout
    assert {path.name for path in tmp_path.iterdir()} == {"e.json", "link"}


def test_a_device_is_written_to_and_stays_one(fortnight: Fortnight) -> None:
    done = run(fortnight[0], "export", "metrics", "--output", "/dev/null")
    assert done.returncode == 0, done.stderr
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("events", "--type", "git.comit"), 2, "'git.comit' is no type of event"),
        (("events", "--session", "zz"), 1, "no session is called 'zz'"),
        (("events", "--since", "soon"), 1, "'soon' is no time: write 7d"),
        (("events", "--since", "1h", "--until", "2h"), 1, "the period is empty"),
        (("events", "--limit", "-1"), 2, "neither a number nor 'all'"),
        (("events", "--follow", "--until", "1h"), 2, "leave --until out"),
        (("events", "--follow", "--format", "html"), 2, "--follow writes table, json, csv"),
        (("export", "everything"), 2, "stats"),
        (("export", "stats", "--since", "2199-01-01"), 1, "lies in the future"),
        (("export", "events", "--output", "/nowhere/x"), 1, "cannot write /nowhere/x: No such"),
        (("export", "events", "--output", "/"), 1, "cannot write /: Is a directory"),
        (("export", "events", "--output", "/dev/full"), 1, "cannot write /dev/full: No space"),
    ],
)
def test_what_is_refused_is_said(
    fortnight: Fortnight, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run(fortnight[0], *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("events",), ("export", "events"), ("export", "stats")])
def test_without_a_journal_it_says_how_to_begin(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path / "none", *arguments)
    assert done.returncode == 1
    assert "`squad-otel up` begins one" in done.stderr
    assert not (tmp_path / "none").exists()


def test_no_event_is_said_to_people(fortnight: Fortnight) -> None:
    done = run(fortnight[0], "events", "--branch", "none")
    assert (done.returncode, done.stderr) == (0, "no event matches\n")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("events", "--format", "csv"), ("export", "events")])
def test_a_full_disk_behind_stdout_is_said(
    fortnight: Fortnight, arguments: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "squad_otel", *arguments],
            env=environ(fortnight[0]),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "squad-otel: No space left on device\n"


def test_a_reader_that_goes_away_ends_it_quietly(fortnight: Fortnight) -> None:
    with started(fortnight[0], "export", "events") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


# -- following --------------------------------------------------------------------------------


def started(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "squad_otel", *arguments],
        env=environ(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def next_line(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 30)
    assert ready, "nothing came"
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


FOLLOW = ("events", "--follow", "--limit", "1", "--format", "json")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    opened = Journal(tmp_path / "home", time.time_ns())
    add(opened, "first")
    return opened


def add(journal: Journal, key: str) -> None:
    now = time.time_ns()
    event = Event(id=key, type="error", occurred_at=now, source="x")
    journal.append("x", Batch(events=[event]), now)


def test_following_shows_what_is_committed_and_hinders_no_writer(
    journal: Journal, tmp_path: Path
) -> None:
    with started(tmp_path / "home", *FOLLOW) as process:
        assert next_line(process)["id"] == "first"
        for number in range(3):
            add(journal, f"new{number}")
            assert next_line(process)["id"] == f"new{number}"
        busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0  # the log can be emptied while it is followed
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    journal.close()


@pytest.mark.parametrize("kind", ["sessions", "events"])
def test_an_export_that_is_read_slowly_hinders_no_writer(
    journal: Journal, tmp_path: Path, kind: str
) -> None:
    """Twice as much is written as a pipe holds, so that it waits for us."""
    now = time.time_ns()
    sessions = [
        Session(
            id=f"{n:016x}",
            name=f"task {n}",
            program="claude",
            repository="shop",
            branch="main",
            worktree=f"/w/{n}",
            started_at=now,
        )
        for n in range(1000)
    ]
    events = [Event(id=s.id, type="error", occurred_at=now, source="x") for s in sessions]
    journal.append("x", Batch(sessions=sessions, events=events), now)
    with started(tmp_path / "home", "export", kind) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        add(journal, "while it is written")
        busy, *_ = journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
        assert len((first + process.stdout.read()).splitlines()) >= len(sessions)
        assert process.wait(timeout=30) == 0
    journal.close()


def test_following_ends_when_nobody_reads_though_nothing_happens(
    journal: Journal, tmp_path: Path
) -> None:
    with started(tmp_path / "home", *FOLLOW) as process:
        next_line(process)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 0
    journal.close()


def test_following_goes_on_in_a_journal_that_took_the_place(
    journal: Journal, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with started(home, *FOLLOW) as process:
        next_line(process)
        journal.close()
        for path in home.glob("journal.db*"):
            path.unlink()
        another = Journal(home, time.time_ns())
        add(another, "second life")
        assert next_line(process)["id"] == "second life"
        another.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert b"another file now, or gone" in process.stderr.read()


# -- many rows --------------------------------------------------------------------------------

MANY = 200_000
_PEAK = """
import sys
from squad_otel.cli import cli
try:
    cli()
finally:
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            print("peak", line.split()[1], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Homes whose journals hold so many events."""
    made: dict[int, Path] = {}

    def of(count: int) -> Path:
        if count not in made:
            made[count] = tmp_path_factory.mktemp("large") / "home"
            fill(made[count], count)
        return made[count]

    return of


def fill(home: Path, count: int) -> None:
    """One true event, and copies of its row that happened a microsecond after each other."""
    journal = Journal(home, 10**18)
    first = Event(id="e1", type="error", occurred_at=10**18, source="x", error_type="boom")
    journal.append("x", Batch(events=[first]), 10**18)
    journal.close()
    db = sqlite3.connect(home / "journal.db")
    names = [row[1] for row in db.execute("PRAGMA table_info(events)")]
    changed = {"seq": "n", "id": "'e' || n", "occurred_at": "occurred_at + n * 1000"}
    changed["folded"] = "n"
    db.execute(
        f"WITH numbers(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
        f"INSERT INTO events ({', '.join(names)}) "
        f"SELECT {', '.join(changed.get(name, name) for name in names)} FROM events, numbers"
    )
    db.commit()
    db.close()


def peak_bytes(home: Path, count: int, *arguments: str) -> int:
    """The most memory that the command ever had, and a check that it wrote everything."""
    with open(home / "out", "w+") as out:
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *arguments],
            env=environ(home),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        out.seek(0)
        assert sum(1 for _ in out) >= count
    assert done.stderr.startswith("peak "), done.stderr
    return int(done.stderr.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "events", "--format", "csv"),
        ("events", "--limit", "all"),
        ("events", "--error", "--limit", str(MANY), "--format", "json"),
    ],
)
def test_memory_does_not_grow_with_the_rows(
    large: Callable[[int], Path], arguments: tuple[str, ...]
) -> None:
    few = peak_bytes(large(MANY // 10), MANY // 10, *arguments)
    many = peak_bytes(large(MANY), MANY, *arguments)
    assert many - few < 4_000_000  # a tenth of what the rows more would take


def test_a_bar_is_shown_on_a_terminal_and_nowhere_else(
    large: Callable[[int], Path], tmp_path: Path
) -> None:
    target = tmp_path / "e.json"
    home = large(MANY)
    shown = on_terminal(home, ("export", "events", "--output", str(target)))
    assert "writing" in shown
    assert f"events written to {target}" in shown
    assert len(target.read_text().splitlines()) == MANY
    done = run(home, "export", "events", "--output", str(target))
    assert done.stderr == f"events written to {target}\n"


def on_terminal(home: Path, arguments: tuple[str, ...]) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "squad_otel", *arguments],
        env=environ(home),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
        assert process.wait(timeout=60) == 0, written
    os.close(ours)
    return written.decode()
