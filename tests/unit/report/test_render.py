"""Every format: the figures are those of the report. What names may do is in test_hostile.py."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len

from squad_otel.events import NS
from squad_otel.query.journal import JournalBackend
from squad_otel.query.measures import Unit
from squad_otel.query.periods import Calendar
from squad_otel.report.page import _mark_text
from squad_otel.report.render import (
    change_text,
    covered_text,
    partly,
    render,
    row_texts,
)
from squad_otel.report.sections import Cell, Cost, Headline, Report, build
from tests import week
from tests.hostile import EVIL, check_html
from tests.unit.report.test_hostile import spoiled
from tests.unit.report.test_sections import report_of

END = week.START + 14 * week.DAY


@pytest.fixture(scope="module")
def weekly(fortnight: tuple[Path, week.Truth]) -> Report:
    return report_of(fortnight[0], "weekly", END, previous=True)


@pytest.fixture(scope="module", params=EVIL, ids=lambda text: repr(text[:12]))
def hostile(weekly: Report, request: pytest.FixtureRequest) -> Report:
    """The report with every name replaced."""
    return spoiled(weekly, request.param)


def nothing_known(fortnight: tuple[Path, week.Truth]) -> Report:
    return report_of(fortnight[0], "weekly", week.START - week.HOUR)


# -- json ---------------------------------------------------------------------------------------


def test_json_has_the_shape_that_is_promised(weekly: Report) -> None:
    found = json.loads(render(weekly, "json"))
    assert list(found) == [
        "version",
        "made_at",
        "source",
        "period",
        "before",
        "headlines",
        "insights",
        "sections",
    ]
    assert found["version"] == 1
    assert found["source"]["name"] == "journal"
    assert found["period"] == {
        "kind": "weekly",
        "title": "Week 47, 17\N{EN DASH}23 November 2025",
        "since": "2025-11-17T00:00:00+00:00",
        "until": "2025-11-24T00:00:00+00:00",
        "running": False,
        "time_zone": "UTC",
        "covered": {"since": "2025-11-17T00:00:00+00:00", "until": "2025-11-24T00:00:00+00:00"},
    }
    assert [section["key"] for section in found["sections"]] == [
        "activity",
        "sessions",
        "programs",
        "repositories",
        "lengths",
        "commands",
        "git",
        "errors",
        "models",
    ]
    for section in found["sections"]:
        for row in section["rows"]:
            assert set(section["units"]) <= set(row)


def test_json_gives_figures_in_their_units(
    weekly: Report, fortnight: tuple[Path, week.Truth]
) -> None:
    found = json.loads(render(weekly, "json"))
    headlines = {row["key"]: row for row in found["headlines"]}
    answers = fortnight[1].of(week.ModelAnswer, END - 7 * week.DAY, END)
    cost = headlines["cost"]
    assert cost["unit"] == "USD"
    assert cost["value"] == sum(a.cost_nusd or 0 for a in answers) / 1e9
    assert cost["value_unpriced"] == sum(a.cost_nusd is None for a in answers)
    p95 = weekly.headline("command_p95").value
    assert isinstance(p95, int)
    assert headlines["command_p95"]["value"] == p95 / 1e9
    assert headlines["command_p95"]["unit"] == "s"
    models = next(s for s in found["sections"] if s["key"] == "models")
    unknown = next(row for row in models["rows"] if row["model"] == "experimental-7")
    assert unknown["cost"] is None
    assert unknown["cost_unpriced"] == cost["value_unpriced"]


def test_json_says_null_for_no_data(fortnight: tuple[Path, week.Truth]) -> None:
    found = json.loads(render(nothing_known(fortnight), "json"))
    assert found["period"]["covered"] is None
    assert all(row["value"] is None for row in found["headlines"])
    assert not any(section["covered"] for section in found["sections"])


# -- csv ----------------------------------------------------------------------------------------


def lines_of(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(report, "csv"))))


def test_csv_has_one_figure_a_line(weekly: Report, fortnight: tuple[Path, week.Truth]) -> None:
    lines = lines_of(weekly)
    commands = {
        line["program"]: float(line["value"])
        for line in lines
        if line["section"] == "programs" and line["metric"] == "commands"
    }
    expected = fortnight[1].of(week.Command, END - 7 * week.DAY, END)
    assert commands == {
        program: sum(c.program == program for c in expected) for program in ("claude", "codex")
    }
    (headline,) = [
        line for line in lines if line["section"] == "headline" and line["metric"] == "commands"
    ]
    assert headline["value"] == str(len(expected))
    for line in lines:
        if line["section"] != "report" and line["value"]:
            float(line["value"])
    keys = [tuple(v for k, v in line.items() if k != "value") for line in lines]
    assert len(keys) == len(set(keys))


# -- html ---------------------------------------------------------------------------------------


def test_html_shows_the_figures_and_draws_them(
    weekly: Report, fortnight: tuple[Path, week.Truth]
) -> None:
    text = render(weekly, "html")
    page = check_html(text)
    assert "svg" in page.names
    expected = fortnight[1].of(week.Command, END - 7 * week.DAY, END)
    monday = [c for c in expected if c.at < END - 6 * week.DAY]
    assert f"Mon 17 Nov: {len(monday)} Commands" in page.titles
    assert str(len(expected)) in page.text
    assert "unknown" in page.text
    assert "@media print" in page.style
    assert "prefers-color-scheme: dark" in page.style


def test_html_of_nothing_says_so(fortnight: tuple[Path, week.Truth]) -> None:
    text = render(nothing_known(fortnight), "html")
    check_html(text)
    assert "no data" in text
    assert "The journal knows nothing of this period." in text
    assert "<svg" not in text


# -- markdown -----------------------------------------------------------------------------------


def test_markdown_shows_headlines(weekly: Report, fortnight: tuple[Path, week.Truth]) -> None:
    text = render(weekly, "markdown")
    now = len(fortnight[1].of(week.Command, END - 7 * week.DAY, END))
    before = len(fortnight[1].of(week.Command, week.START, END - 7 * week.DAY))
    assert f"| Commands | {now} | {before} |" in text


# -- table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_no_figure_is_cut(weekly: Report, width: int) -> None:
    text = render(weekly, "table", width)
    for line in text.splitlines():
        assert cell_len(line) <= width, line
    assert "\x1b" not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_the_table_fits_whatever_the_names(hostile: Report) -> None:
    text = render(hostile, "table", 80)
    for line in text.splitlines():
        assert cell_len(line) <= 80, line
    ends = {line.rpartition("  ")[2].strip() for line in text.splitlines()}
    for key in ("sessions", "programs", "models"):  # names give way, figures do not
        section = hostile.section(key)
        for row in section.rows[:20]:
            assert row_texts(hostile, section, row)[-1] in ends


def test_colour_is_only_where_it_is_due(weekly: Report) -> None:
    assert "\x1b[" in render(weekly, "table", 80, color=True)
    assert "\x1b[" not in render(weekly, "table", 80, color=False)


def test_long_tables_say_that_there_is_more(weekly: Report) -> None:
    sessions = len(weekly.section("sessions").rows)
    assert sessions > 20
    for form in ("table", "html", "markdown"):
        assert f"{sessions - 20} more in JSON and CSV." in render(weekly, form)
    assert len(json.loads(render(weekly, "json"))["sections"][1]["rows"]) == sessions


# -- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "now", "before", "text"),
    [
        (Unit.COUNT, 12, 10, "+20 %"),
        (Unit.COUNT, 5, 10, "-50 %"),
        (Unit.COUNT, 10, 10, "="),
        (Unit.COUNT, 0, 0, "="),
        (Unit.COUNT, 3, 0, "new"),
        (Unit.COUNT, 5000, 100, "\N{MULTIPLICATION SIGN}50"),
        (Unit.COUNT, 3, None, ""),
        (Unit.COUNT, None, 3, ""),
        (Unit.SHARE, 0.9, 0.95, "-5.0 points"),
        (Unit.COST, Cost(150, 0), Cost(100, 3), "+50 %"),
        (Unit.COST, Cost(150, 0), Cost(0, 3), ""),
    ],
)
def test_changes(unit: Unit, now: Cell, before: Cell, text: str) -> None:
    assert change_text(Headline("x", "X", unit, now, before)) == text


def test_the_covered_part_is_said(fortnight: tuple[Path, week.Truth]) -> None:
    report = report_of(fortnight[0], "monthly", END)
    assert partly(report) == "Covered from Mon 10 Nov 2025 00:00."
    expected = "Mon 10 Nov 2025 00:00 \N{EN DASH} Mon 24 Nov 2025 00:00"
    assert covered_text(report, report.covered) == expected
    for form in ("table", "html", "markdown"):
        assert "Covered from Mon 10 Nov 2025 00:00." in render(report, form)
    berlin = Calendar(ZoneInfo("Europe/Berlin"))  # its Monday began before the journal
    backend = JournalBackend(fortnight[0], END)
    report = build(backend, berlin, berlin.current("weekly", END - week.DAY), END - week.DAY)
    backend.close()
    assert partly(report) == "The period before is covered from Mon 10 Nov 2025 01:00."


def test_a_source_that_ended_early_says_until_when(fortnight: tuple[Path, week.Truth]) -> None:
    report = report_of(fortnight[0], "weekly", END - week.HOUR)
    assert partly(report) == ""
    scrapes = report.period.since, report.period.end - 60 * NS
    assert partly(replace(report, covered=scrapes)) == ""  # where a Prometheus always ends
    broken = report.period.since, report.period.end - 2 * week.DAY
    assert partly(replace(report, covered=broken)) == "Covered until Fri 21 Nov 2025 23:00."
    both = replace(report, covered=(broken[0] + week.HOUR, broken[1]))
    assert partly(both) == "Covered from Mon 17 Nov 2025 01:00 until Fri 21 Nov 2025 23:00."


@pytest.mark.parametrize(
    ("mark", "sign", "text"),
    [
        (0.075, "$", "$0.075"),
        (0.1, "$", "$0.10"),
        (0.0, "$", "$0.00"),
        (0.0001, "$", "$0.0001"),
        (1200.0, "$", "$1,200.00"),
        (1.5, "", "1.5"),
        (20.0, "", "20"),
        (12_000.0, "", "12,000"),
    ],
)
def test_a_mark_of_an_axis_says_where_it_stands(mark: float, sign: str, text: str) -> None:
    assert _mark_text(mark, sign) == text
