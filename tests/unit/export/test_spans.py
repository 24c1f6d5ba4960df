"""Spans as a pure function of events: which, how long, whose child, and the same each time."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from squad_otel.events import EVENT_TYPES, NS, Event, FoldState
from squad_otel.export.otlp import resource
from squad_otel.export.spans import span
from squad_otel.journal import Journal, StoredEvent
from squad_otel.schema import open_reader
from tests.unit.export.day import SPAN_EVENTS, T0, open_journal

RESOURCE = resource("j1")


def made(**values) -> ReadableSpan | None:
    values = {"id": "e", "occurred_at": T0 + 9 * NS, "source": "exec", "session": "s1", **values}
    return span(StoredEvent(1, 1, FoldState.LIVE, T0, Event(**values)), RESOURCE)


def spans_of_day(home: Path) -> dict[str, ReadableSpan]:
    journal = open_journal(home)
    found = {
        stored.event.id: one
        for stored in journal.folded_after(0, 1000)
        if (one := span(stored, RESOURCE)) is not None
    }
    journal.close()
    return found


def test_the_spans_of_a_day_are_the_events_that_count(tmp_path: Path) -> None:
    assert list(spans_of_day(tmp_path)) == SPAN_EVENTS


def test_there_are_as_many_git_spans_and_command_spans_as_the_counters_say(tmp_path: Path) -> None:
    found = spans_of_day(tmp_path).values()
    reader = open_reader(tmp_path)
    totals = dict(reader.execute("SELECT metric, sum(sum) FROM series GROUP BY metric").fetchall())
    reader.close()
    kinds = [one.attributes["squad.event.type"] for one in found]
    assert sum(kind.startswith("git.") for kind in kinds) == totals["squad.git.operations"] == 3
    assert kinds.count("command.executed") == totals["squad.commands"] == 5


def test_a_session_is_one_trace_with_its_own_span_as_the_root(tmp_path: Path) -> None:
    found = spans_of_day(tmp_path)
    root = found["end"]
    assert root.parent is None
    assert (root.name, root.end_time - root.start_time) == ("session", 899 * NS)
    assert root.end_time == T0 + 900 * NS
    for key in set(SPAN_EVENTS) - {"end", "loose"}:
        child = found[key]
        assert child.context.trace_id == root.context.trace_id
        assert child.parent.span_id == root.context.span_id
    alone = found["loose"]
    assert alone.parent is None
    assert alone.context.trace_id != root.context.trace_id
    ids = {one.context.span_id for one in found.values()}
    assert len(ids) == len(found)
    for one in found.values():
        assert one.context.is_valid
        assert one.context.trace_flags.sampled
        assert one.kind is SpanKind.INTERNAL


def test_a_command_span_says_what_ran_and_how_it_ended() -> None:
    one = made(
        type="command.executed",
        program="claude",
        repository="shop",
        branch="dev/alpha",
        duration_ns=3 * NS,
        success=False,
        error_type="exit_2",
        fields={"command": "git rebase", "tool": "exec", "exit_code": 2},
    )
    assert one is not None
    assert one.name == "git rebase"
    assert (one.start_time, one.end_time) == (T0 + 6 * NS, T0 + 9 * NS)
    assert one.status.status_code is StatusCode.ERROR
    assert dict(one.attributes) == {
        "squad.event.type": "command.executed",
        "squad.event.source": "exec",
        "session.id": "s1",
        "gen_ai.agent.name": "claude",
        "vcs.repository.name": "shop",
        "vcs.ref.head.name": "dev/alpha",
        "squad.command": "git rebase",
        "squad.tool": "exec",
        "process.executable.name": "git",
        "process.exit.code": 2,
        "error.type": "exit_2",
    }


def test_a_git_span_names_the_operation_and_the_revision() -> None:
    one = made(
        type="git.push",
        source="git",
        session=None,
        success=True,
        fields={"revision": "c0ffee", "ref": "origin/dev"},
    )
    assert one is not None
    assert (one.name, one.start_time, one.end_time) == ("git push", T0 + 9 * NS, T0 + 9 * NS)
    assert one.status.status_code is StatusCode.UNSET
    assert dict(one.attributes) == {
        "squad.event.type": "git.push",
        "squad.event.source": "git",
        "vcs.ref.head.revision": "c0ffee",
        "squad.git.operation": "push",
        "squad.git.ref": "origin/dev",
    }


def test_a_failure_without_a_reason_has_the_conventions_fallback() -> None:
    one = made(type="operation.completed", success=False, fields={"operation": "build"})
    assert one is not None
    assert (one.name, one.attributes["error.type"]) == ("build", "_OTHER")
    assert one.status.status_code is StatusCode.ERROR


def test_an_event_without_names_still_has_a_low_cardinality_name() -> None:
    names = {kind: made(type=kind) for kind in EVENT_TYPES}
    assert {kind: one.name for kind, one in names.items() if one is not None} == {
        "session.killed": "session",
        "command.executed": "command",
        "operation.completed": "operation",
    }


def test_a_span_does_not_begin_before_time_does() -> None:
    one = made(type="command.executed", occurred_at=5, duration_ns=10)
    assert one is not None
    assert (one.start_time, one.end_time) == (0, 5)


def test_the_same_event_gives_the_same_bytes_read_by_another_process(tmp_path: Path) -> None:
    first = [encode_spans([one]).SerializeToString() for one in spans_of_day(tmp_path).values()]
    journal = Journal(tmp_path, T0 + 5000 * NS)
    again = [
        encode_spans([one]).SerializeToString()
        for stored in journal.folded_after(0, 1000)
        if (one := span(stored, resource("j1"))) is not None
    ]
    journal.close()
    assert first == again


def test_ids_do_not_depend_on_the_process() -> None:
    """Literal: blake2b of the parts joined by 0x1f, computed with `b2sum`."""
    one = made(type="command.executed")
    assert one is not None
    assert f"{one.context.trace_id:032x}" == TRACE_OF_S1
    assert f"{one.context.span_id:016x}" == SPAN_OF_E
    assert f"{one.parent.span_id:016x}" == SPAN_OF_S1


TRACE_OF_S1 = "b4c02a3531e838251fb7e79984bc3c63"
SPAN_OF_E = "52aa59e64f2dc7cb"
SPAN_OF_S1 = "060e3a989081c20c"
