"""Spans made from finished events, with ids hashed from what they describe.

The same event gives the same span in every process, so a span that is sent again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from squad_otel.commands import GIT_OPERATIONS
from squad_otel.events import Event, owns_count
from squad_otel.ids import digest
from squad_otel.journal import StoredEvent

_SCOPE = InstrumentationScope("squad_otel")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_GIT_TYPES = {f"git.{operation}": operation for operation in GIT_OPERATIONS}

#: What error.type says where an event failed and nobody knows why.
_NO_ERROR_TYPE = "_OTHER"


def span(stored: StoredEvent, resource: Resource) -> ReadableSpan | None:
    """The span of an event, or None for an event that is none.

    Spans are: a session's whole life when it ended, a command, a timed operation, and a git
    operation by the event that counts it. A success is counted by the reflog's event, which has
    no duration: its span has length 0. The event of a wrapper that saw the same success only adds
    a duration to the histogram, and the wrapper's command has a span of its own; so the spans of a
    kind are as many as its counter says. A failed git operation is counted by the wrapper's event
    and its span has a length.

    A session is one trace. Its own span is the root; the others are its children, also those that
    arrive before it. An event of no session is a trace by itself.
    """
    event = stored.event
    name = _name(event)
    if name is None:
        return None
    context, parent = _place(event)
    return ReadableSpan(
        name=name,
        context=context,
        parent=parent,
        resource=resource,
        attributes=_attributes(event),
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR if event.success is False else StatusCode.UNSET),
        start_time=max(0, event.occurred_at - (event.duration_ns or 0)),
        end_time=event.occurred_at,
        instrumentation_scope=_SCOPE,
    )


def _name(event: Event) -> str | None:
    if event.type == "session.killed":
        return "session"
    if event.type == "command.executed":
        return _text(event, "command") or "command"
    if event.type == "operation.completed":
        return _text(event, "operation") or "operation"
    operation = _GIT_TYPES.get(event.type)
    return f"git {operation}" if operation is not None and owns_count(event) else None


def _place(event: Event) -> tuple[SpanContext, SpanContext | None]:
    """The context of the event's span, and its parent's."""
    if event.session is None:
        return _context(("event", event.id), ("event", event.id)), None
    session = ("session", event.session)
    root = _context(session, session)
    if event.type == "session.killed":
        return root, None
    return _context(session, ("event", event.id)), root


def _context(trace: tuple[str, str], span: tuple[str, str]) -> SpanContext:
    return SpanContext(
        trace_id=int(digest("trace", *trace, size=16), 16) or 1,  # 0 is no id
        span_id=int(digest("span", *span), 16) or 1,
        is_remote=False,
        trace_flags=_SAMPLED,
    )


def _attributes(event: Event) -> Mapping[str, str | int]:
    """What is known of the event: by OpenTelemetry's names where there is one, else by ours."""
    command = _text(event, "command") if event.type == "command.executed" else None
    failure = (event.error_type or _NO_ERROR_TYPE) if event.success is False else event.error_type
    known: dict[str, str | int | None] = {
        "squad.event.type": event.type,
        "squad.event.source": event.source,
        "session.id": event.session,
        "gen_ai.agent.name": event.program,
        "vcs.repository.name": event.repository,
        "vcs.ref.head.name": event.branch,
        "vcs.ref.head.revision": _text(event, "revision"),
        "squad.session.end_reason": _text(event, "reason"),
        "squad.git.operation": _GIT_TYPES.get(event.type),
        "squad.git.ref": _text(event, "ref"),
        "squad.operation": _text(event, "operation"),
        "squad.command": command,
        "squad.tool": _text(event, "tool"),
        "process.executable.name": command.split(" ", 1)[0] if command else None,
        "process.exit.code": _number(event, "exit_code"),
        "error.type": failure,
    }
    return {name: value for name, value in known.items() if value is not None and value != ""}


def _text(event: Event, field: str) -> str | None:
    value = event.fields.get(field)
    return value if isinstance(value, str) else None


def _number(event: Event, field: str) -> int | None:
    value = event.fields.get(field)
    return value if isinstance(value, int) else None
