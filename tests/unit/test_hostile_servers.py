"""What sits at the addresses of Prometheus and Alertmanager may answer anything at all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from squad_otel import alertmanager
from squad_otel.errors import QueryError
from squad_otel.events import NS
from squad_otel.query.periods import Calendar
from squad_otel.query.prometheus import PrometheusBackend
from squad_otel.report.glance import drawn, status_json, status_view
from squad_otel.report.status import Status

NOW = 1_795_400_000 * NS
EVIL = "\x1b]0;title\x07\x9b31m\u202e\r"

BODIES = (
    b"",
    b"<html>",
    b"null",
    b"{}",
    b"[" * 100_000,
    b'{"status":"error","error":"\xff"}',
    json.dumps({"status": "error", "error": EVIL}).encode(),
    b'[{"labels":{"alertname":"\xff"},"annotations":{},"startsAt":"2026-11-26T10:00:00Z"}]',
    b'[{"labels":{},"annotations":{},"startsAt":"2026-11-26T10:00:00"}]',
    b'{"silenceID":7}',
)


class Liar(HTTPServer):
    """Answers everything with `body` and `status`, and remembers what was asked."""

    body = b""
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Liar

    def answer(self) -> None:
        self.server.asked.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def liar() -> Iterator[Liar]:
    with Liar() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body[:20]))
def test_an_answer_that_is_none_is_said(liar: Liar, body: bytes) -> None:
    liar.body = body
    with pytest.raises(QueryError):
        alertmanager.firing(liar.url)
    with pytest.raises(QueryError):
        alertmanager.silence_daemon_gone(liar.url, "j", NOW / NS)
    for journal in ("j", None):
        backend = PrometheusBackend(liar.url, NOW, journal)
        with pytest.raises(QueryError):
            backend.read(["squad.prompts"], (NOW - 3600 * NS, NOW))
        backend.close()


def test_what_an_alertmanager_says_is_harmless_in_the_status(liar: Liar) -> None:
    liar.status, liar.body = 500, EVIL.encode()
    with pytest.raises(QueryError) as refused:
        alertmanager.firing(liar.url)
    shown(None, f"not known, {refused.value}")

    alert = {
        "labels": {"alertname": EVIL, "severity": EVIL, EVIL: EVIL},
        "annotations": {"summary": EVIL, "description": EVIL},
        "startsAt": "0001-01-01T00:00:00Z",
    }
    liar.status, liar.body = 200, json.dumps([alert]).encode()
    shown(tuple(alertmanager.firing(liar.url)), "")


def shown(alerts: tuple[alertmanager.Alert, ...] | None, note: str) -> None:
    """Fail unless nothing that a terminal obeys is in the status."""
    status = Status(NOW, None, "j", NOW, None, (), (), {}, alerts, note)
    calendar = Calendar(UTC)
    for text in (
        drawn(status_view(status, calendar, 80), 80, False),
        status_json(status, calendar),
    ):
        assert all(c.isprintable() or c == "\n" for c in text), text
    found = json.loads(status_json(status, calendar))
    for alert in found["alerts"] or ():
        assert "".join(alert["labels"].values()).isprintable()
    assert found["alerts_note"].isprintable()


def test_what_a_prometheus_says_is_harmless_in_an_error(liar: Liar, tmp_path: Path) -> None:
    liar.body = json.dumps({"status": "error", "error": f"no\n{EVIL}"}).encode()
    done = subprocess.run(
        [sys.executable, "-m", "squad_otel", "report", "--source", "prometheus", "--all"],
        env={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "SQUAD_OTEL_HOME": str(tmp_path),
            "SQUAD_OTEL_PROMETHEUS_URL": liar.url,
            "PYTHONIOENCODING": "utf-8",
        },
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "refuses: no\n" in said
    assert all(c.isprintable() or c == "\n" for c in said), said


def test_a_silence_is_no_way_to_another_address(liar: Liar) -> None:
    alertmanager.end_silence(liar.url, "../../-/reload?x")
    assert liar.asked == ["/api/v2/silence/..%2F..%2F-%2Freload%3Fx"]
