"""The list of points: exact values in the metric's unit, complete labels, nothing unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from squad_otel.export.points import Distribution, Point, Sample, points
from squad_otel.journal import Shown
from squad_otel.metrics import BY_NAME, METRICS
from tests.unit.export.day import day_points, open_journal

COST = BY_NAME["squad.cost.usage"]
COMMANDS = BY_NAME["squad.commands"]


def test_every_point_has_the_journal_and_its_metrics_labels_in_order(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    found = day_points(journal)
    journal.close()
    assert found
    for point in found:
        assert point.labels[0] == ("journal", journal.id)
        assert tuple(name for name, _ in point.labels[1:]) == point.metric.labels
    order = [METRICS.index(point.metric) for point in found]
    assert order == sorted(order), "a metric's points stand together, in the order of the table"


@pytest.mark.parametrize(
    ("nano_usd", "usd"), [(0, 0), (1, 1e-9), (1_100_000_000, 1.1), (3_300_000_007, 3.300000007)]
)
def test_cost_is_rounded_once(nano_usd: int, usd: float) -> None:
    (point,) = points("j", [Shown(COST, ("claude", "shop", "m"), 1, nano_usd, None)], [])
    assert point.value == usd


def test_counts_stay_integers() -> None:
    (point,) = points("j", [Shown(COMMANDS, ("claude", "shop", "exec", "ok"), 7, 7, None)], [])
    assert (point.value, type(point.value)) == (7, int)


def test_a_held_series_is_shown_with_zeros(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, released=False)
    held = points(journal.id, journal.shown(), [])
    journal.close()
    assert held
    for point in held:
        value = point.value
        if isinstance(value, Distribution):
            assert (value.count, value.sum, sum(value.buckets)) == (0, 0, 0)
        else:
            assert value == 0


def test_a_sample_of_no_metric_or_with_other_labels_is_a_defect() -> None:
    with pytest.raises(KeyError):
        points("j", [], [Sample("squad.nothing", {}, 1)])
    with pytest.raises(ValueError, match=r"squad\.otel\.info has the labels"):
        points("j", [], [Sample("squad.otel.info", {}, 1)])


def test_text_that_cannot_be_encoded_is_replaced() -> None:
    (point,) = points("j", [], [Sample("squad.otel.info", {"version": "é\ud800"}, 1)])
    assert point == Point(BY_NAME["squad.otel.info"], (("journal", "j"), ("version", "é?")), 1)
