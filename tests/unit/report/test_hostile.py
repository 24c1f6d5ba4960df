"""No name can do harm in a report, the status or a list of sessions, in any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from rich.cells import cell_len

from squad_otel.alertmanager import Alert
from squad_otel.query.periods import Calendar
from squad_otel.report import glance
from squad_otel.report.render import FORMATS, harmless, render
from squad_otel.report.sections import Report, Section
from squad_otel.report.status import Status
from squad_otel.report.text import clean
from tests import hostile, week
from tests.unit.report.test_sections import report_of

END = week.START + 14 * week.DAY
CALENDAR = Calendar(UTC)

colours = pytest.mark.parametrize("color", [False, True], ids=["plain", "color"])


@pytest.fixture(scope="module")
def weekly(fortnight: tuple[Path, week.Truth]) -> Report:
    """A real report, with the first rows of each section only: enough, and quick."""
    whole = report_of(fortnight[0], "weekly", END, previous=True)
    return replace(whole, sections=tuple(replace(s, rows=s.rows[:3]) for s in whole.sections))


def spoiled(report: Report, name: str) -> Report:
    """The report with every name from outside replaced."""

    def of(section: Section) -> Section:
        rows = tuple(
            tuple(name if isinstance(cell, str) else cell for cell in row) for row in section.rows
        )
        return replace(section, rows=rows)

    return replace(
        report,
        detail=name,
        journals=(name,),
        sections=tuple(map(of, report.sections)),
        insights=tuple(replace(i, what=f"3 of 4 failed with {name}.") for i in report.insights),
    )


def every_name(test: Callable[..., None]) -> Callable[..., None]:
    """Try any text, and each of the hostile ones."""
    for name in hostile.EVIL:
        test = example(name=name)(test)
    return settings(max_examples=30, deadline=None)(given(name=hostile.texts)(test))


@colours
@every_name
def test_a_terminal_is_shown_text_only(weekly: Report, name: str, color: bool) -> None:
    text = render(spoiled(weekly, name), "table", 80, color)
    hostile.check_terminal(text, color=color)
    if not color:
        assert all(cell_len(line) <= 80 for line in text.splitlines())


@every_name
def test_json_and_csv_keep_their_form(weekly: Report, name: str) -> None:
    report = spoiled(weekly, name)
    hostile.check_json(render(report, "json"))
    lines = hostile.check_csv(render(report, "csv"))
    programs = [line for line in lines if line[0] == "programs"]
    at = lines[0].index("program")
    assert {line[at] for line in programs} == {harmless(clean(name))}


@cache
def plain_page(report: Report) -> hostile.Page:
    return hostile.check_html(render(spoiled(report, "x"), "html"))


@every_name
def test_a_name_is_text_in_html_and_nothing_else(weekly: Report, name: str) -> None:
    page = hostile.check_html(render(spoiled(weekly, name), "html"))
    assert page.tags == plain_page(weekly).tags
    if clean(name).strip():
        assert clean(name) in page.text


@every_name
def test_a_name_is_text_in_markdown_and_nothing_else(weekly: Report, name: str) -> None:
    found = hostile.check_markdown(render(spoiled(weekly, name), "markdown"))
    assert found == hostile.check_markdown(render(spoiled(weekly, "x"), "markdown"))


def test_every_format_is_tried() -> None:
    assert set(FORMATS) == {"table", "json", "csv", "html", "markdown"}


@pytest.mark.parametrize("width", [80, 140])
@every_name
def test_status_and_sessions_are_shown_as_text_only(width: int, name: str) -> None:
    row = {
        "id": name,
        **dict.fromkeys(("session", "program", "repository", "branch"), name),
        "state": "waiting",
        **dict.fromkeys(("state_since", "last_activity", "started"), END),
        "ended": None,
        **dict.fromkeys((c.key for c in glance.SESSION_COLUMNS[9:]), None),
    }
    row |= {c.key: None for c in glance.SESSION_COLUMNS if c.key not in row}
    alert = Alert(
        name=name,
        severity=name,
        summary=name,
        description=name,
        since=END / 1e9,
        labels={name: name},
    )
    daemon = {"pid": 1, "http": "http://127.0.0.1:9466", "started_at": END}
    status = Status(END, daemon, "j", END, None, (), (row,), {}, (alert,), name)
    for view in (
        glance.status_view(status, CALENDAR, width),
        glance.status_view(replace(status, alerts=None, daemon=None), CALENDAR, width),
        glance.sessions_view([row], CALENDAR, END, width),
    ):
        text = glance.drawn(view, width, False)
        hostile.check_terminal(text)
        assert all(cell_len(line) <= width for line in text.splitlines())
        hostile.check_terminal(glance.drawn(view, width, True), color=True)
    hostile.check_json(glance.status_json(status, CALENDAR))
    hostile.check_json(glance.sessions_json([row], CALENDAR))
    hostile.check_csv(glance.sessions_csv([row], CALENDAR))
