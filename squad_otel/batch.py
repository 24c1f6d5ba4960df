"""Batch: what a source saw in one look; the journal commits all of it in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from squad_otel.events import Event
from squad_otel.sessions import Session


class Batch(msgspec.Struct, kw_only=True):
    """Events, the sessions as they stand after them, and how far the source has read.

    `offsets` are the source's own bookmarks (name to text, None deletes one); they are stored
    with the events, so that after any crash they agree. `skipped` counts input that was no
    record, by reason.
    """

    events: list[Event] = []
    sessions: list[Session] = []
    offsets: dict[str, str | None] = {}
    skipped: dict[str, int] = {}

    def skip(self, reason: str, count: int = 1) -> None:
        """Count input that could not be read as a record."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def __bool__(self) -> bool:
        return bool(self.events or self.sessions or self.offsets)


class Source(Protocol):
    """Something that is watched.

    `poll` is handed what the journal holds (live sessions by id, this source's offsets) and the
    time (UTC ns), and returns what is new. It must not remember that it reported something: only
    `offsets` and `sessions` say so, for the batch may be lost and asked for again. It raises
    `SourceError` when it cannot look; what was read before that is in no batch and comes again.
    """

    name: str
    tier: str  # exact, late or sampled

    def poll(
        self, sessions: Mapping[str, Session], offsets: Mapping[str, str], now: int
    ) -> Batch: ...

    def close(self) -> None: ...
