"""squad-otel: watches a squad of coding agents and keeps an exact record.

What a program may call is here; importing it starts, reads and writes nothing.
"""

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
