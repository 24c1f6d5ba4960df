"""How events look to people: one line each, in columns that do not depend on what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.style import Style

from squad_otel.query.events import Found
from squad_otel.query.periods import Calendar
from squad_otel.report.records import EVENT_COLUMNS, event_record
from squad_otel.report.stream import csv_lines, html_lines, json_lines, markdown_lines
from squad_otel.report.text import clean, cost_text, count_text, duration_text

TITLES = ("Time", "Type", "Session", "Program", "Repository", "Branch", "What")

#: How wide each column of the table is; the last one takes the rest. A narrow terminal has no
#: room for those left out there.
_SIZES = {"Time": 15, "Type": 19, "Session": 20, "Program": 8, "Repository": 16, "Branch": 20}
_NARROW = ("Time", "Type", "Session")
_WIDE = 130

_FAILED, _HEAD = Style.parse("red"), Style.parse("bold")


def render(
    events: Iterable[Found], form: str, calendar: Calendar, width: int | None, color: bool
) -> Iterator[str]:
    """Events in one of FORMATS, each as soon as it is there.

    `width` (columns; None: lines may be of any length) and `color` are for the table.
    """
    return FORMATS[form](events, calendar, width, color)


def cells(found: Found, calendar: Calendar) -> tuple[str, ...]:
    """An event as people read it, by TITLES."""
    event = found.event
    return (
        f"{calendar.local(event.occurred_at):%-d %b %H:%M:%S}",
        event.type,
        clean(found.session_name or event.session or ""),
        clean(event.program or ""),
        clean(event.repository or ""),
        clean(event.branch or ""),
        what(found),
    )


def what(found: Found) -> str:
    """What an event says beside its type: failure first, then its own fields, then how long."""
    event, fields = found.event, found.event.fields
    words: list[str] = []
    if event.success is False or event.error_type:
        kind = f" ({event.error_type})" if event.error_type else ""
        words.append(f"{'failed' if event.success is False else 'error'}{kind}")
    if "state" in fields:
        words.append(f"{fields.get('previous', '?')} \N{RIGHTWARDS ARROW} {fields['state']}")
    names = ("command", "operation", "model", "component", "severity", "reason", "ref")
    words += [str(fields[name]) for name in names if fields.get(name)]
    if fields.get("revision"):
        words.append(str(fields["revision"])[:10])
    tokens = [int(value) for name, value in fields.items() if name.endswith("_tokens")]
    if tokens:
        words.append(f"{count_text(sum(tokens))} tokens")
    if "cost_nusd" in fields:
        words.append(cost_text(int(fields["cost_nusd"])))
    if event.duration_ns is not None:
        words.append(duration_text(event.duration_ns))
    return clean(", ".join(words))


def _failed(found: Found) -> bool:
    return found.event.success is False or found.event.type == "error"


def _table(
    events: Iterable[Found], calendar: Calendar, width: int | None, color: bool
) -> Iterator[str]:
    shown = _NARROW if width is not None and width < _WIDE else tuple(_SIZES)
    places = [TITLES.index(name) for name in shown]
    sizes = [_SIZES[name] for name in shown]

    def line(row: tuple[str, ...]) -> str:
        parts = [_sized(row[at], size) for at, size in zip(places, sizes, strict=True)]
        text = "  ".join([*parts, row[-1]])
        return (text if width is None or cell_len(text) <= width else _sized(text, width)).rstrip()

    yield _styled(line(TITLES), _HEAD, color)
    for found in events:
        yield _styled(line(cells(found, calendar)), _FAILED, color and _failed(found))


def _sized(text: str, size: int) -> str:
    """Exactly `size` columns of text; what is cut off ends in an ellipsis."""
    if cell_len(text) <= size:
        return set_cell_size(text, size)
    return set_cell_size(text, size - 1) + "…"


def _styled(text: str, style: Style, color: bool) -> str:
    return (style.render(text, color_system=ColorSystem.STANDARD) if color else text) + "\n"


def _json(events: Iterable[Found], calendar: Calendar, *_: object) -> Iterator[str]:
    return json_lines(event_record(found, calendar) for found in events)


def _csv(events: Iterable[Found], calendar: Calendar, *_: object) -> Iterator[str]:
    return csv_lines((event_record(found, calendar) for found in events), EVENT_COLUMNS)


def _html(events: Iterable[Found], calendar: Calendar, *_: object) -> Iterator[str]:
    return html_lines(_dated(events, calendar), TITLES, "Squad events")


def _markdown(events: Iterable[Found], calendar: Calendar, *_: object) -> Iterator[str]:
    return markdown_lines(_dated(events, calendar), TITLES)


def _dated(events: Iterable[Found], calendar: Calendar) -> Iterator[tuple[str, ...]]:
    """Cells with the whole date: who reads a document may read it in another year."""
    for found in events:
        yield (calendar.iso(found.event.occurred_at), *cells(found, calendar)[1:])


FORMATS: Mapping[str, Callable[[Iterable[Found], Calendar, int | None, bool], Iterator[str]]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    "html": _html,
    "markdown": _markdown,
}
