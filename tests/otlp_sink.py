"""An OTLP/HTTP receiver for tests: a process that keeps every span and data point it was sent.

`python otlp_sink.py FOLDER PORT` serves. What it does with a request stands in FOLDER/mode and may
be changed at any time: `ok`, `refuse` (503), `lose` (keep, then answer 503), `bad` (400),
`redirect` (307), `hang` (no answer), `picky` (413 for more than 64 spans, 400 where one of them is
called `poison`). Tests use the class `Sink`.
"""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

_UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}
_STATUS = {"refuse": 503, "lose": 503, "bad": 400, "redirect": 307}


class Sink:
    """The receiver, seen from a test. It keeps what it has over `stop` and `start`."""

    def __init__(self, folder: Path, mode: str = "ok") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._child: subprocess.Popen[bytes] | None = None
        self.mode(mode)

    def mode(self, mode: str) -> None:
        fresh = self.folder / "mode.new"
        fresh.write_text(mode)
        fresh.replace(self.folder / "mode")

    def start(self) -> Sink:
        with (self.folder / "sink.log").open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, __file__, str(self.folder), str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                log_text = (self.folder / "sink.log").read_text()
                assert time.monotonic() < deadline, f"the OTLP sink does not start: {log_text}"
                time.sleep(0.05)

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def __enter__(self) -> Sink:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def requests(self) -> list[dict[str, Any]]:
        """Every request: path, headers, status (0: never answered), how many things it held."""
        return _read(self.folder / "requests.jsonl")

    def spans(self) -> list[dict[str, Any]]:
        """Every span that was kept, in order, repeated ones too; `raw` is its encoding in hex."""
        return _read(self.folder / "spans.jsonl")

    def pushes(self) -> list[list[dict[str, Any]]]:
        """Every push of metrics: its data points."""
        return _read(self.folder / "metrics.jsonl")


def _read(path: Path) -> list[Any]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


# -- the process ------------------------------------------------------------------------------


def _plain(attributes: list[KeyValue]) -> dict[str, Any]:
    """Attributes as a dict of Python values."""
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in attributes
    }


def decoded_spans(body: bytes) -> list[dict[str, Any]]:
    message = ExportTraceServiceRequest.FromString(body)
    return [
        {
            "trace_id": span.trace_id.hex(),
            "span_id": span.span_id.hex(),
            "parent_span_id": span.parent_span_id.hex(),
            "name": span.name,
            "kind": span.kind,
            "start": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "attributes": _plain(list(span.attributes)),
            "status": span.status.code,
            "resource": _plain(list(group.resource.attributes)),
            "raw": span.SerializeToString(deterministic=True).hex(),
        }
        for group in message.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def decoded_points(body: bytes) -> list[dict[str, Any]]:
    message = ExportMetricsServiceRequest.FromString(body)
    return [
        {
            "name": metric.name,
            "unit": metric.unit,
            "help": metric.description,
            "scope": scope.scope.name,
            "resource": _plain(list(group.resource.attributes)),
            **point,
        }
        for group in message.resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        for point in _points(metric)
    ]


def _points(metric: Metric) -> list[dict[str, Any]]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind or "gauge")
    found = []
    for point in data.data_points:
        seen = {
            "kind": kind,
            "monotonic": getattr(data, "is_monotonic", None),
            "temporality": getattr(data, "aggregation_temporality", None),
            "labels": _plain(list(point.attributes)),
            "start": point.start_time_unix_nano,
            "time": point.time_unix_nano,
        }
        if isinstance(point, NumberDataPoint):
            seen["value"] = getattr(point, point.WhichOneof("value") or "as_int")
        else:
            seen |= {
                "count": point.count,
                "sum": point.sum,
                "bounds": list(point.explicit_bounds),
                "buckets": list(point.bucket_counts),
                "min": point.min if point.HasField("min") else None,
            }
        found.append(seen)
    return found


class _Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_POST(self) -> None:
        mode = (self.folder / "mode").read_text()
        packed = self.rfile.read(int(self.headers["Content-Length"]))
        body = _UNPACK[self.headers.get("Content-Encoding")](packed)
        if self.path == "/v1/traces":
            kept, file = decoded_spans(body), "spans.jsonl"
            answer = ExportTraceServiceResponse().SerializeToString()
        elif self.path == "/v1/metrics":
            kept, file = decoded_points(body), "metrics.jsonl"
            answer = ExportMetricsServiceResponse().SerializeToString()
        else:
            self._answer(404, b"", len(body))
            return
        if mode == "hang":
            self._note(0, len(kept))
            time.sleep(600)
            return
        status = _STATUS.get(mode, 200)
        if mode == "picky":
            poisoned = any(row["name"] == "poison" for row in kept)
            status = 413 if len(kept) > 64 else 400 if poisoned else 200
        if status == 200 or mode == "lose":
            self._keep(file, kept if file == "spans.jsonl" else [kept])
        self._answer(status, answer if status == 200 else b"", len(kept))

    def _keep(self, file: str, rows: list[Any]) -> None:
        """Append, in one write, before the answer: what was acknowledged is on disk."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        with (self.folder / file).open("ab", buffering=0) as target:
            target.write(lines.encode())

    def _note(self, status: int, count: int) -> None:
        row = {
            "path": self.path,
            "headers": {key.lower(): value for key, value in self.headers.items()},
            "status": status,
            "count": count,
        }
        self._keep("requests.jsonl", [row])

    def _answer(self, status: int, body: bytes, count: int) -> None:
        self._note(status, count)
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main(folder: str, port: str) -> None:
    _Receiver.folder = Path(folder)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), _Receiver)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
