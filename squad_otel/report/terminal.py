"""The report for a terminal, by rich; pleasant at 80 columns, without colour where none is due."""

from __future__ import annotations

import io

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from squad_otel.query.measures import Unit
from squad_otel.report.render import (
    NO_DATA,
    SHOWN_ROWS,
    cell_text,
    change_text,
    covered_text,
    empty_text,
    notes,
    partly,
    row_texts,
    source_text,
    title_text,
)
from squad_otel.report.sections import Column, Headline, Report, Section
from squad_otel.report.text import clean

#: Columns that a narrow terminal has no room for; every other format has them.
_WIDE_ONLY = {
    "sessions": ("branch", "started"),
    "repositories": ("tokens",),
    "models": ("tokens",),
}
_WIDE = 110
_BAR = 12
_GAP = 2
_NARROWEST = 6
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def render(report: Report, width: int, color: bool) -> str:
    """The report as lines of at most `width` columns."""
    console = paper(width, color)
    _header(console, report)
    _headlines(console, report)
    for insight in report.insights:
        console.print(
            Text("! ", "yellow") + Text(clean(insight.what), "bold") + Text(f" {insight.do}")
        )
    if report.insights:
        console.print()
    for section in report.sections:
        _section(console, report, section, width)
    return written(console)


def paper(width: int, color: bool) -> Console:
    """A console that keeps what is printed, in lines of at most `width` columns; see `written`."""
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )


def written(console: Console) -> str:
    """What was printed on `paper`, without blanks at the ends of lines."""
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _header(console: Console, report: Report) -> None:
    zone = report.calendar.zone_name(report.period.since)
    console.print(Text(title_text(report), "bold"))
    for name, text in (
        ("source", source_text(report)),
        ("read", f"{covered_text(report, report.covered)} ({zone})"),
        ("compared", f"with {report.before.title}"),
    ):
        console.print(Text(f"{name:<10}{text}", "dim"), overflow="fold")
    if partly(report):
        console.print(Text(partly(report), "yellow"))
    console.print()


def _table() -> Table:
    return Table(
        box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold", expand=False
    )


def _headlines(console: Console, report: Report) -> None:
    table = _table()
    table.add_column("", no_wrap=True)
    for title in ("This period", "Before", "Change"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in report.headlines:
        table.add_row(*map(Text, _headline(row)[:3]), Text(change_text(row), "dim"))
    console.print(table)
    console.print()


def _headline(row: Headline) -> list[str]:
    return [
        row.title,
        cell_text(row.unit, row.value, NO_DATA),
        cell_text(row.unit, row.before, NO_DATA),
    ]


def _section(console: Console, report: Report, section: Section, width: int) -> None:
    console.print(Text(section.title, "bold cyan"))
    if section.rows:
        console.print(_section_table(report, section, width))
    else:
        console.print(Text(empty_text(section), "dim"))
    for note in notes(section):
        console.print(Text(note, "dim"))
    console.print()


def _section_table(report: Report, section: Section, width: int) -> Table:
    hidden = () if width >= _WIDE else _WIDE_ONLY.get(section.key, ())
    shown = [i for i, column in enumerate(section.columns) if column.key not in hidden]
    lines = [
        [texts[i] for i in shown]
        for texts in (row_texts(report, section, row) for row in section.rows[:SHOWN_ROWS])
    ]
    bars = _bars(section)
    if bars:
        width -= _BAR + _GAP
    table = _table()
    columns = [section.columns[i] for i in shown]
    for column, size in zip(columns, _sizes(columns, lines, width), strict=True):
        if column.unit in (Unit.TEXT, Unit.TIME):
            table.add_column(column.title, no_wrap=True, overflow="ellipsis", max_width=size)
        else:
            table.add_column(column.title, justify="right", no_wrap=True, min_width=size)
    if bars:
        table.add_column("", no_wrap=True, style="cyan")
    for number, line in enumerate(lines):
        table.add_row(*map(Text, line), *([Text(bars[number])] if bars else []))
    return table


def _sizes(columns: list[Column], lines: list[list[str]], width: int) -> list[int]:
    """How wide each column may be: figures whole, names as the rest allows."""
    sizes = [
        max(cell_len(text) for text in (column.title, *(line[i] for line in lines)))
        for i, column in enumerate(columns)
    ]
    names = [i for i, column in enumerate(columns) if column.unit is Unit.TEXT]
    too_wide = sum(sizes) + _GAP * (len(sizes) - 1) - width
    while too_wide > 0 and names:
        widest = max(names, key=lambda i: sizes[i])
        if sizes[widest] <= _NARROWEST:
            break
        sizes[widest] -= 1
        too_wide -= 1
    return sizes


def _bars(section: Section) -> list[str]:
    """The commands of each row of the activity as a bar."""
    if section.key != "activity":
        return []
    at = [column.key for column in section.columns].index("commands")
    values = [row[at] if isinstance(row[at], int) else 0 for row in section.rows]
    most = max((value for value in values if isinstance(value, int)), default=0) or 1
    return [_bar(value / most) for value in values if isinstance(value, int)]


def _bar(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
