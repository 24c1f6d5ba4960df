"""Renderers: a report as text for people (table, markdown, html) or for programs (json, csv).

Names come from outside: each format makes them harmless in its own way.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
from collections.abc import Callable, Mapping
from functools import partial

from squad_otel.events import NS
from squad_otel.query.measures import Unit
from squad_otel.report.sections import Cell, Column, Cost, Headline, Report, Section
from squad_otel.report.text import (
    DASH,
    clean,
    cost_text,
    count_text,
    duration_text,
    share_text,
)

#: The version of the JSON form; a field that goes or changes its meaning raises it.
JSON_VERSION = 1

#: How many rows of a table people are shown; programs get all.
SHOWN_ROWS = 20

NO_DATA = "no data"

#: A Prometheus's last scrape is always somewhat older than the end; this much is worth a sentence.
_LAG_NS = 600 * NS

#: The units that programs are given.
PROGRAM_UNITS: Mapping[Unit, str] = {
    Unit.COUNT: "count",
    Unit.DURATION: "s",
    Unit.COST: "USD",
    Unit.SHARE: "ratio",
    Unit.TIME: "time",
    Unit.TEXT: "text",
}


def render(report: Report, form: str, width: int = 80, color: bool = False) -> str:
    """The report in one of `FORMATS`. `width` (columns) and `color` are for the table."""
    return FORMATS[form](report, width, color)


# -- words, for all who write for people ------------------------------------------------------


def cell_text(unit: Unit, cell: Cell, nothing: str = DASH) -> str:
    """A figure as people read it. `nothing` stands for no data. Times need `time_text`."""
    if cell is None:
        return nothing
    if isinstance(cell, Cost):
        if cell.unknown:
            return "unknown"
        known = cost_text(cell.nusd)
        return f"\N{GREATER-THAN OR EQUAL TO} {known}" if cell.unpriced else known
    if isinstance(cell, str):
        return clean(cell)
    if unit is Unit.SHARE:
        return share_text(cell)
    if unit is Unit.DURATION:
        return duration_text(int(cell))
    return count_text(int(cell))


def row_texts(report: Report, section: Section, row: tuple[Cell, ...]) -> list[str]:
    """A section's row as people read it."""
    return [
        time_text(report, section, cell)
        if column.unit is Unit.TIME and isinstance(cell, int)
        else cell_text(column.unit, cell)
        for column, cell in zip(section.columns, row, strict=True)
    ]


def time_text(report: Report, section: Section, at_ns: int) -> str:
    """A local time as short as the section allows: a day where its rows are days."""
    local = report.calendar.local(at_ns)
    if section.key != "activity":
        return f"{local:%-d %b %H:%M}"
    return f"{local:%a %-d %b}" if by_day(section) else f"{local:%a %H:%M}"


def by_day(section: Section) -> bool:
    """Whether the rows of an activity section are days or more, not hours."""
    starts = [row[0] for row in section.rows[1:3] if isinstance(row[0], int)]
    return len(starts) < 2 or starts[1] - starts[0] > 20 * 3600 * NS


def change_text(row: Headline) -> str:
    """How a headline differs from the period before; empty where one of them has no data."""
    now, before = _number(row.value), _number(row.before)
    if now is None or before is None:
        return ""
    if now == before:
        return "="
    if row.unit is Unit.SHARE:
        return f"{(now - before) * 100:+.1f} points"
    if before == 0:
        return "new"
    change = (now - before) / before * 100
    return (
        f"{change:+,.0f} %" if abs(change) < 1000 else f"\N{MULTIPLICATION SIGN}{now / before:,.0f}"
    )


def source_text(report: Report) -> str:
    """Which source answered, of which journal."""
    journals = ", ".join(clean(name) for name in report.journals) or "none"
    return f"{report.source} ({clean(report.detail)}), journal {journals}"


def covered_text(report: Report, covered: tuple[int, int] | None) -> str:
    """What part of a period the source covers."""
    if covered is None:
        return NO_DATA
    moment = report.calendar.moment
    return f"{moment(covered[0])} {DASH} {moment(covered[1])}"


def partly(report: Report) -> str:
    """Sentences where the source covers less than what is compared; else empty."""
    if report.covered is None:
        return f"The {report.source} knows nothing of this period."
    moment = report.calendar.moment
    found = []
    for what, period, covered in (
        ("Covered", report.period, report.covered),
        ("The period before is covered", report.before, report.covered_before),
    ):
        if covered is None:
            continue
        since = f" from {moment(covered[0])}" if covered[0] > period.since else ""
        until = f" until {moment(covered[1])}" if covered[1] < period.end - _LAG_NS else ""
        if since or until:
            found.append(f"{what}{since}{until}.")
    return " ".join(found)


def title_text(report: Report) -> str:
    """The period, and that it still runs where it does."""
    return report.period.title + (", so far" if report.period.running else "")


def rows_left_out(section: Section) -> int:
    """How many rows of a section people are not shown."""
    return max(len(section.rows) - SHOWN_ROWS, 0)


def empty_text(section: Section) -> str:
    """What stands where a section has no rows."""
    return "nothing" if section.covered else NO_DATA


def notes(section: Section) -> list[str]:
    """The sentences under a section."""
    found = [section.note] if section.note else []
    costs = [cell for row in section.rows for cell in row if isinstance(cell, Cost)]
    if any(cost.unpriced for cost in costs):
        found.append(
            "Cost: unknown, or \N{GREATER-THAN OR EQUAL TO}, where a model's price is not known."
        )
    left_out = rows_left_out(section)
    if left_out:
        found.append(f"{left_out} more in JSON and CSV.")
    return found


def _number(cell: Cell) -> float | None:
    if isinstance(cell, Cost):
        return None if cell.unknown else cell.nusd
    return None if isinstance(cell, str) else cell


# -- for programs -----------------------------------------------------------------------------


def json_text(report: Report) -> str:
    """The report as JSON: times ISO 8601, durations seconds, cost dollars, shares 0 to 1.

    A cost that is not known is null, and `<key>_unpriced` beside it says how many answers are
    not in it. What there is no data of is null.
    """
    iso = report.calendar.iso
    document = {
        "version": JSON_VERSION,
        "made_at": iso(report.made_at),
        "source": {
            "name": report.source,
            "detail": clean(report.detail),
            "journals": [clean(name) for name in report.journals],
        },
        "period": {
            "kind": report.period.kind,
            "title": report.period.title,
            "since": iso(report.period.since),
            "until": iso(report.period.until),
            "running": report.period.running,
            "time_zone": report.calendar.zone_name(report.period.since),
            "covered": _json_ends(report, report.covered),
        },
        "before": {
            "title": report.before.title,
            "since": iso(report.before.since),
            "until": iso(report.before.end),
            "covered": _json_ends(report, report.covered_before),
        },
        "headlines": [_json_headline(report, row) for row in report.headlines],
        "insights": [
            {"key": insight.key, "what": clean(insight.what), "do": insight.do}
            for insight in report.insights
        ],
        "sections": [_json_section(report, section) for section in report.sections],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _json_ends(report: Report, covered: tuple[int, int] | None) -> dict[str, str] | None:
    if covered is None:
        return None
    return {"since": report.calendar.iso(covered[0]), "until": report.calendar.iso(covered[1])}


def _json_headline(report: Report, row: Headline) -> dict[str, object]:
    found: dict[str, object] = {"key": row.key, "title": row.title, "unit": PROGRAM_UNITS[row.unit]}
    for name, cell in (("value", row.value), ("before", row.before)):
        found.update(_json_cell(report, name, row.unit, cell))
    return found


def _json_section(report: Report, section: Section) -> dict[str, object]:
    rows = []
    for row in section.rows:
        cells: dict[str, object] = {}
        for column, cell in zip(section.columns, row, strict=True):
            cells.update(_json_cell(report, column.key, column.unit, cell))
        rows.append(cells)
    return {
        "key": section.key,
        "title": section.title,
        "covered": section.covered,
        "units": {column.key: PROGRAM_UNITS[column.unit] for column in section.columns},
        "rows": rows,
        "note": section.note,
    }


def _json_cell(report: Report, key: str, unit: Unit, cell: Cell) -> dict[str, object]:
    if isinstance(cell, Cost):
        known = None if cell.unknown else cell.nusd / 1e9
        return {key: known, f"{key}_unpriced": cell.unpriced}
    return {key: _plain(report, unit, cell)}


def _plain(report: Report, unit: Unit, cell: Cell) -> str | int | float | None:
    """A figure in the unit that programs are given; a Cost is not one."""
    assert not isinstance(cell, Cost)
    if cell is None:
        return None
    if isinstance(cell, str):
        return clean(cell)
    if unit is Unit.TIME:
        return report.calendar.iso(int(cell))
    return cell / NS if unit is Unit.DURATION else cell


_CSV_LABELS = (
    "session",
    "program",
    "repository",
    "branch",
    "state",
    "started",
    "since",
    "command",
    "operation",
    "error_type",
    "component",
    "severity",
    "model",
)


def csv_text(report: Report) -> str:
    """The report as CSV in long form: one figure a line, its labels beside it.

    Units as in JSON; an empty value is no data. No cell can begin a formula.
    """
    lines: list[list[str | int | float]] = []

    def add(section: str, metric: str, unit: str, value: object, labels: Mapping[str, str]) -> None:
        cells = [labels.get(name, "") for name in _CSV_LABELS]
        shown = "" if value is None else value
        assert isinstance(shown, str | int | float)
        lines.append([section, metric, unit, *map(harmless, cells), _csv_value(shown)])

    iso = report.calendar.iso
    for key, text in (
        ("source", report.source),
        ("since", iso(report.period.since)),
        ("until", iso(report.period.until)),
        ("covered_since", None if report.covered is None else iso(report.covered[0])),
        ("covered_until", None if report.covered is None else iso(report.covered[1])),
    ):
        add("report", key, "text", text, {})
    for row in report.headlines:
        for name, cell in (("headline", row.value), ("before", row.before)):
            for key, value in _json_cell(report, row.key, row.unit, cell).items():
                add(name, key, _csv_unit(row.key, key, row.unit), value, {})
    for section in report.sections:
        for cells in section.rows:
            _add_csv_row(report, section, cells, add)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["section", "metric", "unit", *_CSV_LABELS, "value"])
    writer.writerows(lines)
    return out.getvalue()


def _add_csv_row(
    report: Report,
    section: Section,
    cells: tuple[Cell, ...],
    add: Callable[[str, str, str, object, Mapping[str, str]], None],
) -> None:
    pairs = list(zip(section.columns, cells, strict=True))
    labels = {
        column.key: str(_plain(report, column.unit, cell))
        for column, cell in pairs
        if _is_label(column)
    }
    for column, cell in pairs:
        if _is_label(column):
            continue
        for key, value in _json_cell(report, column.key, column.unit, cell).items():
            add(section.key, key, _csv_unit(column.key, key, column.unit), value, labels)


def _is_label(column: Column) -> bool:
    return column.unit in (Unit.TEXT, Unit.TIME)


def _csv_unit(own: str, key: str, unit: Unit) -> str:
    return PROGRAM_UNITS[unit if own == key else Unit.COUNT]


def _csv_value(value: str | int | float) -> str | int | float:
    return harmless(value) if isinstance(value, str) else value


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    # The full-width forms count as well: some programs read them like the plain ones.
    return f"'{text}" if re.match(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]", text) else text


# -- markdown ---------------------------------------------------------------------------------


def markdown_text(report: Report) -> str:
    """The report as Markdown with tables, for a wiki, an issue or a chat."""
    zone = report.calendar.zone_name(report.period.since)
    lines = [
        f"# Squad report: {marked(title_text(report))}",
        "",
        f"Source: {marked(source_text(report))}.",
        f"Read: {covered_text(report, report.covered)} ({marked(zone)}).",
        f"Compared with: {marked(report.before.title)}.",
        *([partly(report)] if partly(report) else []),
        "",
        *_markdown_table(
            ["", "This period", "Before", "Change"],
            [
                [
                    row.title,
                    cell_text(row.unit, row.value, NO_DATA),
                    cell_text(row.unit, row.before, NO_DATA),
                    change_text(row),
                ]
                for row in report.headlines
            ],
            1,
        ),
    ]
    lines += [f"- {marked(i.what)} {marked(i.do)}" for i in report.insights]
    for section in report.sections:
        lines += ["", f"## {section.title}", ""]
        if section.rows:
            lines += _markdown_table(
                [column.title for column in section.columns],
                [row_texts(report, section, row) for row in section.rows[:SHOWN_ROWS]],
                sum(_is_label(column) for column in section.columns),
            )
        else:
            lines += [empty_text(section), ""]
        lines += [marked(note) for note in notes(section)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(header: list[str], rows: list[list[str]], labels: int) -> list[str]:
    marks = ["---" if i < labels else "---:" for i in range(len(header))]
    lines = [[marked(cell) for cell in line] for line in (header, *rows)]
    return [f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:])] + [""]


_MARKS = re.compile(r"[\\`*_\[\]|~#!$]|:(?=//)|(?<=www)\.", re.IGNORECASE)


def marked(text: str) -> str:
    """Text that means nothing to Markdown or HTML; GitHub makes no link of it, either."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\g<0>", text)


# -- the table of formats ---------------------------------------------------------------------


def _late(module: str, report: Report, width: int, color: bool) -> str:
    """A renderer whose libraries are loaded only when it is used."""
    found: Callable[[Report, int, bool], str] = importlib.import_module(
        f"squad_otel.report.{module}"
    ).render
    return found(report, width, color)


FORMATS: Mapping[str, Callable[[Report, int, bool], str]] = {
    "table": partial(_late, "terminal"),
    "json": lambda report, _width, _color: json_text(report),
    "csv": lambda report, _width, _color: csv_text(report),
    "html": partial(_late, "page"),
    "markdown": lambda report, _width, _color: markdown_text(report),
}
