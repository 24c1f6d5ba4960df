"""Streams: many records written one after the other, so that memory does not grow with them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from markupsafe import escape

from squad_otel.report.records import Record
from squad_otel.report.render import harmless, marked
from squad_otel.report.text import clean

_PAGE_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ margin: 2rem 1.25rem; font: 15px/1.5 system-ui, sans-serif; }}
table {{ border-collapse: collapse; font-size: .88rem; }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }}
td:first-child {{ white-space: nowrap; font-variant-numeric: tabular-nums; }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
"""
_PAGE_FOOT = "</table>\n</body>\n</html>\n"


def json_lines(records: Iterable[Record]) -> Iterator[str]:
    """JSON Lines: one object a line."""
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    for record in records:
        yield encode(record) + "\n"


def csv_lines(records: Iterable[Record], columns: Sequence[str]) -> Iterator[str]:
    """CSV with a header; an empty cell is not known, no cell can begin a formula."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    writer.writerow(columns)
    yield line.getvalue()
    for record in records:
        line.seek(0)
        line.truncate()
        writer.writerow([_cell(record.get(name)) for name in columns])
        yield line.getvalue()


def _cell(value: object) -> str | int | float | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return harmless(clean(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def markdown_lines(rows: Iterable[Sequence[str]], titles: Sequence[str]) -> Iterator[str]:
    """A Markdown table."""
    yield _markdown(titles)
    yield f"| {' | '.join('---' for _ in titles)} |\n"
    for row in rows:
        yield _markdown([marked(cell) for cell in row])


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def html_lines(rows: Iterable[Sequence[str]], titles: Sequence[str], title: str) -> Iterator[str]:
    """A page of one table, without script."""
    yield _PAGE_HEAD.format(title=escape(clean(title)))
    yield _html("th", titles)
    for row in rows:
        yield _html("td", row)
    yield _PAGE_FOOT


def _html(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(clean(cell))}</{tag}>' for cell in cells)}</tr>\n"
