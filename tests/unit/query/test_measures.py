"""How an answer is made of what series gained."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squad_otel.errors import QueryError
from squad_otel.metrics import BY_NAME
from squad_otel.query.measures import (
    MEASURES,
    Gain,
    Reading,
    add_up,
    evaluate,
    evaluate_by,
    quantile,
)

BOUNDS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, [0, 10, 0, 0], 1.5),  # the middle of the bucket from 1 to 2
        (0.5, [4, 0, 0, 0], 0.5),  # the first bucket begins at 0
        (0.75, [2, 0, 2, 0], 3.0),
        (0.5, [2, 0, 2, 0], 1.0),  # rank 2 is reached at the end of the first bucket
        (0.99, [1, 0, 0, 9], 4.0),  # above all bounds: the highest
        (0.5, [0, 0, 0, 0], None),
        (0.5, [], None),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(
    share: float, buckets: list[int], expected: float | None
) -> None:
    assert quantile(share, BOUNDS, buckets) == expected


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_a_quantile_lies_in_the_bucket_of_the_value_it_stands_for(
    values: list[float], share: float
) -> None:
    buckets = [0] * 4
    for value in values:
        buckets[bisect_left(BOUNDS, value)] += 1
    found = quantile(share, BOUNDS, buckets)
    rank = next(i for i in range(len(values)) if i + 1 >= share * len(values))
    bucket = bisect_left(BOUNDS, sorted(values)[rank])
    assert found is not None
    low, high = (0, *BOUNDS)[bucket], (*BOUNDS, BOUNDS[-1])[bucket]
    assert low <= found <= high


def reading(*gains: Gain, metric: str = "squad.commands", wide: bool = False) -> Reading:
    return Reading(0, 10, {metric: list(gains)}, wide)


def commands(total: int, outcome: str, repository: str = "shop") -> Gain:
    labels = {"program": "claude", "repository": repository, "tool": "exec", "outcome": outcome}
    return Gain(labels, total)


def test_no_data_is_not_zero() -> None:
    total, share = MEASURES["commands"], MEASURES["commands_success"]
    assert evaluate(total, None) is None
    assert evaluate(total, reading()) == 0
    assert evaluate(share, None) is None
    assert evaluate(share, reading()) is None
    assert evaluate(MEASURES["command_p95"], reading()) is None
    assert evaluate(MEASURES["command_mean"], reading()) is None
    assert evaluate_by(total, None, ("program",)) == {}


def test_shares_and_groups() -> None:
    found = reading(commands(3, "ok"), commands(1, "error"), commands(5, "ok", "docs"))
    assert evaluate(MEASURES["commands_success"], found) == 8 / 9
    assert evaluate(MEASURES["commands_failed"], found) == 1
    assert evaluate(MEASURES["commands"], found, repository="shop") == 4
    assert evaluate_by(MEASURES["commands_success"], found, ("repository",)) == {
        ("shop",): 0.75,
        ("docs",): 1.0,
    }


def test_a_label_that_the_metric_has_not_is_only_for_the_journal() -> None:
    measure = MEASURES["command_p95"]
    narrow = reading(metric="squad.command.duration")
    assert not narrow.has(measure, ("repository",))
    with pytest.raises(QueryError, match="--source journal"):
        evaluate_by(measure, narrow, ("repository",))
    assert reading(metric="squad.command.duration", wide=True).has(measure, ("repository",))


def test_readings_add_up_series_by_series() -> None:
    one = reading(commands(3, "ok"))
    two = Reading(10, 20, {"squad.commands": [commands(4, "ok"), commands(1, "error")]})
    both = add_up([one, None, two])
    assert both is not None
    assert (both.since, both.until) == (0, 20)
    assert sorted((g.labels["outcome"], g.total) for g in both.gains["squad.commands"]) == [
        ("error", 1),
        ("ok", 7),
    ]
    assert add_up([None]) is None


def test_every_measure_asks_for_labels_that_its_metric_has() -> None:
    for measure in MEASURES.values():
        assert set(measure.where) <= set(BY_NAME[measure.metric].labels), measure.name
