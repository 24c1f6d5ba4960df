"""Records: what programs are given of events, series and measures, one flat object each.

Times are ISO 8601 with the local offset, durations seconds, money US dollars; null is not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from squad_otel.events import EVENT_TYPES, NS
from squad_otel.metrics import BY_NAME, METRICS, Kind
from squad_otel.query.events import Found
from squad_otel.query.journal import JournalBackend
from squad_otel.query.measures import MEASURES, Unit, evaluate
from squad_otel.query.periods import Calendar
from squad_otel.query.series import StoredSeries
from squad_otel.report.render import PROGRAM_UNITS
from squad_otel.report.sections import metrics_of
from squad_otel.report.text import clean

Value = str | int | float | bool | None
Record = Mapping[str, object]

#: What every event has, and what it means.
EVENT_FIELDS: Mapping[str, str] = {
    "seq": "its number in order of arrival",
    "id": "what it is known by; an id comes once",
    "type": "a row of the table of events",
    "occurred_at": "when it happened, to the microsecond",
    "recorded_at": "when the journal took it",
    "fold": "pending (may still be corrected), live (counted), history (before the journal: not)",
    "source": "what saw it",
    "session": "the session's id, or the name that its producer gave where that is not known",
    "session_name": "the session's name",
    "program": "the agent's program",
    "repository": "the repository's folder name",
    "branch": "the branch",
    "duration_s": "how long it took, in seconds",
    "success": "true, false, or null where that is no question",
    "error_type": "why it failed",
}

#: The field of money is stored in billionths of a dollar and given in dollars.
_COST, COST_FIELD = "cost_nusd", "cost_usd"

_OWN = tuple(dict.fromkeys(name for row in EVENT_TYPES.values() for name in row.fields))

#: All keys of an event, in their order: those of each type's own fields follow the common ones.
EVENT_COLUMNS = (*EVENT_FIELDS, *(COST_FIELD if name == _COST else name for name in _OWN))


def event_record(found: Found, calendar: Calendar) -> dict[str, Value]:
    """An event with all its fields, by the keys of EVENT_COLUMNS."""
    event = found.event
    common: dict[str, Value] = {
        "seq": found.seq,
        "id": event.id,
        "type": event.type,
        "occurred_at": calendar.iso_exact(event.occurred_at),
        "recorded_at": calendar.iso_exact(found.recorded_at),
        "fold": str(found.fold),
        "source": event.source,
        "session": event.session,
        "session_name": found.session_name,
        "program": event.program,
        "repository": event.repository,
        "branch": event.branch,
        "duration_s": None if event.duration_ns is None else event.duration_ns / NS,
        "success": event.success,
        "error_type": event.error_type,
    }
    own: dict[str, Value] = {name: event.fields.get(name) for name in _OWN}
    cost = own.pop(_COST)
    own[COST_FIELD] = None if cost is None else int(cost) / 1e9
    values = {**common, **own}
    return {name: _plain(values[name]) for name in EVENT_COLUMNS}


def _plain(value: Value) -> Value:
    return clean(value) if isinstance(value, str) else value


_LABELS = tuple(dict.fromkeys(name for metric in METRICS if metric.feeds for name in metric.labels))

#: The keys of a series, in their order. In CSV each label has a column of its own.
SERIES_FIELDS: Mapping[str, str] = {
    "journal": "the journal's id",
    "metric": "its OpenTelemetry name",
    "prometheus": "its Prometheus name; null: a metric that this version does not know",
    "kind": "counter or histogram",
    "unit": "the unit of `sum`; null: `sum` is as stored",
    "labels": "its labels; in CSV one column `label_<name>` each",
    "born_at": "when its first event came",
    "released_at": "when it was first shown with its value; null: it is still shown as 0",
    "count": "how many events it counted",
    "sum": "a counter's value, a histogram's sum",
    "buckets": "of a histogram, not cumulative: `le` in `unit`, and how many were up to it",
}
SERIES_COLUMNS = tuple(
    column
    for name in SERIES_FIELDS
    for column in ([f"label_{label}" for label in _LABELS] if name == "labels" else [name])
)


def series_record(series: StoredSeries, calendar: Calendar) -> dict[str, object]:
    """A lifetime series as it is stored, whether it is released or not."""
    metric = BY_NAME.get(series.metric)
    return {
        "journal": series.journal,
        "metric": clean(series.metric),
        "prometheus": metric and metric.prometheus,
        "kind": str(Kind.COUNTER if series.buckets is None else Kind.HISTOGRAM),
        "unit": metric and metric.unit,
        "labels": {clean(name): clean(value) for name, value in series.labels.items()},
        "born_at": calendar.iso(series.born_at),
        "released_at": None if series.released_at is None else calendar.iso(series.released_at),
        "count": series.count,
        "sum": series.sum if metric is None else _scaled(series.sum, metric.scale),
        "buckets": _buckets(series),
    }


def _scaled(amount: int, scale: float) -> int | float:
    """An integer stays one; else divided, which rounds once where multiplying rounds twice."""
    return amount if scale == 1 else amount / round(1 / scale)


def _buckets(series: StoredSeries) -> list[dict[str, object]] | None:
    if series.buckets is None:
        return None
    metric = BY_NAME.get(series.metric)
    bounds: list[float] = [*(metric.bounds if metric else ()), math.inf]
    if len(bounds) != len(series.buckets):
        return [{"le": None, "count": count} for count in series.buckets]
    return [
        {"le": "+Inf" if math.isinf(bound) else bound, "count": count}
        for bound, count in zip(bounds, series.buckets, strict=True)
    ]


def flat_series(record: Record) -> dict[str, object]:
    """A series' record by the keys of SERIES_COLUMNS."""
    labels = record["labels"]
    assert isinstance(labels, dict)
    return {**record, **{f"label_{name}": value for name, value in labels.items()}}


STATS_FIELDS: Mapping[str, str] = {
    "since": "the begin of what was read",
    "until": "its end",
    "measure": "the measure's name",
    "title": "as reports call it",
    "unit": "count, s, USD or ratio",
    "value": "the number; null: no data",
    "help": "what it says",
}


def stats_records(
    backend: JournalBackend, calendar: Calendar, since: int, until: int
) -> Iterator[dict[str, object]]:
    """Every measure of a period (UTC ns), one record each. Raises QueryError."""
    reading, _ = backend.read(metrics_of(list(MEASURES)), (since, until))
    begin, end = (reading.since, reading.until) if reading else (since, until)
    answers = {name: evaluate(measure, reading) for name, measure in MEASURES.items()}
    if answers["cost"] == 0 and answers["unpriced"]:
        answers["cost"] = None  # there were answers, none of them with a price
    for name, measure in MEASURES.items():
        value = answers[name]
        if value is not None and measure.unit is Unit.DURATION:
            value /= NS
        elif value is not None and measure.unit is Unit.COST:
            value /= 1e9
        yield {
            "since": calendar.iso(begin),
            "until": calendar.iso(end),
            "measure": name,
            "title": measure.title,
            "unit": PROGRAM_UNITS[measure.unit],
            "value": value,
            "help": measure.help,
        }
