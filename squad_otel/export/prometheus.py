"""The Prometheus output: points as text or OpenMetrics, whichever the scraper asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from squad_otel.export.points import JOURNAL_LABEL, Distribution, Point, by_metric
from squad_otel.metrics import Kind, Metric


class PointCollector(Collector):
    """Points as families of prometheus_client. It belongs to no registry."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def collect(self) -> Iterator[Family]:
        """One family a metric, in the order of the points."""
        for group in by_metric(self._points).values():
            yield _family(group[0].metric, group)


def render(points: Sequence[Point], accept: str) -> tuple[bytes, str]:
    """The body and its content type for a request with the header `Accept: <accept>`."""
    try:
        encode, content_type = choose_encoder(accept)
    except (
        ValueError,
        IndexError,
        TypeError,
    ):  # a header that is none: the plain text is for everybody
        encode, content_type = choose_encoder("")
    return encode(PointCollector(points)), content_type


def _family(metric: Metric, points: Sequence[Point]) -> Family:
    name, labels = metric.prometheus, (JOURNAL_LABEL, *metric.labels)
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, metric.help, labels=labels)
        bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
        for point in points:
            assert isinstance(point.value, Distribution)
            totals = accumulate(point.value.buckets)
            buckets = list(zip(bounds, totals, strict=True))
            histogram.add_metric(_values(point), buckets, point.value.sum)
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.GAUGE:
        family = GaugeMetricFamily(name, metric.help, labels=labels)
    else:
        family = CounterMetricFamily(name, metric.help, labels=labels)
    for point in points:
        assert not isinstance(point.value, Distribution)
        family.add_metric(_values(point), point.value)
    return family


def _values(point: Point) -> list[str]:
    return [value for _, value in point.labels]
