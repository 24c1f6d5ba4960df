"""`kill -9` at random moments: nothing that was acknowledged is lost, and nothing counts twice.

$SQUAD_OTEL_KILLS says how often (20), $SQUAD_OTEL_SEED which moments (any); `make soak` 200 times.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.soak.soak import Soak

_KILLS = int(os.environ.get("SQUAD_OTEL_KILLS", "20"))
_SEED = int(os.environ.get("SQUAD_OTEL_SEED", "0")) or random.randrange(1, 10**9)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200 + 12 * _KILLS)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for tmux's socket."""
    with tempfile.TemporaryDirectory(prefix="sq", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_nothing_is_lost_and_nothing_counts_twice(folder: Path) -> None:
    print(f"\nSQUAD_OTEL_SEED={_SEED} SQUAD_OTEL_KILLS={_KILLS}", flush=True)
    with Soak(folder, _SEED) as soak:
        soak.play(_KILLS)
    print(soak.summary)
    assert soak.found == [], f"SQUAD_OTEL_SEED={_SEED}\n{soak.summary}"
    with_backlog = sum(kill.waiting > 0 for kill in soak.kills)
    assert 2 * with_backlog >= len(soak.kills), soak.summary


_LONG = pytest.mark.skipif(_KILLS < 200, reason="`make soak` takes the time")


@pytest.mark.parametrize(
    ("sabotage", "deck", "words"),
    [
        ("offset_outside", ("daemon", "paused"), "lost"),
        pytest.param("fold_twice", ("daemon",), "recounted", marks=_LONG),
        pytest.param("no_birth_hold", ("daemon",), "began with", marks=_LONG),
        pytest.param("skip_last_look", ("commit",), "lost", marks=_LONG),
        pytest.param("ack_first", ("flush",), "lost", marks=_LONG),
    ],
)
def test_this_test_sees_a_broken_promise(
    folder: Path, sabotage: str, deck: Sequence[str], words: str
) -> None:
    ack_first = sabotage == "ack_first"
    with Soak(
        folder,
        _SEED,
        sabotage="" if ack_first else sabotage,
        ack_first=ack_first,
        with_squad=False,
        deck=deck,
        patience_s=5,
    ) as soak:
        soak.play(4 if sabotage == "offset_outside" else 20)
    assert any(words in line for line in soak.found), f"SQUAD_OTEL_SEED={_SEED}\n{soak.summary}"
