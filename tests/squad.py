"""The claude-squad to test against: the demo's own."""

from squad_otel.demo.squad import (
    BIRTH,
    FULL,
    PAUSED,
    PREVIEW,
    RUNNING,
    Instance,
    Size,
    Squad,
    TerminalClient,
    wait_until,
)

__all__ = [
    "BIRTH",
    "FULL",
    "PAUSED",
    "PREVIEW",
    "RUNNING",
    "Instance",
    "Size",
    "Squad",
    "TerminalClient",
    "wait_until",
]
