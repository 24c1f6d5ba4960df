"""Measures over the journal, against what the fortnight's generator says happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squad_otel.batch import Batch
from squad_otel.errors import JournalError, QueryError
from squad_otel.events import NS, SUM_FIELDS, Event
from squad_otel.journal import Journal
from squad_otel.metrics import BY_NAME, METRICS, Kind, ladder, last_inside
from squad_otel.query.journal import JournalBackend, compile_sql, stretch
from squad_otel.query.measures import MEASURES, Reading, evaluate, evaluate_by
from squad_otel.rollups import QUARTER_NS
from tests import week
from tests.week import Command, GitOperation, ModelAnswer, SessionEnd, SessionStart, Truth

ALL = sorted({measure.metric for measure in MEASURES.values()})
FIRST = (week.START, week.START + 7 * week.DAY)
SECOND = (FIRST[1], week.START + 14 * week.DAY)
END = SECOND[1]


def interpolated(durations: Iterable[int], share: str, first: int, last: int) -> int | None:
    """A percentile in buckets of 10 ms times powers of two, from the definition, in fractions."""
    values = sorted(durations)
    if not values:
        return None
    rank = Fraction(share) * len(values)
    seen, low = 0, 0
    for power in range(first, last + 1):
        high = 10_000_000 * 2**power
        inside = sum(1 for value in values if (low < value or low == 0) and value <= high)
        if inside and seen + inside >= rank:
            return round(low + (high - low) * (rank - seen) / inside)
        seen, low = seen + inside, high
    return low


def truth_of(truth: Truth, since: int, until: int, **equal: object) -> dict[str, object]:
    """What every measure must say, from the facts alone."""
    commands = truth.of(Command, since, until, **equal)
    timed = [c for c in commands if c.duration_ns is not None]
    lengths = [c.duration_ns for c in timed]
    ends = truth.of(SessionEnd, since, until, **equal)
    lives = [end.duration_ns for end in ends]
    git = truth.of(GitOperation, since, until, **equal)
    answers = truth.of(ModelAnswer, since, until, **equal)
    found: dict[str, object] = {
        "sessions_started": len(truth.of(SessionStart, since, until, **equal)),
        "sessions_ended": len(ends),
        "session_mean": round(Fraction(sum(lives), len(lives))) if lives else None,
        "session_p50": interpolated(lives, "0.5", 6, 23),
        "session_p95": interpolated(lives, "0.95", 6, 23),
        "commands": len(commands),
        "commands_failed": sum(bool(c.error_type) for c in commands),
        "commands_success": (
            sum(not c.error_type for c in commands) / len(commands) if commands else None
        ),
        "timed_commands": len(timed),
        "timed_success": sum(not c.error_type for c in timed) / len(timed) if timed else None,
        "command_mean": round(Fraction(sum(lengths), len(lengths))) if lengths else None,
        "command_p50": interpolated(lengths, "0.5", 0, 16),
        "command_p95": interpolated(lengths, "0.95", 0, 16),
        "command_p99": interpolated(lengths, "0.99", 0, 16),
        "operations": 0,
        "operations_success": None,
        "operation_mean": None,
        "operation_p50": None,
        "operation_p95": None,
        "git_operations": len(git),
        "git_ok": sum(g.ok for g in git),
        "git_failed": sum(not g.ok for g in git),
        "commits": sum(g.ok and g.operation == "commit" for g in git),
        "errors": len(truth.errors(since, until, **equal)),
        "tokens": sum(sum(a.tokens.values()) for a in answers),
        "cost": sum(a.cost_nusd or 0 for a in answers),
        "unpriced": sum(a.cost_nusd is None for a in answers),
    }
    for kind in ("input", "output", "cache_read", "cache_creation"):
        found[f"tokens_{kind}"] = sum(a.tokens[kind] for a in answers)
    return found


def answers_of(reading: Reading | None, **where: str) -> dict[str, object]:
    return {name: evaluate(measure, reading, **where) for name, measure in MEASURES.items()}


def same(found: dict[str, object], expected: dict[str, object]) -> None:
    """Equal to the unit; interpolated times and means within what a float rounds, 2 ns in 2^53."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(("_p50", "_p95", "_p99", "_mean")) and value is not None:
            assert found[name] == pytest.approx(value, rel=1e-12, abs=2), name
        else:
            assert found[name] == value, name


@pytest.fixture(scope="module")
def backend(fortnight: tuple[Path, Truth]):
    opened = JournalBackend(fortnight[0], END)
    yield opened
    opened.close()


@pytest.mark.parametrize("period", [FIRST, SECOND, (FIRST[0] + 9 * week.HOUR, FIRST[1] - 1)])
def test_every_measure_equals_the_truth(
    backend: JournalBackend, fortnight: tuple[Path, Truth], period: tuple[int, int]
) -> None:
    reading, _ = backend.read(ALL, period)
    same(answers_of(reading), truth_of(fortnight[1], *period))


@pytest.mark.parametrize("label", ["program", "repository"])
def test_every_measure_equals_the_truth_for_each_program_and_repository(
    backend: JournalBackend, fortnight: tuple[Path, Truth], label: str
) -> None:
    reading, _ = backend.read(ALL, SECOND)
    values = {getattr(fact, label) for fact in fortnight[1].facts}
    assert len(values) > 1
    for value in values:
        expected = truth_of(fortnight[1], *SECOND, **{label: value})
        same(answers_of(reading, **{label: value}), expected)


def test_groups_by_what_happened(backend: JournalBackend, fortnight: tuple[Path, Truth]) -> None:
    truth = fortnight[1]
    reading, _ = backend.read(ALL, SECOND)
    assert evaluate_by(MEASURES["git_operations"], reading, ("operation", "outcome")) == Counter(
        (g.operation, "ok" if g.ok else "error") for g in truth.of(GitOperation, *SECOND)
    )
    errors = Counter((e.error_type, e.severity, e.component) for e in truth.errors(*SECOND))
    by = ("error_type", "severity", "component")
    assert evaluate_by(MEASURES["errors"], reading, by) == errors
    tokens: Counter[tuple[str, ...]] = Counter()
    for answer in truth.of(ModelAnswer, *SECOND):
        for kind, count in answer.tokens.items():
            tokens[answer.model, kind] += count
    assert evaluate_by(MEASURES["tokens"], reading, ("model", "type")) == tokens


def test_slices_add_up_and_each_is_true(
    backend: JournalBackend, fortnight: tuple[Path, Truth]
) -> None:
    edges = [FIRST[0] + i * week.DAY for i in range(8)]
    whole, slices = backend.read(ALL, edges, ALL)
    for i, part in enumerate(slices):
        same(answers_of(part), truth_of(fortnight[1], edges[i], edges[i + 1]))
    same(answers_of(whole), truth_of(fortnight[1], *FIRST))


def test_by_session(backend: JournalBackend, fortnight: tuple[Path, Truth]) -> None:
    reading = backend.by_session(["squad.git.operations", "squad.token.usage"], *SECOND)
    commits = Counter(
        (g.session,) for g in fortnight[1].of(GitOperation, *SECOND, operation="commit") if g.ok
    )
    assert evaluate_by(MEASURES["commits"], reading, ("session",)) == commits
    with pytest.raises(QueryError, match="not kept by session"):
        backend.by_session(["squad.command.duration"], *SECOND)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(*FIRST).flatmap(
        lambda since: st.tuples(st.just(since), st.integers(since + 1, SECOND[1]))
    )
)
def test_wherever_a_period_begins_and_ends_roll_ups_and_events_make_the_truth(
    backend: JournalBackend, fortnight: tuple[Path, Truth], period: tuple[int, int]
) -> None:
    reading, _ = backend.read(ALL, period)
    same(answers_of(reading), truth_of(fortnight[1], *period))
    counted = backend.by_session(["squad.git.operations", "squad.commands"], *period)
    failed = Counter((c.session,) for c in fortnight[1].of(Command, *period) if c.error_type)
    found = evaluate_by(MEASURES["commands_failed"], counted, ("session",))
    assert {key: number for key, number in found.items() if number} == failed


@pytest.mark.parametrize(
    ("since", "until", "quarters", "ends"),
    [
        (0, 4, (0, 4), ()),
        (0.5, 4, (1, 4), ((0.5, 1),)),
        (0.5, 4.25, (1, 4), ((0.5, 1), (4, 4.25))),
        (1.25, 1.5, (2, 1), ((1.25, 1.5),)),
        (1.25, 2.0, (2, 2), ((1.25, 2),)),
        (0.5, 4.25, (1, 4), ((4, 4.25),)),
    ],
)
def test_a_period_is_whole_quarters_of_an_hour_and_what_is_left(
    since: float, until: float, quarters: tuple[int, int], ends: tuple[tuple[float, float], ...]
) -> None:
    pruned = 2 if len(ends) == 1 and ends[0][0] == 4 else 0
    found = stretch(*(int(n * QUARTER_NS) for n in (since, until, pruned)))
    assert found.quarters == quarters
    assert found.ends == tuple((int(a * QUARTER_NS), int(b * QUARTER_NS)) for a, b in ends)


def test_a_period_includes_its_beginning_and_excludes_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, week.START)
    since, until = week.START + NS, week.START + 5 * NS
    moments = (since - 1, since, until - 1, until)
    events = [Event(id=str(at), type="prompt.sent", occurred_at=at, source="x") for at in moments]
    journal.append("x", Batch(events=events), until + NS)
    journal.close()
    backend = JournalBackend(tmp_path, until + NS)
    reading, _ = backend.read(["squad.prompts"], (since, until))
    backend.close()
    assert reading is not None
    assert [gain.total for gain in reading.gains["squad.prompts"]] == [2]


def test_what_is_covered(fortnight: tuple[Path, Truth]) -> None:
    now = week.START + 3 * week.DAY + week.HOUR
    backend = JournalBackend(fortnight[0], now)
    before, _ = backend.read(ALL, (week.START - week.DAY, week.START))
    assert before is None  # the journal is younger
    assert evaluate(MEASURES["commands"], before) is None
    partly, slices = backend.read(ALL, [week.START + i * week.DAY for i in range(-1, 6)], ALL)
    assert partly is not None
    assert (partly.since, partly.until) == (week.START, now)
    assert [part is None for part in slices] == [True, False, False, False, False, True]
    # The night is covered, and nothing happened in it.
    night, _ = backend.read(ALL, (week.START, week.START + 7 * week.HOUR))
    assert evaluate(MEASURES["commands"], night) == 0
    assert evaluate(MEASURES["command_p95"], night) is None
    backend.close()


def test_buckets_end_where_the_journal_ends_them() -> None:
    for metric in METRICS:
        for bound in metric.bounds:
            last = last_inside(bound, metric.scale)
            assert last * metric.scale <= bound < (last + 1) * metric.scale
    assert [last_inside(b, 1e-9) for b in ladder(0, 3)] == [10**7 * 2**n for n in range(4)]


def test_sql_is_made_of_the_feeds() -> None:
    sql = compile_sql(["squad.errors"]).events_sql
    assert "type = 'error'" in sql
    assert "type = 'command.executed' AND (success = 0)" in sql
    with pytest.raises(QueryError, match=r"no events feed squad\.sessions"):
        compile_sql(["squad.sessions"])


def test_without_a_journal_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="squad-otel up"):
        JournalBackend(tmp_path, END)


AT = st.integers(0, 50).map(lambda n: n * 97)  # over six quarters of an hour
COMMAND = st.builds(
    lambda number, at, duration, error, timed: Event(
        id=f"c{number}",
        type="command.executed",
        occurred_at=week.START + at * NS,
        source="track",
        program="claude",
        repository=f"r{number % 3}",
        duration_ns=duration if timed else None,
        success=not error,
        error_type="exit_1" if error else None,
        fields={"command": f"c{number % 4}", "tool": "track"},
    ),
    st.integers(0, 60),
    AT,
    st.one_of(
        st.integers(0, 10**15),
        st.integers(0, 24).flatmap(
            lambda n: st.sampled_from([10**7 * 2**n - 1, 10**7 * 2**n, 10**7 * 2**n + 1])
        ),
    ),
    st.booleans(),
    st.booleans(),
)
GIT = st.builds(
    lambda number, at, source, success: Event(
        id=f"g{number}",
        type="git.push",
        occurred_at=week.START + at * NS,
        source=source,
        program="codex",
        success=success,
        duration_ns=number * NS,
    ),
    st.integers(0, 60),
    AT,
    st.sampled_from(["git", "exec"]),
    st.sampled_from([True, False, None]),
)
TOKENS = st.builds(
    lambda number, at, fields: Event(
        id=f"t{number}",
        type="tokens.used",
        occurred_at=week.START + at * NS,
        source="claude",
        program="claude",
        fields={"model": "m", **fields},
    ),
    st.integers(0, 3),
    AT,
    st.dictionaries(st.sampled_from(SUM_FIELDS), st.integers(0, 9000)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(COMMAND, GIT, TOKENS), min_size=1, max_size=12), min_size=1, max_size=5
    )
)
def test_sql_says_what_the_series_say(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Event]]
) -> None:
    """Whatever is appended, repeated and merged: SQL and the exported totals agree."""
    home = tmp_path_factory.mktemp("agree")
    until = week.START + 5000 * NS
    journal = Journal(home, week.START)
    for events in batches:
        journal.append("x", Batch(events=events), until)
    journal.release(until, 0)
    counted = [metric.name for metric in METRICS if metric.feeds]
    backend = JournalBackend(home, until)
    reading, _ = backend.read(counted, (week.START, until))
    backend.close()
    assert reading is not None
    found: dict[tuple[str, tuple[str, ...]], tuple[int, int, tuple[int, ...]]] = {}
    for name, gains in reading.gains.items():
        for gain in gains:
            key = (name, tuple(gain.labels[label] for label in BY_NAME[name].labels))
            total, count, buckets = found.get(key, (0, 0, (0,) * len(gain.buckets)))
            summed = tuple(a + b for a, b in zip(buckets, gain.buckets, strict=True))
            found[key] = (total + gain.total, count + gain.count, summed)
    shown = {
        (s.metric.name, s.labels): (
            s.sum,
            s.count if s.metric.kind is Kind.HISTOGRAM else 0,
            s.buckets or (),
        )
        for s in journal.shown()
    }
    journal.close()
    assert {k: v for k, v in found.items() if v[0] or v[1]} == {
        k: v for k, v in shown.items() if v[0] or v[1]
    }
