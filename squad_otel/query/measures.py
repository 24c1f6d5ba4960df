"""Measures: questions about a period, one row each, and how they are answered.

A backend says by how much each series of a metric grew, in integers; the rest is here, once, so
that the journal and Prometheus answer alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Protocol

from squad_otel.errors import QueryError
from squad_otel.metrics import BY_NAME, Metric


class Aggregate(StrEnum):
    """How a measure makes one number of the series of its metric."""

    TOTAL = "total"  # the sum of what they gained
    SHARE = "share"  # the part of it whose labels are as `where` says, 0 to 1
    MEAN = "mean"  # sum over count of a histogram
    QUANTILE = "quantile"  # interpolated in a histogram's buckets


class Unit(StrEnum):
    """What a number of a report is; times and money are integers in memory."""

    COUNT = "count"
    DURATION = "ns"  # shown in seconds
    COST = "nusd"  # billionths of a US dollar, shown in dollars
    SHARE = "share"  # 0 to 1
    TIME = "time"  # UTC ns
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Measure:
    """One question. `where` restricts it to label values (of a share: the part that is meant)."""

    name: str
    title: str
    metric: str
    aggregate: Aggregate
    help: str
    unit: Unit = Unit.COUNT
    quantile: float = 0
    where: Mapping[str, str] = field(default_factory=dict)


def _rows(*rows: Measure) -> dict[str, Measure]:
    return {row.name: row for row in rows}


def _total(name: str, title: str, metric: str, text: str, **where: str) -> Measure:
    unit = Unit.COST if metric == "squad.cost.usage" else Unit.COUNT
    return Measure(name, title, metric, Aggregate.TOTAL, text, unit, where=where)


def _share(name: str, title: str, metric: str, text: str, **where: str) -> Measure:
    return Measure(name, title, metric, Aggregate.SHARE, text, Unit.SHARE, where=where)


def _times(name: str, metric: str, what: str, *percentiles: int) -> list[Measure]:
    text = f"Mean length of {what}."
    mean = Measure(f"{name}_mean", "Mean", metric, Aggregate.MEAN, text, Unit.DURATION)
    return [
        mean,
        *(
            Measure(
                f"{name}_p{percentile}",
                f"P{percentile}",
                metric,
                Aggregate.QUANTILE,
                f"{percentile} of 100 {what} were not longer.",
                Unit.DURATION,
                percentile / 100,
            )
            for percentile in percentiles
        ),
    ]


_TOKENS = "squad.token.usage"
_GIT = "squad.git.operations"

MEASURES: Mapping[str, Measure] = _rows(
    _total("sessions_started", "Sessions", "squad.session.starts", "Sessions that began."),
    _total("sessions_ended", "Ended", "squad.session.ends", "Sessions that ended."),
    *_times("session", "squad.session.duration", "sessions that ended", 50, 95),
    _total("commands", "Commands", "squad.commands", "Commands that ended."),
    _total("commands_failed", "Failed", "squad.commands", "Commands that failed.", outcome="error"),
    _share(
        "commands_success",
        "Success",
        "squad.commands",
        "Share of commands that succeeded.",
        outcome="ok",
    ),
    _total("timed_commands", "Timed", "squad.command.duration", "Commands whose length is known."),
    _share(
        "timed_success",
        "Success",
        "squad.command.duration",
        "Share of timed commands that succeeded.",
        error_type="",
    ),
    *_times("command", "squad.command.duration", "timed commands", 50, 95, 99),
    _total(
        "operations", "Timed", "squad.operation.duration", "Operations that `timer()` measured."
    ),
    _share(
        "operations_success",
        "Success",
        "squad.operation.duration",
        "Share of timed operations that succeeded.",
        error_type="",
    ),
    *_times("operation", "squad.operation.duration", "timed operations", 50, 95),
    _total("git_operations", "Git", _GIT, "Commits, pushes, pulls and new branches."),
    _total("git_ok", "OK", _GIT, "Git operations that worked.", outcome="ok"),
    _total("git_failed", "Failed", _GIT, "Git operations that failed.", outcome="error"),
    _total("commits", "Commits", _GIT, "Commits.", operation="commit", outcome="ok"),
    _total("errors", "Errors", "squad.errors", "Errors reported, and commands that failed."),
    _total("tokens", "Tokens", _TOKENS, "Tokens used, of all kinds."),
    _total("tokens_input", "Input", _TOKENS, "Input tokens that no cache held.", type="input"),
    _total("tokens_output", "Output", _TOKENS, "Output tokens.", type="output"),
    _total("tokens_cache_read", "Cache read", _TOKENS, "Input from the cache.", type="cache_read"),
    _total(
        "tokens_cache_creation",
        "Cache write",
        _TOKENS,
        "Input put into the cache.",
        type="cache_creation",
    ),
    _total("cost", "Cost", "squad.cost.usage", "Cost at list price, where it is known."),
    _total("unpriced", "Unpriced", "squad.cost.unpriced", "Model answers without a known price."),
)


@dataclass(frozen=True, slots=True)
class Gain:
    """By how much one series grew: integers, times the metric's scale in its unit.

    `total` is the gain of a counter, or of a histogram's sum. `buckets` are not cumulative, the
    last one is above all bounds; empty on a counter.
    """

    labels: Mapping[str, str]
    total: int
    count: int = 0
    buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the series of some metrics gained in a period.

    `since` and `until` (UTC ns) are the ends really read. `wide` says that each gain has every
    label of its events, not only those that its metric carries.
    """

    since: int
    until: int
    gains: Mapping[str, Sequence[Gain]]
    wide: bool = False

    def has(self, measure: Measure, by: Iterable[str]) -> bool:
        """Whether `measure` can be told apart by these labels here."""
        return self.wide or set(by) <= set(BY_NAME[measure.metric].labels)


class Backend(Protocol):
    """Where readings come from. `name` is what a report calls it, `detail` which one it was."""

    name: str
    detail: str
    journals: Sequence[str]

    def read(
        self, metrics: Sequence[str], edges: Sequence[int], sliced: Sequence[str] = ()
    ) -> tuple[Reading | None, list[Reading | None]]:
        """The gains from the first to the last of `edges` (UTC ns), and from each to the next.

        The slices tell of the metrics in `sliced`, no slices without any. None: nothing is known.
        Raises QueryError.
        """
        ...


Answer = int | float | None


def evaluate(measure: Measure, reading: Reading | None, **where: str) -> Answer:
    """One number: an integer (a share: a float); None where there is no data.

    `where` narrows the series further. A total over a covered period in which nothing happened
    is 0; a mean, share or percentile of nothing is None.
    """
    if reading is None:
        return None
    return _aggregate(measure, _matching(_gains(measure, reading, where), where))


def evaluate_by(
    measure: Measure, reading: Reading | None, by: Sequence[str]
) -> dict[tuple[str, ...], Answer]:
    """The number for each combination of these labels' values that gained something."""
    if reading is None:
        return {}
    groups: dict[tuple[str, ...], list[Gain]] = {}
    for gain in _gains(measure, reading, by):
        if gain.total or gain.count:
            groups.setdefault(tuple(gain.labels[name] for name in by), []).append(gain)
    return {key: _aggregate(measure, gains) for key, gains in groups.items()}


def _gains(measure: Measure, reading: Reading, labels: Iterable[str]) -> Sequence[Gain]:
    if not reading.has(measure, labels):
        raise QueryError(
            f"{measure.name} cannot be told apart by {', '.join(labels)} here: "
            f"{measure.metric} carries {', '.join(BY_NAME[measure.metric].labels)}; "
            "ask the journal (--source journal)"
        )
    return reading.gains.get(measure.metric, ())


def _matching(gains: Iterable[Gain], where: Mapping[str, str]) -> list[Gain]:
    return [g for g in gains if all(g.labels[name] == value for name, value in where.items())]


def _aggregate(measure: Measure, gains: Sequence[Gain]) -> Answer:
    metric = BY_NAME[measure.metric]
    if measure.aggregate is Aggregate.SHARE:
        whole = sum(_amount(metric, gain) for gain in gains)
        part = sum(_amount(metric, gain) for gain in _matching(gains, measure.where))
        return part / whole if whole else None
    chosen = _matching(gains, measure.where)
    if measure.aggregate is Aggregate.TOTAL:
        return sum(_amount(metric, gain) for gain in chosen)
    count = sum(gain.count for gain in chosen)
    if count == 0:
        return None
    if measure.aggregate is Aggregate.MEAN:
        return round(sum(gain.total for gain in chosen) / count)
    buckets = [sum(column) for column in zip(*(gain.buckets for gain in chosen), strict=True)]
    value = quantile(measure.quantile, metric.bounds, buckets)
    return None if value is None else round(value / metric.scale)


def _amount(metric: Metric, gain: Gain) -> int:
    return gain.count if metric.bounds else gain.total


def quantile(share: float, bounds: Sequence[float], buckets: Sequence[int]) -> float | None:
    """The quantile `share` (0 to 1) of a histogram, as Prometheus's `histogram_quantile` does it.

    Linear in the bucket that it falls in, the first of which begins at 0; what is above all
    bounds counts as the highest of them. None for an empty histogram.
    """
    cumulative = list(accumulate(buckets))
    if not cumulative or cumulative[-1] == 0:
        return None
    rank = share * cumulative[-1]
    index = next((i for i, n in enumerate(cumulative[:-1]) if n >= rank), len(bounds))
    if index == len(bounds):
        return bounds[-1]
    low = bounds[index - 1] if index else 0.0
    below = cumulative[index - 1] if index else 0
    return low + (bounds[index] - low) * ((rank - below) / buckets[index])


def add_up(readings: Sequence[Reading | None]) -> Reading | None:
    """Readings that follow each other, or that stand side by side, as one."""
    known = [reading for reading in readings if reading is not None]
    if not known:
        return None
    totals: dict[str, dict[tuple[tuple[str, str], ...], Gain]] = {}
    for reading in known:
        for name, gains in reading.gains.items():
            metric = totals.setdefault(name, {})
            for gain in gains:
                key = tuple(gain.labels.items())
                metric[key] = _plus(metric[key], gain) if key in metric else gain
    return Reading(
        min(reading.since for reading in known),
        max(reading.until for reading in known),
        {name: list(gains.values()) for name, gains in totals.items()},
        known[0].wide,
    )


def _plus(one: Gain, two: Gain) -> Gain:
    return Gain(
        one.labels,
        one.total + two.total,
        one.count + two.count,
        tuple(a + b for a, b in zip(one.buckets, two.buckets, strict=True)),
    )
