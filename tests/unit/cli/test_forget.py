"""`squad-otel forget` as a person uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.sessions import Session

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    now = time.time_ns()
    journal = Journal(tmp_path, now - 3600 * NS)
    session = Session(
        id="0123456789abcdef",
        name="fix login",
        program="claude",
        repository="shop",
        branch="b",
        worktree="/w",
        started_at=now,
    )
    made = [
        Event(id=f"p{n}", type="prompt.sent", occurred_at=now, source="x", session=session.id)
        for n in range(3)
    ]
    journal.append("spool", Batch(events=made, sessions=[session]), now)
    journal.close()
    return tmp_path


def run(home: Path, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "squad_otel", "forget", *arguments],
        env={**os.environ, "SQUAD_OTEL_HOME": str(home), "PYTHONPATH": str(ROOT)},
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_says_what_goes_and_asks(home: Path) -> None:
    refused = run(home, "--session", "fix login", answer="n\n")
    assert refused.returncode == 1
    assert "3 events, 1 sessions; 1 still live" in refused.stderr
    done = run(home, "--session", "012345", answer="y\n")
    assert done.returncode == 0
    # Older versions of click leave a blank of their question on stdout.
    assert done.stdout.split(";")[0].strip() == (
        "removed: 3 events, 0 ended sessions, 0 spool lines"
    )
    assert "totals stay" in done.stdout
    assert "0 events" in run(home, "--since", "1d", "--yes").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "say what"),
        (["--session", "nobody", "--yes"], 1, "no session is called 'nobody'"),
        (["--since", "someday", "--yes"], 1, "is no time"),
        (["--since", "1d", "--until", "2d", "--yes"], 2, "--since lies after --until"),
    ],
)
def test_what_it_cannot_do_is_said(home: Path, arguments: list[str], code: int, words: str) -> None:
    done = run(home, *arguments)
    assert done.returncode == code
    assert words in done.stderr


def test_without_a_journal_there_is_nothing_to_forget(tmp_path: Path) -> None:
    done = run(tmp_path, "--repository", "shop", "--yes")
    assert done.returncode == 1
    assert "no journal" in done.stderr
