"""Journal append and fold against `sqlite3.executemany` of the same rows, indexes and commits."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from squad_otel import journal as journal_module
from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.schema import journal_path

EVENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
BATCH = 1000
T0 = 1_795_000_000 * NS
WEEK_NS = 7 * 86400 * NS


def event(number: int) -> Event:
    """One of a mixed stream over a week: commands of 20 repositories, tokens, prompts."""
    common = {
        "id": f"9f8e7d6c5b4a3928:{number}",
        "occurred_at": T0 + number * WEEK_NS // EVENTS,
        "source": "track",
        "program": "claude" if number % 3 else "codex",
        "repository": f"repository-{number % 20}",
    }
    if number % 10 == 0:
        return Event(type="prompt.sent", **common)
    if number % 10 < 4:
        fields = {
            "model": f"model-{number % 4}",
            "input_tokens": number % 9000,
            "output_tokens": number % 700,
            "cost_nusd": number * 300,
        }
        return Event(type="tokens.used", fields=fields, **common)
    failed = number % 17 == 0
    return Event(
        type="command.executed",
        duration_ns=(number * 7919) % (40 * NS),
        success=not failed,
        error_type="exit_1" if failed else None,
        fields={"command": f"tool-{number % 60} run", "tool": "exec", "exit_code": int(failed)},
        **common,
    )


def append_all(folder: Path) -> tuple[float, list[tuple[object, ...]]]:
    """Seconds that the journal takes, and the rows that it wrote, in the order of its batches."""
    journal = Journal(folder, T0)
    spent = 0.0
    for start in range(0, EVENTS, BATCH):
        batch = Batch(events=[event(n) for n in range(start, start + BATCH)])
        began = time.perf_counter()
        journal.append("bench", batch, T0 + start)
        spent += time.perf_counter() - began
    journal.close()
    db = sqlite3.connect(journal_path(folder))
    columns = ", ".join(journal_module._EVENT_COLUMNS)
    rows = db.execute(f"SELECT {columns} FROM events ORDER BY seq").fetchall()
    db.close()
    return spent, rows


def insert_all(folder: Path, rows: list[tuple[object, ...]]) -> float:
    """Seconds for plain `executemany` into a file of the same schema, with the same commits."""
    Journal(folder, T0).close()
    db = sqlite3.connect(journal_path(folder), isolation_level=None)
    db.execute("PRAGMA synchronous = NORMAL")
    spent = 0.0
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        began = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.executemany(journal_module._INSERT_EVENT, part)
        db.execute("COMMIT")
        spent += time.perf_counter() - began
    db.close()
    return spent


def main() -> None:
    """Print the ratio first."""
    with tempfile.TemporaryDirectory() as folder:
        ours, rows = append_all(Path(folder, "ours"))
        plain = insert_all(Path(folder, "plain"), rows)
    print(f"{ours / plain:.2f}x  journal append and fold / sqlite3.executemany (goal: 2x)")
    print(f"  journal      {ours:8.2f} s, {ours / EVENTS * 1e6:6.2f} µs an event")
    print(f"  executemany  {plain:8.2f} s, {plain / EVENTS * 1e6:6.2f} µs a row")
    print(f"  {EVENTS:,} events, {BATCH} a commit, WAL, the same indexes")


if __name__ == "__main__":
    main()
