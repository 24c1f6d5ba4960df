"""A weekly report over a journal, from opening to text, against one scan of its events table."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

from benchmarks.journal import EVENTS, T0, WEEK_NS, append_all
from squad_otel.query.journal import JournalBackend
from squad_otel.query.periods import Calendar
from squad_otel.report.insights import with_insights
from squad_otel.report.render import render
from squad_otel.report.sections import build
from squad_otel.schema import journal_path

ROUNDS = 5


def fastest(call: Callable[[], object]) -> float:
    """Seconds of a call: the best of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def report(home: Path) -> str:
    """The whole week as text, as `squad-otel report` prints it."""
    now = T0 + WEEK_NS
    calendar = Calendar(UTC)
    backend = JournalBackend(home, now)
    try:
        made = with_insights(build(backend, calendar, calendar.custom(T0, now, now), now))
    finally:
        backend.close()
    assert sum(int(made.headline(name).value or 0) for name in ("commands",)) == EVENTS * 6 // 10
    return render(made, "table")


def scan(home: Path) -> object:
    """Every row of the table once, three columns of each."""
    db = sqlite3.connect(journal_path(home))
    try:
        sql = "SELECT count(*), sum(duration_ns), sum(cost_nusd) FROM events"
        return db.execute(sql).fetchone()
    finally:
        db.close()


def main() -> None:
    """Print the ratio first."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        append_all(home)
        ours, bare = fastest(lambda: report(home)), fastest(lambda: scan(home))
    print(f"{ours / bare:.2f}x  a weekly report / a scan of the events (goal: 2x)")
    print(f"  report  {ours:8.3f} s")
    print(f"  scan    {bare:8.3f} s")
    print(f"  {EVENTS:,} events over a week, the best of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
