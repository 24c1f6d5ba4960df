"""The daemon's HTTP: /metrics and /healthz on loopback, served by waitress."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import waitress

from squad_otel.errors import ServerError

Render = Callable[[str], tuple[bytes, str]]  # Accept header -> body, content type
Health = Callable[[], tuple[bool, dict[str, Any]]]

_LOOPBACK_NAMES = {"127.0.0.1", "localhost", "[::1]"}


class HttpServer:
    """Serves until closed. `render` and `health` are called from the server's own threads."""

    host = "127.0.0.1"

    def __init__(self, port: int, render: Render, health: Health) -> None:
        """Bind at once; port 0 takes a free one. Raises ServerError when the port is taken."""
        self._render = render
        self._health = health
        try:
            self._server = waitress.create_server(
                self._application,
                host=self.host,
                port=port,
                threads=2,
                ident=None,
                clear_untrusted_proxy_headers=True,
            )
        except OSError as error:
            raise ServerError(
                f"cannot listen on {self.host}:{port} ({error.strerror}): "
                "set http_port, or stop what listens there"
            ) from error
        self.port = int(self._server.effective_port)
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; answers under way are given up after a second."""
        self._server.close()
        self._server.task_dispatcher.shutdown(timeout=1)

    def _application(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        status, body, kind = self._answer(environ)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(status, [*headers, ("Cache-Control", "no-store")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> tuple[str, bytes, str]:
        plain = "text/plain; charset=utf-8"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", b"only GET is served\n", plain
        # A page in a browser must not read this by way of a name that it makes point here.
        host = environ.get("HTTP_HOST", "127.0.0.1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name not in _LOOPBACK_NAMES or "HTTP_ORIGIN" in environ:
            return "403 Forbidden", b"ask by a loopback name, and not from a web page\n", plain
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            body, kind = self._render(environ.get("HTTP_ACCEPT", ""))
            return "200 OK", body, kind
        if path == "/healthz":
            well, details = self._health()
            status = "200 OK" if well else "503 Service Unavailable"
            return status, json.dumps(details).encode() + b"\n", "application/json"
        return "404 Not Found", b"here are /metrics and /healthz\n", plain
