"""What commands print on: the terminal, if it is one, and the calendar of the settings."""

from __future__ import annotations

import os
import sys
from zoneinfo import ZoneInfo

from squad_otel.query.periods import Calendar
from squad_otel.settings import Settings

_WIDTH = 80


def calendar_of(settings: Settings) -> Calendar:
    """The calendar that the settings name."""
    zone = ZoneInfo(settings.time_zone) if settings.time_zone else None
    return Calendar(zone, settings.week_start)


def terminal() -> tuple[int, bool]:
    """Width of stdout, and whether colour is due there: on a terminal, unless NO_COLOR is set."""
    if not sys.stdout.isatty():
        return _WIDTH, False
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH, not plain
