"""Any label value goes out, and comes back as it was, in both exposition formats."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from squad_otel.export.points import Sample, points
from squad_otel.export.prometheus import render
from squad_otel.journal import Shown
from squad_otel.metrics import BY_NAME
from tests.hostile import EVIL, texts

PARSERS = {"": plain_text, "application/openmetrics-text;version=1.0.0": open_metrics}


@pytest.mark.parametrize("accept", PARSERS, ids=["text", "openmetrics"])
def test_a_label_value_comes_back_as_it_was(accept: str) -> None:
    prompts, duration = BY_NAME["squad.prompts"], BY_NAME["squad.operation.duration"]
    buckets = (1,) * (len(duration.bounds) + 1)

    @settings(max_examples=100, deadline=None)
    @given(value=texts)
    def holds(value: str) -> None:
        shown = [
            Shown(prompts, (value,) * len(prompts.labels), 3, 3, None),
            Shown(duration, (value,) * len(duration.labels), len(buckets), 9, buckets),
        ]
        sample = Sample("squad.otel.info", {"version": value}, 1)
        body, _ = render(points("j", shown, [sample]), accept)
        families = list(PARSERS[accept](body.decode()))
        assert {family.type for family in families} == {"gauge", "counter", "histogram"}
        sent = value.encode(errors="replace").decode()
        found = [s for family in families for s in family.samples]
        assert len(found) == 1 + 1 + len(buckets) + 2
        for one in found:
            labels = {k: v for k, v in one.labels.items() if k not in ("journal", "le")}
            assert set(labels.values()) == {sent}

    for value in EVIL:
        holds = example(value=value)(holds)
    holds()
