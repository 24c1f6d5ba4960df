"""What every batch must be like, whatever it was read from, so that the journal can take it."""

from __future__ import annotations

import msgspec

from squad_otel.batch import Batch
from squad_otel.events import EVENT_TYPES, SUM_FIELDS, Event
from squad_otel.sessions import Session

_LARGEST = 2**63 - 1
_LONGEST = 200


def check_batch(batch: Batch) -> None:
    """Fail unless all of the batch can be stored, and each skip has a reason and a number."""
    for event in batch.events:
        check_event(event)
    for session in batch.sessions:
        check_session(session)
    for name, value in batch.offsets.items():
        msgspec.json.encode([name, value])
    for reason, count in batch.skipped.items():
        check_text(reason)
        assert reason
        assert 0 < count <= _LARGEST


def check_event(event: Event) -> None:
    """Fail unless the event is of a known type and in the journal's bounds."""
    declared = EVENT_TYPES[event.type].fields
    assert 0 <= event.occurred_at <= _LARGEST
    assert event.duration_ns is None or 0 <= event.duration_ns <= _LARGEST
    for text in (event.id, event.source, event.session, event.program, event.repository):
        check_text(text)
    for text in (event.branch, event.error_type):
        check_text(text)
    for name, value in event.fields.items():
        assert type(value) is declared[name]
        if isinstance(value, str):
            check_text(value)
        else:
            assert -_LARGEST <= value <= _LARGEST
            assert name not in SUM_FIELDS or value >= 0


def check_session(session: Session) -> None:
    """Fail unless the session can be stored; its paths may hold what paths may hold."""
    for text in (session.id, session.name, session.program, session.repository, session.branch):
        check_text(text)
    for at in (session.started_at, session.state_since, session.last_activity):
        assert 0 <= at <= _LARGEST
    assert "\0" not in session.worktree + session.repository_path
    assert msgspec.json.decode(msgspec.json.encode(session), type=Session) == session


def check_text(text: str | None) -> None:
    """Fail unless the text is one line that can be printed, and not endless."""
    if text is not None:
        assert text.isprintable(), repr(text)
        assert len(text) <= _LONGEST, len(text)
