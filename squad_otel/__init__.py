"""squad-otel: watches a squad of coding agents and keeps an exact record.

What a program may call is here; importing it starts, reads and writes nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squad_otel.api import (
        TrackedSession,
        command,
        error,
        flush,
        git,
        init,
        prompt,
        session,
        timer,
    )

__version__ = "0.1.0"

__all__ = [
    "TrackedSession",
    "command",
    "error",
    "flush",
    "git",
    "init",
    "prompt",
    "session",
    "timer",
]


def __getattr__(name: str) -> object:
    """The track API, loaded at its first use: the command line does not pay for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module("squad_otel.api"), name)
    return found
