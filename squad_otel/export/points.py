"""Points: the one list that the scrape and the push both render, so that they cannot differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from squad_otel.journal import Shown
from squad_otel.metrics import BY_NAME, METRICS, Kind, Metric

#: The label that every series has: the journal's id. A new journal is a new series.
JOURNAL_LABEL = "journal"
#: Kinds whose numbers begin with the journal; those of a resetting counter with the process.
LIFETIME_KINDS = (Kind.COUNTER, Kind.HISTOGRAM)


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of this moment: a gauge, or a counter of this process, by the metric's name."""

    metric: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's numbers: observations, their sum in the metric's unit, and each bucket's own.

    `buckets` are not cumulative and have one more than the metric has bounds.
    """

    count: int
    sum: float
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One series as both outputs show it; `labels` are its pairs, the journal's first."""

    metric: Metric
    labels: tuple[tuple[str, str], ...]
    value: float | Distribution


def points(journal: str, shown: Iterable[Shown], samples: Iterable[Sample]) -> list[Point]:
    """All series of a journal, in the order of the table of metrics.

    `shown` are the lifetime series of the journal with the id `journal`, `samples` the rest.
    Raises KeyError for a metric that is not in the table, ValueError for other labels than its own.
    """
    groups: dict[str, list[Point]] = {metric.name: [] for metric in METRICS}
    first = (JOURNAL_LABEL, journal)
    for series in shown:
        metric = series.metric
        labels = (first, *zip(metric.labels, map(_sendable, series.labels), strict=True))
        groups[metric.name].append(Point(metric, labels, _lifetime_value(series)))
    for sample in samples:
        metric = BY_NAME[sample.metric]
        if sample.labels.keys() != set(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {sample.labels}")
        pairs = ((name, _sendable(sample.labels[name])) for name in metric.labels)
        groups[metric.name].append(Point(metric, (first, *pairs), sample.value))
    return [point for group in groups.values() for point in group]


def by_metric(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each metric by its name; each output shows a metric in one piece."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.metric.name, []).append(point)
    return groups


def _lifetime_value(series: Shown) -> float | Distribution:
    if series.buckets is not None:
        return Distribution(series.count, _in_unit(series.metric, series.sum), series.buckets)
    return _in_unit(series.metric, series.sum)


def _in_unit(metric: Metric, value: int) -> float:
    """`value` times the metric's scale, rounded once: 1.1 dollars and not 1.1000000000000001."""
    return value if metric.scale == 1 else value / round(1 / metric.scale)


def _sendable(text: str) -> str:
    """Text that can be encoded: one lone surrogate would cost the whole scrape and every push."""
    return text if text.isascii() else text.encode(errors="replace").decode()
