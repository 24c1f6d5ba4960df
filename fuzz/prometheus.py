"""Prometheus's answers: whoever sits at that address may say anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC
from urllib.parse import urlencode

from squad_otel.errors import QueryError
from squad_otel.events import NS
from squad_otel.export.points import JOURNAL_LABEL
from squad_otel.metrics import BY_NAME, Kind
from squad_otel.query.periods import Calendar
from squad_otel.query.prometheus import PrometheusBackend
from squad_otel.report.insights import with_insights
from squad_otel.report.render import json_text
from squad_otel.report.sections import build

NOW = 1_795_400_000 * NS


class Answers(PrometheusBackend):
    """A backend that is told, in turn, what is in `bodies`."""

    def __init__(self, bodies: list[bytes], journal: str | None) -> None:
        super().__init__("http://there", NOW, journal)
        self._bodies = bodies
        self._asked = 0

    def fetch(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """The next of the bodies, in a circle."""
        assert urlencode(form)
        self._asked += 1
        return 200, self._bodies[(self._asked - 1) % len(self._bodies)]


def check(data: bytes) -> None:
    """Answers, parted by line feeds, make a report or a QueryError."""
    head, *bodies = data.split(b"\n")
    backend = Answers(bodies or [head], "j" if len(head) % 2 else None)
    try:
        calendar = Calendar(UTC)
        report = with_insights(build(backend, calendar, calendar.current("daily", NOW), NOW))
    except QueryError as error:
        assert str(error)
        return
    finally:
        backend.close()
    json.loads(json_text(report))


def _vector(value: str, at: float = NOW / NS - 60, **labels: str) -> dict[str, object]:
    return {"metric": labels, "value": [at, value], "values": [[at, value]]}


def _answer(*rows: object) -> bytes:
    return json.dumps({"status": "success", "data": {"result": rows}}).encode()


def seeds() -> Iterator[bytes]:
    """Heartbeat, beginning, then figures; and answers that are none."""
    journals = json.dumps({"status": "success", "data": [{JOURNAL_LABEL: "j"}]}).encode()
    alive = _answer(_vector("1"))
    counts = _answer(_vector("7", program="claude", repository="shop", model="m"))
    bounds = next(m for m in BY_NAME.values() if m.kind is Kind.HISTOGRAM).bounds
    buckets = _answer(*(_vector("3", le=str(le), program="c") for le in (*bounds, "+Inf")))
    yield b"\n".join([b"x", alive, counts])
    yield b"\n".join([b"x", alive, alive, alive, counts, buckets])
    yield b"\n".join([b"", journals, alive, counts])
    yield b"\n" + json.dumps({"status": "error", "error": "no"}).encode()
    yield b"\n<html>"
