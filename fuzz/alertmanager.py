"""Alertmanager's answers: whoever sits at that address may say anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

from squad_otel.alertmanager import parse_alerts
from squad_otel.errors import QueryError
from squad_otel.events import NS
from squad_otel.query.periods import Calendar


def check(data: bytes) -> None:
    """A list of alerts whose times can be shown, or a QueryError."""
    try:
        alerts = parse_alerts(data, "http://there")
    except QueryError:
        return
    for alert in alerts:
        assert Calendar().iso(int(alert.since * NS))
        json.dumps(alert.labels, ensure_ascii=False).encode()


def seeds() -> Iterator[bytes]:
    """One alert, and answers that are none."""
    labels = {"alertname": "SquadSessionWaiting", "severity": "warning", "session": "a-123456"}
    alert = {
        "labels": labels,
        "annotations": {"summary": "s", "description": "d"},
        "startsAt": "2026-11-26T10:00:00.123Z",
    }
    yield json.dumps([alert]).encode()
    yield json.dumps([{**alert, "startsAt": "0001-01-01T00:00:00Z"}]).encode()
    yield b"[]"
    yield b'{"status":"error"}'
    yield b"<html>"
