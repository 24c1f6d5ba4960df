"""The text that Prometheus scrapes: literal lines, both formats, and promtool's opinion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from squad_otel.export.points import Sample, points
from squad_otel.export.prometheus import render
from squad_otel.journal import Shown
from squad_otel.metrics import BY_NAME, METRICS, Kind
from tests.unit.export.day import HOSTILE, day_points, open_journal

OPEN_METRICS = "application/openmetrics-text;version=1.0.0"

#: What Prometheus 3 sends.
PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.fixture
def day(tmp_path: Path):
    journal = open_journal(tmp_path)
    found = day_points(journal)
    journal.close()
    return found


@pytest.mark.parametrize(
    "accept", ["text/plain;version", ";;;=", "application/openmetrics-text;version=x", "é"]
)
def test_a_malformed_accept_header_is_answered_too(day, accept: str) -> None:
    body, kind = render(day, accept)
    assert kind.startswith(("text/plain", "application/openmetrics-text"))
    assert body


def all_metrics():
    """A point of each metric in the table."""
    shown, samples = [], []
    for metric in METRICS:
        if metric.kind is Kind.HISTOGRAM:
            buckets = (1,) * (len(metric.bounds) + 1)
            shown.append(Shown(metric, ("x",) * len(metric.labels), len(buckets), 9, buckets))
        elif metric.kind is Kind.COUNTER:
            shown.append(Shown(metric, ("x",) * len(metric.labels), 1, 1, None))
        else:
            samples.append(Sample(metric.name, dict.fromkeys(metric.labels, "x"), 1))
    return points("j", shown, samples)


def test_the_text_of_a_counter_a_gauge_and_a_histogram() -> None:
    duration = BY_NAME["squad.operation.duration"]
    buckets = (0, 2, *(0,) * 14, 1, 4)
    text, kind = render(
        points(
            "j1",
            [
                Shown(BY_NAME["squad.prompts"], ("claude", "shop"), 3, 3, None),
                Shown(duration, ("claude", "build", ""), 7, 5_000_000_001, buckets),
            ],
            [Sample("squad.otel.info", {"version": "1.2.3"}, 1)],
        ),
        "",
    )
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    labels = 'error_type="",journal="j1"'
    tail = 'operation="build",program="claude"'
    bounds = (
        ("0.01", 0),
        *((le, 2) for le in ("0.02", "0.04", "0.08", "0.16", "0.32", "0.64", "1.28", "2.56")),
        *((le, 2) for le in ("5.12", "10.24", "20.48", "40.96", "81.92", "163.84", "327.68")),
        ("655.36", 3),
        ("+Inf", 7),
    )
    name = "squad_operation_duration_seconds"
    assert text.decode().splitlines() == [
        "# HELP squad_prompts_total Prompts given to agents.",
        "# TYPE squad_prompts_total counter",
        'squad_prompts_total{journal="j1",program="claude",repository="shop"} 3.0',
        f"# HELP {name} How long timed operations took.",
        f"# TYPE {name} histogram",
        *(f'{name}_bucket{{{labels},le="{le}",{tail}}} {count}.0' for le, count in bounds),
        f"{name}_count{{{labels},{tail}}} 7.0",
        f"{name}_sum{{{labels},{tail}}} 5.000000001",
        "# HELP squad_otel_info 1; the daemon's version.",
        "# TYPE squad_otel_info gauge",
        'squad_otel_info{journal="j1",version="1.2.3"} 1.0',
    ]


def test_openmetrics_is_given_to_those_who_ask_and_says_the_same(day) -> None:
    text, text_kind = render(day, "text/plain")
    wanted, wanted_kind = render(day, PROMETHEUS_ACCEPTS)
    assert text_kind.startswith("text/plain")
    assert wanted_kind.startswith("application/openmetrics-text; version=1.0.0")
    assert wanted.endswith(b"# EOF\n")

    def samples(families):
        return {
            (s.name, tuple(sorted(s.labels.items())), s.value)
            for family in families
            for s in family.samples
        }

    plain = samples(plain_text(text.decode()))
    assert plain == samples(open_metrics(wanted.decode()))
    assert len(plain) == sum(not line.startswith("#") for line in text.decode().splitlines())


def test_hostile_label_values_come_back_as_they_were(day) -> None:
    text, _ = render(day, "")
    values = {
        value
        for family in plain_text(text.decode())
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert HOSTILE in values  # a gauge's: the journal's own are put on one line
    assert HOSTILE.replace("\n", " ") in values


@pytest.mark.parametrize("accept", ["", OPEN_METRICS])
def test_every_metric_has_the_name_of_its_row_and_no_created_series(accept: str) -> None:
    text, _ = render(all_metrics(), accept)
    parse = open_metrics if accept else plain_text
    kinds = {}
    for family in parse(text.decode()):
        suffix = "_total" if family.type == "counter" else ""
        kinds[family.name + suffix] = family.type
    expected = {Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
    assert kinds == {m.prometheus: expected.get(m.kind, "counter") for m in METRICS}
    assert not re.search(rb"_created[{ ]", text)


def test_promtool_finds_nothing_to_say() -> None:
    tools = Path(__file__).parents[3] / ".tools" / "bin"
    promtool = shutil.which("promtool", path=f"{tools}:{os.environ['PATH']}")
    assert promtool is not None, "promtool is missing: `make setup` brings it"
    text, _ = render(all_metrics(), "")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_nothing_to_show_is_an_empty_page() -> None:
    assert render([], "") == (b"", "text/plain; version=0.0.4; charset=utf-8")
