"""Sections: a few measures each, shaped for reading. Data only; how it looks is for the renderers.

A report is the same whichever backend answered, except where it says what that one cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from squad_otel.metrics import BY_NAME
from squad_otel.query.journal import SESSION, JournalBackend
from squad_otel.query.measures import (
    MEASURES,
    Aggregate,
    Backend,
    Measure,
    Reading,
    Unit,
    evaluate,
    evaluate_by,
)
from squad_otel.query.periods import Calendar, Period
from squad_otel.sessions import Session, State


@dataclass(frozen=True, slots=True)
class Cost:
    """Money: what is known of it (billionths of a dollar), and the answers without a price."""

    nusd: int
    unpriced: int

    @property
    def unknown(self) -> bool:
        """Whether nothing at all is known: there were answers, none with a price."""
        return self.nusd == 0 and self.unpriced > 0


#: None is "no data". Integers and floats are in the column's unit.
Cell = str | int | float | Cost | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a section. Text columns are what a row is about, the others its figures."""

    key: str
    title: str
    unit: Unit


@dataclass(frozen=True, slots=True)
class Section:
    """A table. `covered` is false where the source knows nothing of the period."""

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    covered: bool = True


@dataclass(frozen=True, slots=True)
class Headline:
    """One number beside that of the period before."""

    key: str
    title: str
    unit: Unit
    value: Cell
    before: Cell


@dataclass(frozen=True, slots=True)
class Insight:
    """A sentence: what, how much, and what to do."""

    key: str
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report says. `covered` are the ends really read (UTC ns), None for nothing."""

    calendar: Calendar
    period: Period
    before: Period
    source: str
    detail: str
    journals: tuple[str, ...]
    made_at: int
    covered: tuple[int, int] | None
    covered_before: tuple[int, int] | None
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    insights: tuple[Insight, ...] = field(default=())

    def headline(self, key: str) -> Headline:
        return next(row for row in self.headlines if row.key == key)

    def section(self, key: str) -> Section:
        return next(section for section in self.sections if section.key == key)


@dataclass(frozen=True, slots=True)
class _Table:
    """A section made of measures by labels."""

    key: str
    title: str
    by: tuple[str, ...]
    measures: tuple[str, ...]
    note: str = ""
    #: Left out where it has no rows: most squads have no use for it.
    optional: bool = False


_HEADLINES: tuple[tuple[str, str], ...] = (
    ("sessions_started", "Sessions started"),
    ("sessions_ended", "Sessions ended"),
    ("session_p50", "Session length, median"),
    ("commands", "Commands"),
    ("commands_success", "Commands succeeded"),
    ("command_p50", "Command time, median"),
    ("command_p95", "Command time, P95"),
    ("git_operations", "Git operations"),
    ("errors", "Errors"),
    ("tokens", "Tokens"),
    ("cost", "Cost"),
)

_ALL = ("sessions_started", "commands", "commands_success", "git_operations", "errors", "tokens")

_HIGHEST_S = BY_NAME[MEASURES["command_p99"].metric].bounds[-1]

_TABLES: tuple[_Table, ...] = (
    _Table("programs", "By program", ("program",), (*_ALL, "cost")),
    _Table("repositories", "By repository", ("repository",), (*_ALL, "cost", "command_p95")),
    _Table(
        "lengths",
        "Session lengths",
        ("program",),
        ("sessions_ended", "session_mean", "session_p50", "session_p95"),
        "Of the sessions that ended in the period. Percentiles are interpolated in buckets.",
    ),
    _Table(
        "commands",
        "Commands",
        ("command",),
        ("timed_commands", "timed_success", "command_p50", "command_p95", "command_p99"),
        (
            "Of the commands whose length is known. Percentiles are interpolated in buckets; "
            f"what is above the highest counts as {_HIGHEST_S:.0f} s."
        ),
    ),
    _Table(
        "operations",
        "Timed operations",
        ("operation",),
        ("operations", "operations_success", "operation_mean", "operation_p50", "operation_p95"),
        "What programs measured with `timer()`.",
        optional=True,
    ),
    _Table("git", "Git operations", ("operation",), ("git_operations", "git_ok", "git_failed")),
    _Table("errors", "Errors", ("error_type", "component", "severity"), ("errors",)),
    _Table(
        "models",
        "Tokens and cost by model",
        ("model",),
        (
            "tokens",
            "tokens_input",
            "tokens_output",
            "tokens_cache_read",
            "tokens_cache_creation",
            "cost",
        ),
    ),
)

_ANSWERS = ("tokens", "cost")

_ACTIVITY = ("sessions_started", "commands", "git_operations", "errors", "tokens", "cost")

_LABEL_TITLES: Mapping[str, str] = {
    "program": "Program",
    "repository": "Repository",
    "command": "Command",
    "operation": "Operation",
    "error_type": "Error",
    "component": "Component",
    "severity": "Severity",
    "model": "Model",
}

_SESSION_MEASURES = ("commits", "errors", "cost")
_SESSION_COLUMNS = (
    Column("session", "Session", Unit.TEXT),
    Column("program", "Program", Unit.TEXT),
    Column("repository", "Repository", Unit.TEXT),
    Column("branch", "Branch", Unit.TEXT),
    Column("state", "State", Unit.TEXT),
    Column("started", "Started", Unit.TIME),
    Column("length", "Length", Unit.DURATION),
    Column("commits", "Commits", Unit.COUNT),
    Column("errors", "Errors", Unit.COUNT),
    Column("cost", "Cost", Unit.COST),
)


def metrics_of(measures: Sequence[str]) -> list[str]:
    """The metrics that these measures need, each once."""
    names = [MEASURES[name].metric for name in measures]
    if "cost" in measures:
        names.append(MEASURES["unpriced"].metric)
    return list(dict.fromkeys(names))


def build(backend: Backend, calendar: Calendar, period: Period, now: int) -> Report:
    """Ask `backend` everything a report says of `period`. Raises QueryError."""
    before = calendar.before(period, now)
    wanted = [key for key, _ in _HEADLINES] + [m for table in _TABLES for m in table.measures]
    edges = calendar.edges(period)
    reading, slices = backend.read(metrics_of(wanted), edges, metrics_of(_ACTIVITY))
    earlier, _ = backend.read(
        metrics_of([key for key, _ in _HEADLINES]), (before.since, before.end)
    )
    return Report(
        calendar,
        period,
        before,
        backend.name,
        backend.detail,
        tuple(backend.journals),
        now,
        _ends(reading),
        _ends(earlier),
        tuple(
            Headline(key, title, MEASURES[key].unit, _figure(key, reading), _figure(key, earlier))
            for key, title in _HEADLINES
        ),
        (
            _activity(edges, slices, reading is not None),
            _sessions(backend, period),
            *(
                section
                for table in _TABLES
                if (section := _section(table, reading)).rows or not table.optional
            ),
        ),
    )


def _ends(reading: Reading | None) -> tuple[int, int] | None:
    return None if reading is None else (reading.since, reading.until)


def _figure(name: str, reading: Reading | None) -> Cell:
    """A measure's number; of cost, what is known and what is not."""
    value = evaluate(MEASURES[name], reading)
    if name != "cost" or value is None:
        return value
    return Cost(int(value), int(evaluate(MEASURES["unpriced"], reading) or 0))


def _figures_by(
    name: str, reading: Reading, by: Sequence[str], keys: Sequence[tuple[str, ...]]
) -> list[Cell]:
    """A measure's number for each of `keys`; nothing gained is 0 for a total, else no data.

    Tokens and cost are read of some programs only: where no answer was seen, there is no data.
    """
    measure = MEASURES[name]
    values = evaluate_by(measure, reading, by)
    nothing = 0 if measure.aggregate is Aggregate.TOTAL and name not in _ANSWERS else None
    if name != "cost":
        return [values.get(key, nothing) for key in keys]
    unpriced = evaluate_by(MEASURES["unpriced"], reading, by)
    return [
        Cost(int(values.get(key) or 0), int(unpriced.get(key) or 0))
        if key in values or key in unpriced
        else None
        for key in keys
    ]


def _section(table: _Table, reading: Reading | None) -> Section:
    labels = tuple(Column(name, _LABEL_TITLES[name], Unit.TEXT) for name in table.by)
    measures = [MEASURES[name] for name in table.measures]
    if reading is None:
        columns = (*labels, *(Column(m.name, m.title, m.unit) for m in measures))
        return Section(table.key, table.title, columns, (), table.note, covered=False)
    told = [measure for measure in measures if reading.has(measure, table.by)]
    note = table.note
    if len(told) < len(measures):
        missing = ", ".join(f"{m.title} by {table.by[0]}" for m in measures if m not in told)
        note = f"{note} {missing}: only from the journal.".strip()
    keys = _keys(table, told, reading)
    figures = [_figures_by(measure.name, reading, table.by, keys) for measure in told]
    rows = [(*key, *(column[i] for column in figures)) for i, key in enumerate(keys)]
    return Section(
        table.key,
        table.title,
        (*labels, *(Column(m.name, m.title, m.unit) for m in told)),
        tuple(rows),
        note,
    )


def _keys(table: _Table, measures: Sequence[Measure], reading: Reading) -> list[tuple[str, ...]]:
    """What the rows are about, the largest by the first total that tells them apart first."""
    totals = [m for m in measures if m.aggregate is Aggregate.TOTAL]
    found = [evaluate_by(measure, reading, table.by) for measure in totals]
    keys = {key for values in found for key in values}
    return sorted(keys, key=lambda key: (*(-(v.get(key) or 0) for v in found), key))


def _activity(edges: Sequence[int], slices: Sequence[Reading | None], covered: bool) -> Section:
    measures = [MEASURES[name] for name in _ACTIVITY]
    return Section(
        "activity",
        "Activity",
        (
            Column("since", "From", Unit.TIME),
            *(Column(measure.name, measure.title, measure.unit) for measure in measures),
        ),
        tuple(
            (since, *(_figure(measure.name, reading) for measure in measures))
            for (since, _), reading in zip(pairwise(edges), slices, strict=True)
        ),
        covered=covered,
    )


def _sessions(backend: Backend, period: Period) -> Section:
    """The sessions that lived in the period, with what they did in it; from the journal only."""
    title = "Sessions"
    if not isinstance(backend, JournalBackend):
        note = "The list of sessions comes from the journal only (--source journal)."
        return Section("sessions", title, _SESSION_COLUMNS, (), note, covered=False)
    reading = backend.by_session(metrics_of(_SESSION_MEASURES), period.since, period.end)
    sessions = backend.sessions(period.since, period.end)
    keys = [(session.id,) for session in sessions]
    if reading is None:
        return Section("sessions", title, _SESSION_COLUMNS, (), covered=False)
    figures = [_figures_by(name, reading, (SESSION,), keys) for name in _SESSION_MEASURES]
    rows = [
        (*_described(session, period.end), *(column[i] for column in figures))
        for i, session in enumerate(sessions)
    ]
    return Section("sessions", title, _SESSION_COLUMNS, tuple(rows))


def _described(session: Session, end: int) -> tuple[Cell, ...]:
    """What a session is; its length as it was at `end`, its state as it is now."""
    ended = end if session.ended_at is None else min(session.ended_at, end)
    return (
        session.name,
        session.program,
        session.repository,
        session.branch,
        str(session.state if session.live else State.ENDED),
        session.started_at,
        ended - session.started_at,
    )
