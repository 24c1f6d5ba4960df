"""The OTLP output: metrics pushed as finished data points, spans sent from a cursor.

The SDK's exporters encode and send (http/protobuf); none of its pipelines, which drop, is used.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from squad_otel import __version__
from squad_otel.errors import ExportError, SettingsError
from squad_otel.export.points import LIFETIME_KINDS, Distribution, Point, by_metric
from squad_otel.export.spans import span
from squad_otel.journal import Journal
from squad_otel.metrics import Kind, Metric

#: Spans in one request. Also how many events are read at once: most of them are spans.
BATCH_SPANS = 512

#: Answers after which the same spans would be refused again, says OTLP.
_REFUSED_FOR_GOOD = (400, 413, 422)
#: What the cursor over the journal is called.
SPAN_CURSOR = "spans"

#: A whole export, its repetitions included. More is possible by OpenTelemetry's variables.
_TIMEOUT_S = 2.0
_MAX_TIMEOUT_S = 30.0

_CUMULATIVE = AggregationTemporality.CUMULATIVE
# Without name and version: a Collector in its default form makes labels of them.
_METRIC_SCOPE = InstrumentationScope("")


class MetricPusher:
    """Pushes points. Its methods may be called from any thread."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        """`url` is the whole address, `/v1/metrics` included; nothing is sent yet."""
        self._session = _Session(url)
        self._exporter = OTLPMetricExporter(endpoint=url, timeout=timeout_s, session=self._session)
        self._closed = False
        _quiet(OTLPMetricExporter)

    @classmethod
    def from_settings(
        cls, otlp_endpoint: str, own: str, environ: Mapping[str, str] = os.environ
    ) -> MetricPusher | None:
        """The pusher that the settings ask for, None where they ask for none; see `target`."""
        url = target("metrics", otlp_endpoint, own, environ)
        return None if url is None else cls(url, timeout_s("metrics", environ))

    def push(
        self, journal: str, points: Sequence[Point], created_at: int, started_at: int, now: int
    ) -> None:
        """Send `points` as they are at `now`. Raises ExportError when they were not accepted.

        `created_at` is when the journal began, `started_at` when the process did (all UTC ns).
        A push that failed loses nothing: the next one says all of it again.
        """
        data = metrics_data(journal, points, created_at, started_at, now)
        sent = self._session.sent(lambda: self._exporter.export(data) is MetricExportResult.SUCCESS)
        if not sent and not self._closed:
            raise self._session.failure("metrics")

    def close(self) -> None:
        """End waiting for another try; a push under way then ends without an error."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()


class SpanSender:
    """Sends the spans of a journal in the order of folding, each at least once."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        """`url` is the whole address, `/v1/traces` included; nothing is sent yet."""
        self._session = _Session(url)
        self._exporter = OTLPSpanExporter(endpoint=url, timeout=timeout_s, session=self._session)
        self._closed = False
        self._limit = BATCH_SPANS
        #: How many spans were refused for good, each alone; they are not sent again.
        self.refused = 0
        # The journal may be closed as soon as `close` returned.
        self._using_journal = threading.Lock()
        _quiet(OTLPSpanExporter)

    @classmethod
    def from_settings(
        cls, otlp_endpoint: str, own: str, environ: Mapping[str, str] = os.environ
    ) -> SpanSender | None:
        """The sender that the settings ask for, None where they ask for none; see `target`."""
        url = target("traces", otlp_endpoint, own, environ)
        return None if url is None else cls(url, timeout_s("traces", environ))

    def step(self, journal: Journal) -> bool:
        """Send the next spans and move the cursor past them; whether more may be waiting.

        Raises ExportError when they were not accepted: the cursor stays and the same spans come
        again. A crash between the answer and the cursor sends identical spans a second time.
        Spans that are refused for good (a bad request, too large) are sent in ever smaller parts,
        so that only those that are the cause are left out, and counted.
        """
        limit = self._limit
        with self._using_journal:
            if self._closed:
                return False
            events = journal.folded_after(journal.cursor(SPAN_CURSOR), limit)
        if not events:
            return False
        about = resource(journal.id)
        spans = [made for event in events if (made := span(event, about)) is not None]
        sent = not spans or self._session.sent(
            lambda: self._exporter.export(spans) is SpanExportResult.SUCCESS
        )
        with self._using_journal:
            if self._closed:
                return False
            if not sent:
                if self._session.status not in _REFUSED_FOR_GOOD:
                    raise self._session.failure("spans")
                if limit > 1:
                    self._limit = limit // 2
                    return True
                self.refused += 1
            else:
                self._limit = min(2 * limit, BATCH_SPANS)
            last = events[-1].folded
            assert last is not None
            journal.move_cursor(SPAN_CURSOR, last)
        return len(events) == limit

    def close(self) -> None:
        """End waiting for another try. Afterwards the journal is not touched any more."""
        with self._using_journal:
            if self._closed:
                return
            self._closed = True
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


# -- where to ---------------------------------------------------------------------------------


def target(
    signal: str, otlp_endpoint: str, own: str, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The whole URL to send `signal` (`metrics` or `traces`) to, or None where it is not wanted.

    `otlp_endpoint` is the setting, a base URL; empty, OTEL_EXPORTER_OTLP_<SIGNAL>_ENDPOINT (whole)
    or OTEL_EXPORTER_OTLP_ENDPOINT (base) counts: in a shell these are often meant for the agents,
    so the setting comes first. OTEL_SDK_DISABLED=true, or an OTEL_<SIGNAL>_EXPORTER without
    `otlp`, turns it off. Raises SettingsError for an address that cannot be used, for one that is
    `own` (`host:port` of the daemon), and for a protocol other than http/protobuf.
    """
    name = signal.upper()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporters = environ.get(f"OTEL_{name}_EXPORTER") or "otlp"
    if "otlp" not in [word.strip() for word in exporters.split(",")]:
        return None
    whole, base = f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    if otlp_endpoint:
        where, url = "otlp_endpoint", f"{otlp_endpoint.rstrip('/')}/v1/{signal}"
    elif environ.get(whole):
        where, url = whole, environ[whole]
    elif environ.get(base):
        where, url = base, f"{environ[base].rstrip('/')}/v1/{signal}"
    else:
        return None
    if not otlp_endpoint:
        _check_protocol(name, environ)
    _check_address(url, where, own)
    return url


def timeout_s(signal: str, environ: Mapping[str, str] = os.environ) -> float:
    """Seconds that one export may take: 2, or what OTEL_EXPORTER_OTLP_[<SIGNAL>_]TIMEOUT says.

    That is read as seconds, as the Python exporter does, and from 1,000 up as milliseconds, as
    the specification says; at most 30 s. Raises SettingsError when it is no positive number.
    """
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"):
        text = environ.get(name)
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not value > 0:
            raise SettingsError(f"{name} = {text!r} is not possible: it must be a positive number")
        return min(value / 1000 if value >= 1000 else value, _MAX_TIMEOUT_S)
    return _TIMEOUT_S


def _check_protocol(name: str, environ: Mapping[str, str]) -> None:
    for variable in (f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(variable, "").strip()
        if protocol == "http/protobuf":
            return
        if protocol:
            raise SettingsError(
                f"{variable} = {protocol!r} is not possible: it must be http/protobuf; "
                "if it is meant for other programs, set otlp_endpoint, which goes before it"
            )


def _check_address(url: str, where: str, own: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, a broken IPv6 address
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise SettingsError(
            f"{where} = {without_userinfo(url)!r} is not possible: "
            "it must be a URL such as http://127.0.0.1:4318"
        )
    port = port or (443 if parts.scheme == "https" else 80)
    if str(port) == own.rpartition(":")[2] and _is_this_machine(host):
        raise SettingsError(
            f"{where} = {without_userinfo(url)!r} is the daemon's own address ({own}): "
            "give the address of an OTLP receiver"
        )


def without_userinfo(url: str) -> str:
    """A URL as it may be logged: what stands before an @ in its address is left out."""
    scheme, mark, rest = url.partition("://")
    address, slash, path = rest.partition("/")
    return f"{scheme}{mark}{address.rpartition('@')[2]}{slash}{path}" if mark else url


def _is_this_machine(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


# -- what is sent -----------------------------------------------------------------------------


@lru_cache(maxsize=8)
def resource(journal: str) -> Resource:
    """Who speaks: this program, with an instance id made from the journal's id, and no more."""
    instance = uuid.uuid5(uuid.NAMESPACE_URL, f"squad-otel:journal:{journal}")
    return Resource(
        {
            "service.name": "squad",
            "service.version": __version__,
            "service.instance.id": str(instance),
        }
    )


def metrics_data(
    journal: str, points: Sequence[Point], created_at: int, started_at: int, now: int
) -> MetricsData:
    """Points as the exporter takes them; see `MetricPusher.push` for the times."""
    metrics = []
    for group in by_metric(points).values():
        metric = group[0].metric
        start = created_at if metric.kind in LIFETIME_KINDS else started_at
        metrics.append(
            MetricData(metric.name, metric.help, metric.unit, _data(metric, group, start, now))
        )
    scope = ScopeMetrics(_METRIC_SCOPE, metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource(journal), [scope], schema_url="")])


def _data(metric: Metric, points: Sequence[Point], start: int, now: int) -> Sum | Gauge | Histogram:
    if metric.kind is Kind.HISTOGRAM:
        return Histogram([_histogram(point, start, now) for point in points], _CUMULATIVE)
    if metric.kind is Kind.GAUGE:
        return Gauge([_number(point, 0, now) for point in points])
    return Sum([_number(point, start, now) for point in points], _CUMULATIVE, is_monotonic=True)


def _number(point: Point, start: int, now: int) -> NumberDataPoint:
    assert not isinstance(point.value, Distribution)
    return NumberDataPoint(dict(point.labels), start, now, point.value)


def _histogram(point: Point, start: int, now: int) -> HistogramDataPoint:
    value = point.value
    assert isinstance(value, Distribution)
    return HistogramDataPoint(
        attributes=dict(point.labels),
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=value.count,
        sum=value.sum,
        bucket_counts=value.buckets,
        explicit_bounds=point.metric.bounds,
        min=None,  # type: ignore[arg-type]  # optional in OTLP; the journal does not keep it
        max=None,  # type: ignore[arg-type]  # likewise
    )


# -- the exporter's manners -------------------------------------------------------------------


class _Session(requests.Session):
    """Keeps why a request failed, which the exporter tells its log only.

    A redirect is a failure: the exporter would not follow it, and take it for success.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._shown = without_userinfo(url)
        self._problem = ""
        #: Of the last answer; 0 where there was none.
        self.status = 0
        # A proxy set for the outside does not lead to this machine.
        self.trust_env = not _is_this_machine(urlsplit(url).hostname or "")

    def sent(self, export: Callable[[], bool]) -> bool:
        """Run an export that uses this session; `failure` then says what it came to."""
        self._problem = _last_words.of_thread.text = ""
        self.status = 0
        return export()

    def failure(self, what: str) -> ExportError:
        """Why the last export failed."""
        reason = self._problem or _last_words.of_thread.text or "refused"
        return ExportError(f"{what} were not accepted by {self._shown}: {reason}")

    def request(self, *args: Any, **options: Any) -> requests.Response:
        try:
            answer = super().request(*args, **options)
        except requests.RequestException as error:
            self._problem = str(_innermost(error))
            raise
        self.status = answer.status_code
        self._problem = "" if answer.ok else f"HTTP {answer.status_code} {answer.reason}"
        if 300 <= answer.status_code < 400:
            place = answer.headers.get("Location", "nowhere")
            self._problem = f"HTTP {answer.status_code}, redirected to {place}"
            raise requests.TooManyRedirects(self._problem)
        return answer


class _LastWords(logging.Filter):
    """Keeps the exporters' lines from the log, a line a try; the last one stays here."""

    def __init__(self) -> None:
        super().__init__()
        self.of_thread = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        self.of_thread.text = record.getMessage()
        return False


_last_words = _LastWords()


def _quiet(exporter: type) -> None:
    logging.getLogger(exporter.__module__).addFilter(_last_words)


def _innermost(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
