"""Claude Code's transcripts: lines in which agents, tools and people have their say."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.stored import check_batch
from squad_otel.events import NS
from squad_otel.prices import load_prices
from squad_otel.sessions import Session
from squad_otel.sources.claude import ClaudeSource

NOW = 1_795_400_000 * NS
FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "claude"
PRICES = load_prices()
SESSION = Session(id="s", name="a", program="claude", repository="r", branch="b", worktree="/w")


def check(data: bytes) -> None:
    """Valid answers between any lines all arrive; what looks like one is one or is counted."""
    lines = data.split(b"\n")
    content = b"".join(_valid(n) + line + b"\n" for n, line in enumerate(lines))
    with tempfile.TemporaryDirectory() as config:
        path = Path(config, "projects", "-w", "x.jsonl")
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        batch = ClaudeSource([Path(config)], PRICES).poll({"s": SESSION}, {}, NOW)
    check_batch(batch)
    assert {f"cc:req:valid-{n}" for n in range(len(lines))} <= {e.id for e in batch.events}
    likely = [line for line in lines if b'"usage"' in line and b'"assistant"' in line]
    assert len(batch.events) - len(lines) + sum(batch.skipped.values()) <= len(likely)
    (offset,) = batch.offsets.values()
    assert str(offset).split()[0] == str(len(content))


def _valid(number: int) -> bytes:
    line = {
        "type": "assistant",
        "requestId": f"valid-{number}",
        "timestamp": "2026-11-26T10:00:00.000Z",
        "cwd": "/w",
        "message": {"model": "m", "stop_reason": "end_turn", "usage": {"output_tokens": 1}},
    }
    return json.dumps(line).encode() + b"\n"


def seeds() -> Iterator[bytes]:
    """Lines of real transcripts."""
    for path in sorted(FIXTURES.glob("*.jsonl")):
        likely = (line for line in path.read_bytes().split(b"\n") if b'"usage"' in line)
        yield from (line for line, _ in zip(likely, range(3), strict=False) if len(line) < 4000)
    yield SEARCHED


SEARCHED = (
    _valid(0)
    .replace(b"valid-0", b"searched")
    .replace(b'"model": "m"', b'"model": "claude-opus-4-5-20251101"')
    .replace(
        b'"output_tokens": 1', b'"output_tokens":1,"server_tool_use":{"web_search_requests":3}'
    )
)
