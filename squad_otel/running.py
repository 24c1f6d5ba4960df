"""What runs for a home: what the daemon says of itself, and the servers that `up` started.

A server is known by its pid and its own start time, so that nothing else is taken for it.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from squad_otel.schema import locked
from squad_otel.spool import make_private

if TYPE_CHECKING:
    import psutil


def state_path(home: Path) -> Path:
    """Where a running daemon says its pid and address (JSON); removed by an orderly stop."""
    return home / "daemon.json"


def running(home: Path) -> Mapping[str, Any] | None:
    """What the daemon of `home` says of itself, or None when none runs.

    A file left by a killed daemon is no daemon: the lock of the journal tells.
    """
    try:
        state: dict[str, Any] = json.loads(state_path(home).read_text())
        os.kill(int(state["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if locked(home) else None


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One local process of ours. `created` is its start time as the system tells it (s)."""

    name: str
    url: str
    pid: int
    created: float

    @property
    def process(self) -> psutil.Process | None:
        """The process, if this very one still runs."""
        # A third of what `status` takes to start: loaded when there is a process to ask about.
        psutil = importlib.import_module("psutil")
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            alive: bool = same and process.status() != psutil.STATUS_ZOMBIE
            return process if alive else None
        except psutil.Error:
            return None


class Started(msgspec.Struct, kw_only=True):
    """What `up` started: local processes, or the Compose project with its published addresses."""

    local: dict[str, Server] = {}
    compose: dict[str, str] = {}  # service -> URL
    silence: str = ""  # of a clean stop, at an Alertmanager that goes on

    def url(self, name: str) -> str | None:
        """The address of a server that runs by our doing, or None."""
        if name in self.compose:
            return self.compose[name]
        server = self.local.get(name)
        return server.url if server is not None and server.process is not None else None


def started_servers(home: Path) -> Started:
    """What `up` remembered; an unreadable file counts as nothing started."""
    try:
        return msgspec.json.decode(_servers_path(home).read_bytes(), type=Started)
    except (OSError, msgspec.MsgspecError):
        return Started()


def save(home: Path, started: Started) -> None:
    """Remember what runs."""
    make_private(home)
    fresh = _servers_path(home).with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(started))
    fresh.chmod(0o600)
    fresh.replace(_servers_path(home))


def _servers_path(home: Path) -> Path:
    return home / "servers.json"
