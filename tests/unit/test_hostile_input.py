"""Any bytes, for every parser: the properties are those of `fuzz/`, tried on garbled samples."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fuzz
from fuzz.__main__ import TARGETS
from fuzz.claude import SEARCHED


def _vectors(*values: tuple[str, float | None]) -> bytes:
    """Answers of Prometheus, one after the other: a value, and its time in Unix seconds."""
    at = 1_795_399_940
    rows = [{"value": [t or at, v], "values": [[t or at, v]]} for v, t in values]
    answers = ({"status": "success", "data": {"result": [row]}} for row in rows)
    return b"\n".join([b"x", *(json.dumps(answer).encode() for answer in answers)])


PRICE_KEYS = (b"input", b"output", b"cache_read", b"cache_creation_5m", b"cache_creation_1h")

#: What a fuzzer or a person thought of, and what once was not read.
FOUND: Sequence[tuple[str, bytes]] = (
    ("alertmanager", b"[" * 100_000),
    ("alertmanager", b'[{"labels":{"a":"\xff"}}]'),
    ("alertmanager", b'[{"labels":{},"annotations":{},"startsAt":"0001-01-01T00:00:00"}]'),
    ("prometheus", b"x\n" + b"[" * 100_000),
    ("prometheus", b'x\n{"status":"\xff"}'),
    ("prometheus", _vectors(("1", 1e300))),  # no time
    ("prometheus", _vectors(("1", None), ("1", None), ("9e18", None))),  # begins in the far future
    ("prometheus", _vectors(("1", None), ("x", None))),
    ("claude_squad", b'{"instances":[{"worktree":{"worktree_path":"/"}}]}'),  # no name anywhere
    ("git", b"gitdir: HERE\0x\n"),  # a NUL in .git
    ("git", b"gitdir: HERE\n\f../..\0\n"),  # in commondir
    ("git", b"gone\f\f\f\f\fb\f/code/a\0b"),  # in what claude-squad registered
    ("settings", b"x = " + b"[" * 5000),  # deeper than the stack
    ("settings", b"x = " + b"9" * 5000),  # more digits than Python reads
    ("settings", b"poll_interval_s = " + b"9" * 400),  # no float
    ("settings", b"http_port = 0x" + b"9" * 4000),  # more digits than Python writes
    ("settings", b'prices_file = "a\\u0000"'),  # no path
    ("prices", b"x = " + b"[" * 5000),
    ("prices", b"web_search = " + b"9" * 5000),
    ("prices", b"web_search = 1e99999999999999999999"),  # no Decimal
    ("claude", SEARCHED.replace(b":3}", b":1000000000000}")),  # a cost beyond 64 bits
    (
        "prices",
        b"web_search = 1000000\n[models.a]\nfast = 1000000000\nus_percent = 1000000000\n"
        + b"".join(b"%b = 1000000\n" % key for key in PRICE_KEYS),
    ),  # the same
)


def garbled(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, and samples of which a part was replaced by other parts or by any bytes."""

    def spoiled(seed: bytes, start: int, length: int, filling: bytes) -> bytes:
        start %= len(seed) + 1
        return seed[:start] + filling + seed[start + length :]

    part = st.builds(
        lambda seed, start, length: seed[start % (len(seed) + 1) :][:length],
        st.sampled_from(seeds),
        st.integers(0, 4000),
        st.integers(0, 60),
    )
    length = st.integers(0, 200)
    filling = st.binary(max_size=20) | part | st.text(max_size=10).map(str.encode)
    return st.binary(max_size=200) | st.builds(
        spoiled, st.sampled_from(seeds), st.integers(0, 4000), length, filling
    )


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_can_be_read(target: str) -> None:
    module = importlib.import_module(f"fuzz.{target}")
    seeds = [*module.seeds()]
    for seed in seeds:
        module.check(seed)

    @settings(max_examples=100, deadline=None)
    @given(garbled(seeds))
    def holds(data: bytes) -> None:
        module.check(data)

    holds()


@pytest.mark.parametrize(("target", "data"), FOUND)
def test_what_was_found_is_read(target: str, data: bytes) -> None:
    importlib.import_module(f"fuzz.{target}").check(data)


def test_each_target_is_run() -> None:
    folder = Path(fuzz.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "def check(data" in path.read_text()}
    assert found == set(TARGETS)
