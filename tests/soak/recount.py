"""Series against events: the lifetime series, the roll-ups and Prometheus, from a recount."""

from __future__ import annotations

import json
import math
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

from squad_otel.metrics import BY_NAME, CONDITIONS, LABELS, METRICS, Feed, Metric
from squad_otel.rollups import SUMS

#: A metric, its labels' values in the metric's order, and what of it: "count", "sum", a bucket.
Place = tuple[str, tuple[str, ...], str | int]
Totals = Counter[Place]

_COUNTED = [metric for metric in METRICS if metric.feeds]
_SHOWN = 8


def of_series(db: sqlite3.Connection) -> Totals:
    """What the series say."""
    totals: Totals = Counter()
    for metric, labels, count, total, buckets in db.execute(
        "SELECT metric, labels, count, sum, buckets FROM series"
    ):
        values = tuple(json.loads(labels).values())
        totals[metric, values, "count"] = count
        totals[metric, values, "sum"] = total
        for i, number in enumerate(json.loads(buckets or "[]")):
            totals[metric, values, i] = number
    return totals


def of_events(db: sqlite3.Connection) -> Totals:
    """What the live events add up to, each on its own."""
    totals: Totals = Counter()
    for metric in _COUNTED:
        for feed in metric.feeds:
            _add_feed(db, metric, feed, totals)
    return totals


def _add_feed(db: sqlite3.Connection, metric: Metric, feed: Feed, totals: Totals) -> None:
    columns = ", ".join(f"l.{name}" for name in LABELS)
    rows = db.execute(
        f"SELECT {feed.value}, {columns} FROM events e JOIN label_sets l ON l.id = e.labels "
        f"WHERE state = 'live' AND type = ? AND {feed.value} IS NOT NULL "
        f"AND {CONDITIONS[feed.when].sql}",
        (feed.event,),
    )
    for amount, *values in rows:
        bounded = {**dict(zip(LABELS, values, strict=True)), **feed.labels}
        labels = tuple(bounded[name] for name in metric.labels)
        totals[metric.name, labels, "count"] += 1
        totals[metric.name, labels, "sum"] += amount
        if metric.bounds:
            seconds = amount * metric.scale
            totals[metric.name, labels, bisect_left(metric.bounds, seconds)] += 1


def of_pruned(db: sqlite3.Connection) -> Totals:
    """What events added up to that are in the series and no longer in the journal: none yet."""
    return Counter()


def differences(db: sqlite3.Connection) -> list[str]:
    """Where the series and the roll-ups are not what the events, and those pruned, add up to."""
    events = of_events(db)
    events.update(of_pruned(db))
    said = _compared("series", of_series(db), events)
    return said + _compared("roll-ups", _rolled(db), _live(db))


def _rolled(db: sqlite3.Connection) -> Totals:
    """What the roll-ups hold, by type of event: how many, and each of their sums."""
    totals: Totals = Counter()
    for name in SUMS:
        rows = db.execute(f"SELECT type, sum({name}) FROM rollups GROUP BY type")
        totals.update({(kind, (), name): total for kind, total in rows})
    return totals


def _live(db: sqlite3.Connection) -> Totals:
    """The same of the live events. What was pruned will have to be added."""
    columns = {"n": "1", "priced": "cost_nusd IS NOT NULL", "timed": "duration_ns IS NOT NULL"}
    totals: Totals = Counter()
    for name in SUMS:
        rows = db.execute(
            f"SELECT type, coalesce(sum({columns.get(name, name)}), 0) FROM events "
            "WHERE state = 'live' GROUP BY type"
        )
        totals.update({(kind, (), name): total for kind, total in rows})
    return totals


def _compared(what: str, said: Totals, happened: Totals) -> list[str]:
    places = [p for p in said.keys() | happened.keys() if said[p] != happened[p]]
    found = [
        f"{what} {name}{{{', '.join(labels)}}} {part}: "
        f"{said[name, labels, part]}, recounted {happened[name, labels, part]}"
        for name, labels, part in sorted(places, key=str)[:_SHOWN]
    ]
    return found + ([f"… {what}: {len(places)} differ"] if len(places) > _SHOWN else [])


# -- Prometheus -----------------------------------------------------------------------------------

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(db: sqlite3.Connection) -> dict[Sample, float]:
    """The samples that Prometheus has of these series when all is shown."""
    found: dict[Sample, float] = {}
    for name, labels, count, total, buckets in db.execute(
        "SELECT metric, labels, count, sum, buckets FROM series"
    ):
        metric = BY_NAME[name]
        known = frozenset((k, v) for k, v in json.loads(labels).items() if v)
        if not metric.bounds:
            found[metric.prometheus, known] = total * metric.scale
            continue
        found[metric.prometheus + "_count", known] = count
        found[metric.prometheus + "_sum", known] = total * metric.scale
        edges = [*metric.bounds, math.inf]
        for edge, number in zip(edges, accumulate(json.loads(buckets)), strict=True):
            le = "+Inf" if edge == math.inf else repr(edge)
            found[metric.prometheus + "_bucket", known | {("le", le)}] = number
    return found


def first_name(metric: str) -> str:
    """The name of one sample of each series of a metric."""
    return BY_NAME[metric].prometheus + ("_count" if BY_NAME[metric].bounds else "")


def sample_names() -> list[str]:
    """Every name under which a lifetime series is in Prometheus."""
    return [
        metric.prometheus + part
        for metric in _COUNTED
        for part in (("_count", "_sum", "_bucket") if metric.bounds else ("",))
    ]


def prometheus_differences(
    shown: Mapping[Sample, float], expected: Mapping[Sample, float]
) -> list[str]:
    """Where Prometheus's last values are not the journal's. Sums of seconds are floats there."""
    differing = [
        key
        for key in shown.keys() | expected.keys()
        if key not in shown
        or key not in expected
        or not math.isclose(shown[key], expected[key], rel_tol=1e-12)
    ]
    return [
        f"{name}{{{', '.join(f'{k}={v}' for k, v in sorted(labels))}}} in Prometheus: "
        f"{shown.get((name, labels))}, journal {expected.get((name, labels))}"
        for name, labels in sorted(differing, key=str)[:_SHOWN]
    ]
