"""A webhook to which an Alertmanager can deliver: `python -m squad_otel.demo.sink FILE`.

It says its URL on standard output, and writes each delivery as one line of JSON into FILE.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

_MAX_BODY_BYTES = 1 << 20


class _Delivery(BaseHTTPRequestHandler):
    file: Path

    def do_POST(self) -> None:
        """Keep one delivery, with when it came (Unix seconds)."""
        length = min(int(self.headers.get("Content-Length") or 0), _MAX_BODY_BYTES)
        body = json.loads(self.rfile.read(length))
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"received_at": time.time(), "body": body}) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def main() -> None:
    """Listen on a free port of the loopback until terminated."""
    _Delivery.file = Path(sys.argv[1])
    with HTTPServer(("127.0.0.1", 0), _Delivery) as server:
        sys.stdout.write(f"http://127.0.0.1:{server.server_port}/alerts\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
