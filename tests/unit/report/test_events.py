"""How events look in each format; names are hostile, figures come from the events made here."""

from __future__ import annotations

import csv
import io
import json
import re
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len

from squad_otel.events import EVENT_TYPES, NS, Event, FoldState
from squad_otel.query.events import Found
from squad_otel.query.periods import Calendar
from squad_otel.report.events import FORMATS, render
from squad_otel.report.records import EVENT_COLUMNS

BERLIN = Calendar(ZoneInfo("Europe/Berlin"))
HOSTILE = "=1+1|\x1b[31mred\x1b]0;t\x07 \u202e<script>\r\nnew `line` 火火火 " + "x" * 200
AT = 1_764_183_600 * NS  # 2025-11-26T19:00:00Z


def found(**more: object) -> Found:
    given = {"id": "i", "type": "command.executed", "occurred_at": AT + 123_456_789, "source": "s"}
    return Found(7, Event(**{**given, **more}), AT + NS, FoldState.LIVE, HOSTILE)  # type: ignore[arg-type]


ONE = found(
    session="aaaa",
    program=HOSTILE,
    branch=HOSTILE,
    duration_ns=1_500_000_000,
    success=False,
    error_type=HOSTILE,
    fields={"command": HOSTILE, "exit_code": 3},
)


def text(one: Found, form: str, width: int | None = None, color: bool = False) -> str:
    return "".join(render([one], form, BERLIN, width, color))


def test_json_is_one_object_a_line_with_every_key() -> None:
    (line,) = text(ONE, "json").splitlines()
    row = json.loads(line)
    assert tuple(row) == EVENT_COLUMNS
    assert row["occurred_at"] == "2025-11-26T20:00:00.123456+01:00"
    assert (row["duration_s"], row["success"], row["exit_code"]) == (1.5, False, 3)
    assert (row["seq"], row["fold"], row["session"], row["model"]) == (7, "live", "aaaa", None)


def test_every_field_of_every_type_is_there_and_money_is_dollars() -> None:
    for kind in EVENT_TYPES.values():
        fields = {name: f"v-{name}" if of is str else 3 for name, of in kind.fields.items()}
        row = json.loads(text(found(type=kind.name, fields=fields), "json"))
        if "cost_nusd" in fields:
            del fields["cost_nusd"]
            assert row["cost_usd"] == 3e-9
        assert {name: row[name] for name in fields} == fields


def test_csv_has_the_same_keys_and_no_cell_begins_a_formula() -> None:
    (row,) = csv.DictReader(io.StringIO(text(ONE, "csv")))
    assert tuple(row) == EVENT_COLUMNS
    assert row["program"].startswith("'=1+1")
    assert (row["duration_s"], row["success"], row["model"]) == ("1.5", "false", "")
    assert not any(re.match(r"\s*[=+@-]", cell) for cell in row.values())


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_hostile_gets_through(form: str) -> None:
    shown = text(ONE, form)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert "<script>" not in shown or form in ("table", "json", "csv")
    lines = {"table": 2, "json": 1, "csv": 2, "markdown": 3}
    if form in lines:
        assert len(shown.splitlines()) == lines[form]
    if form == "markdown":
        bars = [len(re.findall(r"(?<!\\)\|", line)) for line in shown.splitlines()]
        assert bars == [8, 8, 8]


@pytest.mark.parametrize("width", [40, 80, 129, 130, 200])
def test_lines_of_the_table_fit_the_terminal(width: int) -> None:
    for line in text(ONE, "table", width).splitlines():
        assert cell_len(line) <= width


def test_the_table_in_a_pipe_cuts_no_detail() -> None:
    assert "x" * 200 in text(ONE, "table")
    assert "1.50 s" in text(ONE, "table")


def test_only_failures_are_red_and_only_where_colour_is_due() -> None:
    assert "\x1b[31m" in text(ONE, "table", 80, color=True)
    assert "\x1b[31m" in text(found(type="error", error_type="X"), "table", 80, color=True)
    assert "\x1b[31m" not in text(found(success=True), "table", 80, color=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"fields": {"command": "git push"}, "success": True}, "git push"),
        (
            {"type": "session.state", "fields": {"state": "idle", "previous": "running"}},
            "running → idle",
        ),
        ({"success": False, "error_type": "exit_1"}, "failed (exit_1)"),
        ({"type": "error", "error_type": "T", "fields": {"component": "mcp"}}, "error (T), mcp"),
        (
            {
                "type": "tokens.used",
                "fields": {
                    "model": "m",
                    "input_tokens": 900,
                    "output_tokens": 334,
                    "cost_nusd": 1_230_000_000,
                },
            },
            "m, 1,234 tokens, $1.23",
        ),
        ({"type": "git.commit", "fields": {"revision": "0123456789abcdef"}}, "0123456789"),
    ],
)
def test_the_last_column_says_what_happened(more: dict[str, object], said: str) -> None:
    assert text(found(**more), "table").splitlines()[1].split("  ")[-1] == said
