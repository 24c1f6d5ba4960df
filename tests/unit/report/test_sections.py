"""Sections against what the fortnight's generator says happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.query.journal import JournalBackend
from squad_otel.query.periods import Calendar
from squad_otel.report.insights import with_insights
from squad_otel.report.sections import Cell, Cost, Headline, Report, build
from tests import week
from tests.week import Command, GitOperation, ModelAnswer, SessionEnd, SessionStart, Truth

CALENDAR = Calendar(UTC)
END = week.START + 14 * week.DAY
SECOND = (week.START + 7 * week.DAY, END)


def report_of(home: Path, kind: str, now: int, *, previous: bool = False) -> Report:
    backend = JournalBackend(home, now)
    try:
        choose = CALENDAR.previous if previous else CALENDAR.current
        return with_insights(build(backend, CALENDAR, choose(kind, now), now))
    finally:
        backend.close()


@pytest.fixture(scope="module")
def weekly(fortnight: tuple[Path, Truth]) -> Report:
    """Of the second week, made three days after it."""
    return report_of(fortnight[0], "weekly", END + 3 * week.DAY, previous=True)


def rows(report: Report, key: str) -> dict[Cell, dict[str, Cell]]:
    """A section's rows as dictionaries, by their first cell."""
    section = report.section(key)
    names = [column.key for column in section.columns]
    return {row[0]: dict(zip(names, row, strict=True)) for row in section.rows}


def cost_of(answers: Sequence[ModelAnswer]) -> Cost:
    return Cost(sum(a.cost_nusd or 0 for a in answers), sum(a.cost_nusd is None for a in answers))


def test_headlines_stand_beside_the_week_before(
    weekly: Report, fortnight: tuple[Path, Truth]
) -> None:
    truth = fortnight[1]
    first = (week.START, SECOND[0])
    for key, kind in (
        ("sessions_started", SessionStart),
        ("sessions_ended", SessionEnd),
        ("commands", Command),
        ("git_operations", GitOperation),
    ):
        row = weekly.headline(key)
        assert (row.value, row.before) == (
            len(truth.of(kind, *SECOND)),
            len(truth.of(kind, *first)),
        )
    cost = weekly.headline("cost")
    assert cost.value == cost_of(truth.of(ModelAnswer, *SECOND))
    assert cost.before == cost_of(truth.of(ModelAnswer, *first))
    assert weekly.covered == SECOND
    assert weekly.covered_before == first


@pytest.mark.parametrize(
    ("key", "label"), [("programs", "program"), ("repositories", "repository")]
)
def test_by_program_and_repository(
    weekly: Report, fortnight: tuple[Path, Truth], key: str, label: str
) -> None:
    truth = fortnight[1]
    found = rows(weekly, key)
    assert set(found) == {getattr(fact, label) for fact in truth.of(Command, *SECOND)}
    for value, row in found.items():
        only = {label: value}
        commands = truth.of(Command, *SECOND, **only)
        answers = truth.of(ModelAnswer, *SECOND, **only)
        expected = {
            label: value,
            "sessions_started": len(truth.of(SessionStart, *SECOND, **only)),
            "commands": len(commands),
            "commands_success": sum(not c.error_type for c in commands) / len(commands),
            "git_operations": len(truth.of(GitOperation, *SECOND, **only)),
            "errors": len(truth.errors(*SECOND, **only)),
            "tokens": sum(sum(a.tokens.values()) for a in answers),
            "cost": cost_of(answers),
        }
        assert {name: row[name] for name in expected} == expected
    if key == "repositories":
        assert all(isinstance(row["command_p95"], int) for row in found.values())


def test_commands_git_errors_and_models(weekly: Report, fortnight: tuple[Path, Truth]) -> None:
    truth = fortnight[1]
    for name, row in rows(weekly, "commands").items():
        timed = [c for c in truth.of(Command, *SECOND, command=name) if c.duration_ns is not None]
        assert row["timed_commands"] == len(timed)
        assert row["timed_success"] == sum(not c.error_type for c in timed) / len(timed)
    for name, row in rows(weekly, "git").items():
        operations = truth.of(GitOperation, *SECOND, operation=name)
        assert (row["git_ok"], row["git_failed"]) == (
            sum(g.ok for g in operations),
            sum(not g.ok for g in operations),
        )
    for name, row in rows(weekly, "errors").items():
        assert row["errors"] == len(truth.errors(*SECOND, error_type=name))
    for name, row in rows(weekly, "models").items():
        answers = truth.of(ModelAnswer, *SECOND, model=name)
        assert row["tokens_output"] == sum(a.tokens["output"] for a in answers)
        assert row["cost"] == cost_of(answers)


def test_a_model_without_a_price_is_unknown_not_free(weekly: Report) -> None:
    cost = rows(weekly, "models")["experimental-7"]["cost"]
    assert isinstance(cost, Cost)
    assert cost.unknown
    assert cost.unpriced > 0
    assert not Cost(0, 0).unknown
    assert not Cost(5, 1).unknown


def test_activity_day_by_day(weekly: Report, fortnight: tuple[Path, Truth]) -> None:
    days = rows(weekly, "activity")
    assert list(days) == [SECOND[0] + i * week.DAY for i in range(7)]
    for since, row in days.items():
        assert isinstance(since, int)
        commands = fortnight[1].of(Command, since, since + week.DAY)
        assert row["commands"] == len(commands)


@pytest.mark.parametrize("since", [week.START, SECOND[0]])
def test_sessions_that_lived_in_the_period(fortnight: tuple[Path, Truth], since: int) -> None:
    home, truth = fortnight
    until = since + 7 * week.DAY
    report = report_of(home, "weekly", until + 3 * week.DAY, previous=True)
    ends = {fact.session: fact for fact in truth.of(SessionEnd, 0, END)}
    lived = {
        fact.session: fact
        for fact in truth.of(SessionStart, 0, until)
        if fact.session not in ends or ends[fact.session].at >= since
    }
    found = rows(report, "sessions")
    assert set(found) == {f"task-{int(key, 16)}" for key in lived}
    for key, start in lived.items():
        row = found[f"task-{int(key, 16)}"]
        only = {"session": key}
        commits = truth.of(GitOperation, since, until, operation="commit", **only)
        assert row["started"] == start.at
        assert row["length"] == min(ends[key].at if key in ends else until, until) - start.at
        assert row["state"] == ("ended" if key in ends else "running")
        assert row["commits"] == len(commits)
        assert row["errors"] == len(truth.errors(since, until, **only))
        assert row["cost"] == cost_of(truth.of(ModelAnswer, since, until, **only))


def test_a_running_day_by_hours(fortnight: tuple[Path, Truth]) -> None:
    now = SECOND[0] + 12 * week.HOUR + week.HOUR // 2
    report = report_of(fortnight[0], "daily", now)
    hours = rows(report, "activity")
    assert len(hours) == 24
    for i, (since, row) in enumerate(hours.items()):
        assert since == SECOND[0] + i * week.HOUR
        if i > 12:
            assert row["commands"] is None  # not yet, which is not 0
            continue
        until = min(since + week.HOUR, now)
        assert row["commands"] == len(fortnight[1].of(Command, since, until))
    yesterday = SECOND[0] - week.DAY
    expected = fortnight[1].of(Command, yesterday, yesterday + now - SECOND[0])
    assert report.headline("commands").before == len(expected)


def test_before_the_journal_there_is_no_data(fortnight: tuple[Path, Truth]) -> None:
    report = report_of(fortnight[0], "monthly", week.START + 5 * week.DAY)
    assert report.covered == (week.START, week.START + 5 * week.DAY)
    assert report.covered_before is None
    assert all(row.before is None for row in report.headlines)
    early = report_of(fortnight[0], "weekly", week.START - week.HOUR)
    assert early.covered is None
    assert all(row.value is None for row in early.headlines)
    assert not any(section.covered for section in early.sections)


def with_headline(report: Report, key: str, value: Cell, before: Cell) -> Report:
    changed = tuple(
        Headline(key, row.title, row.unit, value, before) if row.key == key else row
        for row in report.headlines
    )
    return with_insights(replace(report, headlines=changed))


def test_insights_say_what_and_how_much(weekly: Report, fortnight: tuple[Path, Truth]) -> None:
    said = {insight.key: insight.what for insight in weekly.insights}
    commands = fortnight[1].of(Command, *SECOND)
    failed = sum(bool(c.error_type) for c in commands)
    assert said["commands_fail"].startswith(f"{failed} of {len(commands)} commands failed")
    unpriced = sum(a.cost_nusd is None for a in fortnight[1].of(ModelAnswer, *SECOND))
    assert said["prices_missing"].startswith(f"{unpriced} answers")
    assert "experimental-7" in said["prices_missing"]


def test_insights_are_silent_without_cause(weekly: Report) -> None:
    few = with_headline(weekly, "commands", 19, 0)
    fine = with_headline(weekly, "commands_success", 0.95, None)
    no_data = with_headline(weekly, "commands_success", None, None)
    for report in (few, fine, no_data):
        assert "commands_fail" not in {insight.key for insight in report.insights}
    priced = with_headline(weekly, "cost", Cost(5, 0), Cost(5, 0))
    assert {i.key for i in priced.insights} == {"commands_fail"}


@pytest.mark.parametrize(
    ("now", "before", "told"),
    [
        (Cost(3 * 10**9, 0), Cost(2 * 10**9, 0), True),
        (Cost(3 * 10**9 - 1, 0), Cost(2 * 10**9, 0), False),
        (Cost(9 * 10**8, 0), Cost(10**8, 0), False),  # less than a dollar
        (Cost(3 * 10**9, 0), None, False),
        (Cost(3 * 10**9, 0), Cost(0, 4), False),  # nobody knows what it was
    ],
)
def test_cost_that_grew(weekly: Report, now: Cost, before: Cell, told: bool) -> None:
    report = with_headline(weekly, "cost", now, before)
    assert ("cost_grew" in {insight.key for insight in report.insights}) is told


def test_timed_operations_are_a_section_where_there_are_any(tmp_path: Path) -> None:
    journal = Journal(tmp_path, week.START)
    lengths = {"build": [3, 5], "deploy": [60]}
    events = [
        Event(
            id=f"{name}{length}",
            type="operation.completed",
            occurred_at=week.START + length * NS,
            source="track",
            duration_ns=length * NS,
            success=length != 5,
            error_type="KeyError" if length == 5 else None,
            fields={"operation": name},
        )
        for name, seconds in lengths.items()
        for length in seconds
    ]
    now = week.START + week.HOUR
    journal.append("spool", Batch(events=events), now)
    journal.close()
    report = report_of(tmp_path, "daily", now)
    found = {row[0]: row[1:4] for row in report.section("operations").rows}
    assert found == {"build": (2, 0.5, 4 * NS), "deploy": (1, 1.0, 60 * NS)}
    quiet = report_of(tmp_path, "daily", now + week.DAY)
    assert "operations" not in [section.key for section in quiet.sections]
