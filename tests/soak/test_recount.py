"""The recount on a journal with a fortnight in it, as it is and with something broken."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from squad_otel.schema import journal_path
from tests.soak import recount
from tests.week import Truth


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("", ""),
        ("UPDATE series SET sum = sum + 1 WHERE id = 3", "series"),
        ("UPDATE series SET count = count - 1 WHERE buckets IS NOT NULL", "series"),
        ("UPDATE series SET buckets = replace(buckets, '[0', '[1')", "series"),
        ("DELETE FROM series WHERE id = 2", "series"),
        (
            "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events WHERE state = 'live')",
            "roll-ups",
        ),
        ("UPDATE rollups SET duration_ns = duration_ns + 1 WHERE timed > 0", "roll-ups"),
        ("UPDATE rollups SET n = n + 1 WHERE type = 'git.commit'", "roll-ups"),
    ],
)
def test_any_damage_is_seen(
    fortnight: tuple[Path, Truth], tmp_path: Path, damage: str, word: str
) -> None:
    home, _ = fortnight
    for path in home.glob("journal.db*"):
        shutil.copy(path, tmp_path)
    with closing(sqlite3.connect(journal_path(tmp_path))) as db:
        if not damage:
            assert recount.differences(db) == []
            return
        assert db.execute(damage).rowcount > 0
        assert any(word in line for line in recount.differences(db))
