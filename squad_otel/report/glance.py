"""How the status and lists of sessions look: on a terminal, as JSON, as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from squad_otel.events import NS
from squad_otel.query.measures import MEASURES, Unit
from squad_otel.query.periods import Calendar
from squad_otel.report.render import cell_text, harmless
from squad_otel.report.sections import Cell, Cost
from squad_otel.report.status import SESSION_COLUMNS, Row, Status
from squad_otel.report.terminal import paper, written
from squad_otel.report.text import clean, duration_text
from squad_otel.sessions import State

if TYPE_CHECKING:
    from squad_otel.alertmanager import Alert


_STATE_STYLES: Mapping[str, str] = {
    State.WAITING: "bold yellow",
    State.FAILED: "bold red",
    State.DEAD: "red",
    State.RUNNING: "green",
    State.PAUSED: "dim",
}
_SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow"}

#: From this width on the branch has a column of its own.
_WIDE = 110


def status_view(status: Status, calendar: Calendar, width: int) -> RenderableType:
    """The whole status for a terminal of `width` columns."""
    parts: list[RenderableType] = [_head(status, calendar), Text()]
    if status.sessions:
        parts += [_sessions(status.sessions, status.made_at, width), Text()]
    parts.append(_totals(status, calendar))
    parts.append(Text())
    parts += _alerts(status)
    return Group(*parts)


def _head(status: Status, calendar: Calendar) -> Text:
    if status.daemon is None:
        when = "nothing yet"
        if status.recorded_at is not None:
            age = _age(status.recorded_at, status.made_at)
            when = f"{calendar.moment(status.recorded_at)}, {age} ago"
        text = Text("The daemon does not run. ", "bold yellow")
        text.append(f"This is the journal; its last record: {when}.\n")
    else:
        age = _age(int(status.daemon["started_at"]), status.made_at)
        text = Text("daemon running", "green")
        text.append(f" for {age}, journal {status.journal}\n", "dim")
    if not status.sessions:
        return text.append("No live session.", "bold")
    states = ", ".join(f"{count} {state}" for state, count in status.states)
    number = len(status.sessions)
    text.append(f"{number} session{'s' if number != 1 else ''}", "bold")
    return text.append(f": {states}")


def _sessions(rows: Sequence[Row], now: int, width: int) -> RenderableType:
    wide = width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Session", overflow="ellipsis", no_wrap=True, max_width=32)
    if wide:
        for title in ("Program", "Repository", "Branch"):
            table.add_column(title, overflow="ellipsis", no_wrap=True)
    table.add_column("State", no_wrap=True)
    for title in ("For", "Active", "Commits", "Errors", "Cost"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        state = str(row["state"])
        place = [clean(str(row[name])) for name in ("program", "repository", "branch")]
        table.add_row(
            Text(clean(str(row["session"]))),
            *([Text(word) for word in place] if wide else []),
            Text(state, _STATE_STYLES.get(state, "")),
            Text(_age(row["state_since"], now)),
            Text(_age(row["last_activity"], now)),
            *(Text(_figure(name, row[name])) for name in ("commits", "errors", "cost")),
        )
    if wide:
        return table
    return _WithDetails(table, [_detail(row) for row in rows])


class _WithDetails:
    """A table with a dim line below each of its rows, which may run on over all columns."""

    def __init__(self, table: Table, details: Sequence[str]) -> None:
        self._table = table
        self._details = details

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header, *lines = console.render_lines(self._table, options, pad=False)
        yield from (*header, Segment.line())
        for line, detail in zip(lines, self._details, strict=True):
            yield from (*line, Segment.line())
            yield Text(detail, "dim", no_wrap=True, overflow="ellipsis")


def _age(cell: Cell, now: int) -> str:
    """How long ago, in one or two units: `8 s`, `12 m`, `3 h 05 m`, `2 d 04 h`."""
    if not isinstance(cell, int):
        return cell_text(Unit.DURATION, None)
    seconds = max(0, now - cell) // NS
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} m" if seconds < 3600 else duration_text(seconds * NS)


def _figure(name: str, cell: Cell) -> str:
    return cell_text(MEASURES[name].unit, cell)


def _totals(status: Status, calendar: Calendar) -> Text:
    words = [
        f"{_figure(name, cell)} {word}{'' if cell == 1 else 's'}"
        for name, word in (
            ("commands", "command"),
            ("git_operations", "git operation"),
            ("errors", "error"),
            ("tokens", "token"),
        )
        if (cell := status.totals.get(name)) is not None
    ]
    cost = status.totals.get("cost")
    if cost is not None:
        words.append(f"cost {_figure('cost', cost)}")
    text = Text(f"Since {calendar.moment(status.began_at)}: ", "bold")
    return text.append(", ".join(words) or "no data")


def _alerts(status: Status) -> list[RenderableType]:
    if status.alerts is None:
        return [Text("Alerts: ", "bold") + Text(clean(status.alerts_note), "yellow")]
    if not status.alerts:
        return [Text("Alerts: ", "bold") + Text("none fires")]
    lines: list[RenderableType] = [Text("Alerts", "bold")]
    for alert in status.alerts:
        line = Text(f"  {clean(alert.severity)} ", _SEVERITY_STYLES.get(alert.severity, ""))
        line.append(clean(alert.name), "bold")
        age = _age(int(alert.since * NS), status.made_at)
        line.append(f" for {age}: {clean(alert.description or alert.summary)}")
        lines.append(line)
    return lines


def sessions_view(rows: Sequence[Row], calendar: Calendar, now: int, width: int) -> RenderableType:
    """A list of sessions, live and ended, for a terminal."""
    if not rows:
        return Text("No session is known.")
    wide = width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Session", overflow="ellipsis", no_wrap=True, max_width=32)
    if wide:
        for title in ("Id", "Program", "Repository", "Branch"):
            table.add_column(title, overflow="ellipsis", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Started", no_wrap=True)
    for title in ("Length", "Commits", "Errors", "Cost"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        state, started, ended = str(row["state"]), row["started"], row["ended"]
        assert isinstance(started, int)
        place = [clean(str(row[name])) for name in ("id", "program", "repository", "branch")]
        table.add_row(
            Text(clean(str(row["session"]))),
            *([Text(word) for word in place] if wide else []),
            Text(state, _STATE_STYLES.get(state, "")),
            Text(calendar.local(started).strftime("%d %b %H:%M")),
            Text(_age(started, ended if isinstance(ended, int) else now)),
            *(Text(_figure(name, row[name])) for name in ("commits", "errors", "cost")),
        )
    return table if wide else _WithDetails(table, [_detail(row) for row in rows])


def _detail(row: Row) -> str:
    return clean(f"  {row['program']} in {row['repository']}, {row['branch']}")


def drawn(view: RenderableType, width: int, color: bool) -> str:
    """A view as text with at most `width` columns."""
    console = paper(width, color)
    console.print(view)
    return written(console)


def status_json(status: Status, calendar: Calendar) -> str:
    """The status as one JSON object; null is no data, times are ISO 8601, cost is US dollars."""
    daemon = status.daemon
    document = {
        "version": 1,
        "made_at": calendar.iso(status.made_at),
        "daemon": None
        if daemon is None
        else {
            "pid": daemon["pid"],
            "http": daemon["http"],
            "started_at": calendar.iso(int(daemon["started_at"])),
        },
        "journal": {
            "id": status.journal,
            "began_at": calendar.iso(status.began_at),
            "recorded_at": None if status.recorded_at is None else calendar.iso(status.recorded_at),
        },
        "sessions": [session_record(row, calendar) for row in status.sessions],
        "totals": _flat({n: (MEASURES[n].unit, c) for n, c in status.totals.items()}, calendar),
        "alerts": None if status.alerts is None else [_alert(a, calendar) for a in status.alerts],
        "alerts_note": clean(status.alerts_note),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def sessions_json(rows: Sequence[Row], calendar: Calendar) -> str:
    """A list of sessions as JSON, in the form of the status."""
    found = [session_record(row, calendar) for row in rows]
    return json.dumps({"version": 1, "sessions": found}, indent=2, ensure_ascii=False) + "\n"


def sessions_csv(rows: Sequence[Row], calendar: Calendar) -> str:
    """A list of sessions as CSV, one a line, keys as in JSON. No cell can begin a formula."""
    found = [session_record(row, calendar) for row in rows]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(SESSION_KEYS)
    for line in found:
        cells = [line.get(key) for key in SESSION_KEYS]
        writer.writerow([harmless(c) if isinstance(c, str) else c for c in cells])
    return out.getvalue()


def session_record(row: Row, calendar: Calendar) -> dict[str, object]:
    """A session for programs: times ISO 8601, cost US dollars; null is no data."""
    return _flat({c.key: (c.unit, row[c.key]) for c in SESSION_COLUMNS}, calendar)


def _flat(cells: Mapping[str, tuple[Unit, Cell]], calendar: Calendar) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, (unit, cell) in cells.items():
        if unit is Unit.COST:
            cost = cell if isinstance(cell, Cost) else None
            found[key] = None if cost is None or cost.unknown else cost.nusd / 1e9
            found[f"{key}_unpriced"] = None if cost is None else cost.unpriced
        elif unit is Unit.TIME and isinstance(cell, int):
            found[key] = calendar.iso(cell)
        else:
            assert not isinstance(cell, Cost)
            found[key] = clean(cell) if isinstance(cell, str) else cell
    return found


#: The keys of a session, in their order.
SESSION_KEYS = tuple(session_record(dict.fromkeys(c.key for c in SESSION_COLUMNS), Calendar()))


def _alert(alert: Alert, calendar: Calendar) -> dict[str, object]:
    return {
        "name": clean(alert.name),
        "severity": clean(alert.severity),
        "since": calendar.iso(int(alert.since * NS)),
        "summary": clean(alert.summary),
        "description": clean(alert.description),
        "labels": {clean(name): clean(value) for name, value in alert.labels.items()},
    }
