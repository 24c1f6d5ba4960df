"""The report as one HTML page that stands alone: its style and pictures are inside, no script."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

import pygal
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from pygal.style import Style

from squad_otel.query.measures import Unit
from squad_otel.report.render import (
    NO_DATA,
    SHOWN_ROWS,
    by_day,
    cell_text,
    change_text,
    covered_text,
    empty_text,
    notes,
    partly,
    row_texts,
    source_text,
    time_text,
    title_text,
)
from squad_otel.report.sections import Cell, Cost, Report, Section
from squad_otel.report.text import clean, cost_text, count_text


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of a picture: its size, how many labels fit below it, and how long each may be."""

    width: int
    height: int
    labels: int
    letters: int


#: For a desk or paper, and for a phone.
_SHAPES = {"wide": _Shape(760, 250, 10, 10), "narrow": _Shape(380, 230, 7, 6)}
_LETTER_PX = 12  # as the page's style says
#: Classes of columns; figures have none.
_KINDS = {Unit.TEXT: "name", Unit.TIME: "time"}
_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True, slots=True)
class _Picture:
    """One chart: the columns of the activity that it draws; its axis ends at `least` or above."""

    title: str
    columns: tuple[str, ...]
    value: Callable[[Cell], float | None]
    text: Callable[[float], str]
    sign: str
    least: float


def _count(cell: Cell) -> float | None:
    return cell if isinstance(cell, int) else None


def _dollars(cell: Cell) -> float | None:
    return cell.nusd / 1e9 if isinstance(cell, Cost) and not cell.unknown else None


_PICTURES = (
    _Picture(
        "Commands, git operations and errors",
        ("commands", "git_operations", "errors"),
        _count,
        lambda value: count_text(round(value)),
        "",
        4,
    ),
    _Picture("Cost", ("cost",), _dollars, lambda value: cost_text(round(value * 1e9)), "$", 0.0004),
)


def render(report: Report, _width: int = 0, _color: bool = False) -> str:
    """The page; readable on a phone, printed, and in the dark."""
    environment = Environment(
        loader=PackageLoader("squad_otel.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    activity = report.section("activity")
    return environment.get_template("report.html.j2").render(
        title=title_text(report),
        source=source_text(report),
        read=covered_text(report, report.covered),
        zone=report.calendar.zone_name(report.period.since),
        before=report.before.title,
        partly=partly(report),
        made=report.calendar.moment(report.made_at),
        headlines=[
            {
                "title": row.title,
                "value": cell_text(row.unit, row.value, NO_DATA),
                "before": cell_text(row.unit, row.before, NO_DATA),
                "change": change_text(row),
            }
            for row in report.headlines
        ],
        insights=[{"what": clean(i.what), "do": i.do} for i in report.insights],
        pictures=[_drawn(report, activity, picture) for picture in _PICTURES],
        sections=[_shown(report, section) for section in report.sections],
    )


def _shown(report: Report, section: Section) -> dict[str, object]:
    kinds = [_KINDS.get(column.unit, "") for column in section.columns]
    return {
        "key": section.key,
        "title": section.title,
        "columns": list(zip((column.title for column in section.columns), kinds, strict=True)),
        "rows": [
            list(zip(row_texts(report, section, row), kinds, strict=True))
            for row in section.rows[:SHOWN_ROWS]
        ],
        "empty": empty_text(section),
        "notes": notes(section),
    }


def _drawn(report: Report, activity: Section, picture: _Picture) -> dict[str, object]:
    """A picture's legend and its two shapes; empty where there is nothing to draw."""
    keys = [column.key for column in activity.columns]
    titles = [activity.columns[keys.index(key)].title for key in picture.columns]
    series = [
        [picture.value(row[keys.index(key)]) for row in activity.rows] for key in picture.columns
    ]
    if not any(value for values in series for value in values):
        return {"title": picture.title, "legend": titles, "shapes": {}}
    labels = [
        time_text(report, activity, row[0]) for row in activity.rows if isinstance(row[0], int)
    ]
    if not by_day(activity):
        labels = [label[-5:] for label in labels]  # the hour alone
    return {
        "title": picture.title,
        "legend": titles,
        "shapes": {
            name: _chart(picture, shape, labels, dict(zip(titles, series, strict=True)))
            for name, shape in _SHAPES.items()
        },
    }


def _chart(
    picture: _Picture,
    shape: _Shape,
    labels: list[str],
    series: dict[str, list[float | None]],
) -> Markup:
    highest = max(value for values in series.values() for value in values if value is not None)
    top = _round_up(max(highest, picture.least))
    chart = pygal.Bar(
        width=shape.width,
        height=shape.height,
        range=(0, top),
        css=[],
        js=[],
        show_legend=False,
        no_prefix=True,
        margin=4,
        spacing=6,
        value_formatter=picture.text,
        show_minor_x_labels=False,
        truncate_label=-1,
        style=Style(label_font_size=_LETTER_PX, major_label_font_size=_LETTER_PX),
    )
    marks = [top * quarter / 4 for quarter in range(5)]
    chart.y_labels = [{"value": mark, "label": _mark_text(mark, picture.sign)} for mark in marks]
    chart.x_labels = [label[: shape.letters].strip() for label in labels]
    chart.x_labels_major_every = -(-len(labels) // shape.labels)
    for title, values in series.items():
        chart.add(title, values)
    return _bare(chart.render_tree(), picture.title, list(series))


def _mark_text(mark: float, sign: str) -> str:
    """A mark of an axis with as many digits as it needs; money has two at least."""
    needed = next(digits for digits in range(12) if math.isclose(round(mark, digits), mark))
    return f"{sign}{mark:,.{max(needed, 2 if sign else 0)}f}"


def _round_up(value: float) -> float:
    """The next number whose quarters are round."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10)
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))


def _bare(tree: ElementTree.Element, title: str, series: list[str]) -> Markup:
    """The drawing alone: no script, style or reference; each bar says what it is."""
    # pygal puts its own root together; parsing what it prints gives plain elements.
    root = ElementTree.fromstring(ElementTree.tostring(tree))  # noqa: S314 - of our own making
    for child in list(root):
        if child.tag in (f"{_SVG}defs", f"{_SVG}title"):
            root.remove(child)
    for number, name in enumerate(series):
        for bar in root.iterfind(f".//{_SVG}g[@class='series serie-{number} color-{number}']//*"):
            if bar.get("class") != "bar":
                continue
            said = {note.get("class"): note.text for note in bar.iterfind(f"{_SVG}desc")}
            for note in list(bar.iterfind(f"{_SVG}desc")):
                bar.remove(note)
            label = ElementTree.SubElement(bar, f"{_SVG}title")
            label.text = f"{said.get('x_label')}: {said.get('value')} {name}"
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{_SVG}desc" or child.get("class") in ("tooltip", "text-overlay"):
                parent.remove(child)
    root.set("role", "img")
    root.set("aria-label", title)
    root.attrib.pop("id", None)
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - escaped above
