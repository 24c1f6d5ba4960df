"""`squad-otel status` and `sessions list`, as they are typed, over a journal of known content."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.sessions import Session, State

ROOT = Path(__file__).parents[3]
HOSTILE = "=cmd|'/c calc'!A1 \x1b[31m\u202e<b>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three live sessions and an ended one; what each did is written here and nowhere else."""
    now = time.time_ns()
    began = now - 7200 * NS
    journal = Journal(tmp_path / "home", began)

    def session(key: str, name: str, program: str, state: State, since_s: int) -> Session:
        return Session(
            id=key,
            name=name,
            program=program,
            repository="webshop",
            branch=f"sam/{key}",
            worktree=f"/w/{key}",
            state=state,
            state_since=now - since_s * NS,
            started_at=began,
            last_activity=now - since_s * NS,
            ended_at=now - since_s * NS if state is State.ENDED else None,
        )

    def event(key: str, kind: str, session: str, **more) -> Event:
        more.setdefault("source", "git")
        return Event(id=key, type=kind, occurred_at=now - 60 * NS, session=session, **more)

    priced = {"model": "m", "input_tokens": 1000, "cost_nusd": 1_230_000_000}
    events = [
        event("c1", "git.commit", "aaaa1111"),
        event("c2", "git.commit", "aaaa1111"),
        event("p1", "git.push", "aaaa1111"),
        event("e1", "error", "aaaa1111", source="track", error_type="X"),
        event("t1", "tokens.used", "aaaa1111", source="claude", fields=priced),
        event("t2", "tokens.used", "bbbb2222", source="claude", fields={"output_tokens": 7}),
        event("x1", "command.executed", "bbbb2222", source="exec", success=False, duration_ns=NS),
    ]
    sessions = [
        session("aaaa1111", "idle one", "claude", State.IDLE, 120),
        session("bbbb2222", "asks", "claude", State.WAITING, 300),
        session("cccc3333", HOSTILE, "codex", State.RUNNING, 5),
        session("dddd4444", "gone", "claude", State.ENDED, 600),
    ]
    journal.append("x", Batch(sessions=sessions, events=events), now)
    journal.close()
    return tmp_path / "home"


def run(home: Path, *arguments: str, **more: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SQUAD_")}
    done = subprocess.run(
        [sys.executable, "-m", "squad_otel", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), "SQUAD_OTEL_HOME": str(home), **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_json_says_what_each_session_did_and_what_needs_a_human_first(home: Path) -> None:
    found = json.loads(run(home, "status", "--format", "json"))
    assert found["daemon"] is None
    by_name = {row["session"]: row for row in found["sessions"]}
    assert [row["id"] for row in found["sessions"]] == ["bbbb2222", "cccc3333", "aaaa1111"]
    idle = by_name["idle one"]
    assert (idle["state"], idle["branch"], idle["repository"]) == (
        "idle",
        "sam/aaaa1111",
        "webshop",
    )
    assert (idle["commits"], idle["errors"], idle["tokens"]) == (2, 1, 1000)
    assert (idle["cost"], idle["cost_unpriced"]) == (1.23, 0)
    asks = by_name["asks"]
    assert (asks["errors"], asks["tokens"], asks["cost"], asks["cost_unpriced"]) == (1, 7, None, 1)
    # No answer of a model was seen here: that is no 0.
    nobody = next(row for row in found["sessions"] if row["id"] == "cccc3333")
    assert (nobody["commits"], nobody["tokens"], nobody["cost"]) == (0, None, None)
    totals = found["totals"]
    assert (totals["git_operations"], totals["commands"], totals["errors"]) == (3, 1, 2)
    assert (totals["tokens"], totals["cost"], totals["cost_unpriced"]) == (1007, 1.23, 1)
    assert found["alerts"] is None
    assert "no Alertmanager" in found["alerts_note"]


def test_the_table_fits_80_columns_and_says_that_no_daemon_runs(home: Path) -> None:
    text = run(home, "status")
    assert "The daemon does not run." in text
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    for words in ("waiting", "5 m", "claude in webshop, sam/bbbb2222", "unknown", "$1.23"):
        assert words in text


def test_csv_is_one_session_a_line_and_no_cell_begins_a_formula(home: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(home, "status", "--format", "csv"))))
    assert [row["id"] for row in rows] == ["bbbb2222", "cccc3333", "aaaa1111"]
    assert rows[1]["session"].startswith("'=cmd")
    assert rows[2]["cost"] == "1.23"


def test_sessions_list_has_the_ended_ones_too(home: Path) -> None:
    found = json.loads(run(home, "sessions", "list", "--format", "json"))["sessions"]
    assert {row["id"] for row in found} == {"aaaa1111", "bbbb2222", "cccc3333", "dddd4444"}
    live = json.loads(run(home, "sessions", "list", "--live", "--format", "json"))["sessions"]
    assert {row["id"] for row in live} == {"aaaa1111", "bbbb2222", "cccc3333"}
    assert "gone" in run(home, "sessions", "list")
    assert len(run(home, "sessions", "list", "--limit", "1", "--format", "csv").splitlines()) == 2


class _Alertmanager(BaseHTTPRequestHandler):
    answer: bytes = b"[]"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def alertmanager() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Alertmanager)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_firing_alerts_are_shown_the_worst_first_and_the_watchdog_is_not(
    home: Path, alertmanager: str
) -> None:
    def alert(name: str, severity: str) -> dict[str, object]:
        return {
            "labels": {"alertname": name, "severity": severity},
            "annotations": {"summary": "s", "description": f"about {name}\x1b[2J"},
            "startsAt": "2026-01-02T03:04:05.000Z",
        }

    _Alertmanager.answer = json.dumps(
        [alert("W", "warning"), alert("Watchdog", "none"), alert("C", "critical")]
    ).encode()
    found = json.loads(
        run(home, "status", "--format", "json", SQUAD_OTEL_ALERTMANAGER_URL=alertmanager)
    )
    assert [a["name"] for a in found["alerts"]] == ["C", "W"]
    text = run(home, "status", SQUAD_OTEL_ALERTMANAGER_URL=alertmanager)
    assert text.index("about C") < text.index("about W")
    assert "\x1b" not in text


def test_a_dead_or_strange_alertmanager_is_said_and_not_taken_for_no_alerts(
    home: Path, alertmanager: str
) -> None:
    dead = json.loads(
        run(home, "status", "--format", "json", SQUAD_OTEL_ALERTMANAGER_URL="http://127.0.0.1:1")
    )
    assert dead["alerts"] is None
    assert "no answer" in dead["alerts_note"]
    _Alertmanager.answer = b"<html>"
    strange = json.loads(
        run(home, "status", "--format", "json", SQUAD_OTEL_ALERTMANAGER_URL=alertmanager)
    )
    assert strange["alerts"] is None
    assert "not answer like an Alertmanager" in strange["alerts_note"]


def test_without_a_journal_the_error_says_how_to_begin(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "squad_otel", "status"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SQUAD_OTEL_HOME": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "squad-otel up" in done.stderr
    assert "Traceback" not in done.stderr
