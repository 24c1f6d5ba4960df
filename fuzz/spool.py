"""The spool: its lines come from whoever can write into the folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from fuzz.stored import check_batch
from squad_otel.events import EVENT_TYPES, NS
from squad_otel.sources.spool import SpoolSource
from squad_otel.spool import encode

NOW = 1_795_000_000 * NS


def check(data: bytes) -> None:
    """Valid records between any lines all arrive; each other line is an event or counted."""
    lines = data.split(b"\n")
    content = b"".join(_valid(n) + line + b"\n" for n, line in enumerate(lines))
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "spool", "20261118T06.jsonl")
        path.parent.mkdir()
        path.write_bytes(content)
        batch = SpoolSource(Path(home)).poll({}, {}, NOW)
    check_batch(batch)
    assert batch.offsets == {path.name: str(len(content))}
    ids = [event.id for event in batch.events]
    assert [i for i in ids if i.startswith("valid-")][: len(lines)]
    assert {f"valid-{n}" for n in range(len(lines))} <= set(ids)
    given = 2 * len(lines) - sum(not line for line in lines)
    # A line may hold several torn records, and one record may stand for several lost ones.
    assert len(batch.events) + sum(batch.skipped.values()) >= given
    assert len(batch.events) <= given


def _valid(number: int) -> bytes:
    return encode({"type": "prompt.sent", "id": f"valid-{number}", "at": NOW})


def seeds() -> Iterator[bytes]:
    """A record of each type, and the ways in which one may be torn."""
    for name, kind in EVENT_TYPES.items():
        fields = {field: of("1") for field, of in kind.fields.items()}
        yield encode({"type": name, "id": "x", "at": NOW, "session": "s", "fields": fields})
    record = encode({"type": "error", "error_type": "E", "new_session": "n", "duration_ns": 7})
    yield record[:20] + record
    yield encode({"dropped": 3, "reason": "full"})
