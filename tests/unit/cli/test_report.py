"""`squad-otel report`, as it is typed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests import week

ROOT = Path(__file__).parents[3]
SECOND = (week.START + 7 * week.DAY, week.START + 14 * week.DAY)


def environ(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SQUAD_", "NO_COLOR"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "SQUAD_OTEL_HOME": str(home),
        "SQUAD_OTEL_TIME_ZONE": "UTC",
        "TERM": "xterm",
    }


def run(home: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "squad_otel", "report", *arguments],
        env=environ(home),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commands_of(done: subprocess.CompletedProcess[str]) -> tuple[object, object]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = {row["key"]: row for row in json.loads(done.stdout)["headlines"]}
    return rows["commands"]["value"], rows["commands"]["before"]


@pytest.mark.parametrize(
    "period",
    [
        ("weekly", "--date", "2025-11-19"),
        ("daily", "--since", "2025-11-17", "--until", "2025-11-24T00:00:00Z"),
    ],
)
def test_a_past_week_from_the_journal(
    fortnight: tuple[Path, week.Truth], period: tuple[str, ...]
) -> None:
    home, truth = fortnight
    expected = (
        len(truth.of(week.Command, *SECOND)),
        len(truth.of(week.Command, week.START, SECOND[0])),
    )
    assert commands_of(run(home, *period, "--format", "json")) == expected


def test_a_file_is_private_and_said_on_stderr(
    fortnight: tuple[Path, week.Truth], tmp_path: Path
) -> None:
    target = tmp_path / "week.html"
    target.write_text("before")
    target.chmod(0o644)
    done = run(
        fortnight[0],
        *("weekly", "--date", "2025-11-19", "--format", "html", "--output", "week.html"),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "report written to week.html\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.read_text().startswith("<!DOCTYPE html>")


def test_a_pipe_gets_no_colour_a_terminal_does(fortnight: tuple[Path, week.Truth]) -> None:
    arguments = ("weekly", "--date", "2025-11-19")
    done = run(fortnight[0], *arguments)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\x1b[1m" in on_terminal(environ(fortnight[0]), arguments)
    assert "\x1b[" not in on_terminal({**environ(fortnight[0]), "NO_COLOR": "1"}, arguments)


def test_a_reader_that_went_away_is_no_error(fortnight: tuple[Path, week.Truth]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "squad_otel", "report", "weekly", "--date", "2025-11-19"],
        env=environ(fortnight[0]),
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")


def on_terminal(variables: dict[str, str], arguments: tuple[str, ...]) -> str:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "squad_otel", "report", *arguments],
        env=variables,
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


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("yearly",), 2, "daily"),
        (("weekly", "--previous", "--date", "2025-11-19"), 2, "exclude each other"),
        (("weekly", "--until", "1h"), 2, "--until needs --since"),
        (("weekly", "--date", "2999-01-01"), 2, "is in the future"),
        (("weekly", "--source", "journal", "--all"), 2, "--all needs Prometheus"),
        (("weekly", "--since", "soon"), 1, "'soon' is no time: write 7d"),
        (("weekly", "--since", "1h", "--until", "2h"), 1, "the period is empty"),
        (("weekly", "--source", "prometheus"), 1, "no Prometheus is known: set prometheus_url"),
        (("weekly", "--output", "/nowhere/x"), 1, "cannot write /nowhere/x"),
    ],
)
def test_what_is_refused_is_said(
    fortnight: tuple[Path, week.Truth], arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run(fortnight[0], *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_anything_it_says_how_to_begin(tmp_path: Path) -> None:
    done = run(tmp_path / "none", "weekly")
    assert done.returncode == 1
    assert "`squad-otel up` begins one" in done.stderr
    assert not (tmp_path / "none").exists()


def test_auto_takes_prometheus_where_there_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('prometheus_url = "http://127.0.0.1:1"\n')
    done = run(tmp_path, "weekly", "--all")
    assert done.returncode == 1
    assert "no answer from Prometheus at http://127.0.0.1:1" in done.stderr
    alone = run(tmp_path, "weekly")
    assert alone.returncode == 1
    assert "--all" in alone.stderr
