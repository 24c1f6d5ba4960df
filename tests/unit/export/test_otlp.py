"""OTLP over loopback to a real receiver: equal to the scrape, exact, at least once, quiet."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from squad_otel import __version__
from squad_otel.batch import Batch
from squad_otel.errors import ExportError, SettingsError
from squad_otel.events import NS
from squad_otel.export.otlp import (
    BATCH_SPANS,
    SPAN_CURSOR,
    MetricPusher,
    SpanSender,
    target,
    timeout_s,
)
from squad_otel.export.prometheus import render
from squad_otel.journal import Journal
from squad_otel.metrics import BY_NAME, Kind
from tests.otlp_sink import Sink
from tests.unit.export.day import (
    EVENTS,
    SPAN_EVENTS,
    STARTED_AT,
    T0,
    day_points,
    event,
    open_journal,
)

OWN = "127.0.0.1:9466"
NOW = T0 + 2000 * NS


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    with Sink(tmp_path / "sink") as running:
        yield running


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_journal(tmp_path / "home")
    yield opened
    opened.close()


@pytest.fixture
def sender(sink: Sink) -> Iterator[SpanSender]:
    made = SpanSender.from_settings(sink.url, OWN, {})
    assert made is not None
    yield made
    made.close()


@pytest.fixture
def pusher(sink: Sink) -> Iterator[MetricPusher]:
    made = MetricPusher.from_settings(sink.url, OWN, {})
    assert made is not None
    yield made
    made.close()


def push(pusher: MetricPusher, journal: Journal) -> None:
    pusher.push(journal.id, day_points(journal), journal.created_at, STARTED_AT, NOW)


def send_all(sender: SpanSender, journal: Journal) -> None:
    while sender.step(journal):
        pass


def scraped(journal: Journal) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    text, _ = render(day_points(journal), "")
    return {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def as_prometheus(pushed: list[dict]) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    """Data points under the names and labels that a Prometheus gives them."""
    found = set()

    def add(name: str, labels: dict[str, str], value: float) -> None:
        found.add((name, tuple(sorted(labels.items())), float(value)))

    for point in pushed:
        metric = BY_NAME[point["name"]]
        assert metric.unit == point["unit"]
        name, labels = metric.prometheus, point["labels"]
        if "value" in point:
            add(name, labels, point["value"])
            continue
        total = 0
        bounds = [*map(floatToGoString, point["bounds"]), "+Inf"]
        for bound, count in zip(bounds, point["buckets"], strict=True):
            total += count
            add(f"{name}_bucket", {**labels, "le": bound}, total)
        add(f"{name}_count", labels, point["count"])
        add(f"{name}_sum", labels, point["sum"])
    return found


# -- metrics ----------------------------------------------------------------------------------


def test_a_push_and_a_scrape_say_the_same(
    sink: Sink, pusher: MetricPusher, journal: Journal
) -> None:
    push(pusher, journal)
    (pushed,) = sink.pushes()
    assert len(pushed) > 15
    assert as_prometheus(pushed) == scraped(journal)


def test_pushed_values_are_the_truth_of_the_day(
    sink: Sink, pusher: MetricPusher, journal: Journal
) -> None:
    push(pusher, journal)
    (pushed,) = sink.pushes()

    def total(name: str, **labels: str) -> float:
        return sum(
            p.get("value", p.get("sum"))
            for p in pushed
            if p["name"] == name and labels.items() <= p["labels"].items()
        )

    assert total("squad.session.starts") == 1
    assert total("squad.session.ends", reason="killed") == 1
    assert total("squad.session.duration") == 899
    assert total("squad.commands") == 5
    assert total("squad.commands", outcome="error") == 2
    assert total("squad.git.operations", operation="push", outcome="ok") == 1
    assert total("squad.git.operations", operation="push", outcome="error") == 1
    assert total("squad.git.operations", operation="commit") == 1
    assert total("squad.token.usage", type="output") == 32
    assert total("squad.cost.usage") == 0.0011
    assert total("squad.otel.events", source="spool") == 17
    (ran,) = [p for p in pushed if p["name"] == "squad.operation.duration"]
    assert (ran["count"], ran["sum"]) == (1, 1.28)
    assert ran["buckets"][ran["bounds"].index(1.28)] == 1, "a bound belongs to its own bucket"


def test_a_push_is_cumulative_from_the_journals_or_the_processes_beginning(
    sink: Sink, pusher: MetricPusher, journal: Journal
) -> None:
    push(pusher, journal)
    (pushed,) = sink.pushes()
    for point in pushed:
        kind = BY_NAME[point["name"]].kind
        start = {Kind.GAUGE: 0, Kind.RESETTING: STARTED_AT}.get(kind, T0)
        assert (point["start"], point["time"]) == (start, NOW)
        if kind is Kind.GAUGE:
            assert point["kind"] == "gauge"
        else:
            assert point["temporality"] == 2
            assert point["kind"] == ("histogram" if kind is Kind.HISTOGRAM else "sum")
        if kind in (Kind.COUNTER, Kind.RESETTING):
            assert point["monotonic"] is True
        assert all(isinstance(value, str) for value in point["labels"].values())
        assert point["scope"] == ""
        assert point.get("min") is None


def test_the_resource_is_the_program_and_the_journal_and_no_more(
    sink: Sink,
    pusher: MetricPusher,
    sender: SpanSender,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "user.email=somebody@example.com")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "agent")
    push(pusher, journal)
    send_all(sender, journal)
    resources = [sink.pushes()[0][0]["resource"], sink.spans()[0]["resource"]]
    assert resources[0] == resources[1]
    instance = uuid.UUID(resources[0].pop("service.instance.id"))
    assert instance.version == 5
    assert resources[0] == {"service.name": "squad", "service.version": __version__}


def test_held_series_are_pushed_as_zero(sink: Sink, pusher: MetricPusher, tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "held", released=False)
    push(pusher, journal)
    same = scraped(journal)
    journal.close()
    (pushed,) = sink.pushes()
    assert as_prometheus(pushed) == same
    lifetime = [p for p in pushed if p["start"] == T0]
    assert lifetime
    assert {p.get("value", p.get("count")) for p in lifetime} == {0}


def test_a_failed_push_says_why_and_the_next_one_says_everything(
    sink: Sink, pusher: MetricPusher, journal: Journal
) -> None:
    sink.mode("bad")
    with pytest.raises(ExportError, match=f"{sink.url}/v1/metrics: HTTP 400 Bad Request"):
        push(pusher, journal)
    assert sink.pushes() == []
    sink.mode("ok")
    push(pusher, journal)
    assert as_prometheus(sink.pushes()[0]) == scraped(journal)


# -- spans ------------------------------------------------------------------------------------


def test_each_span_of_the_journal_arrives_once(
    sink: Sink, sender: SpanSender, journal: Journal
) -> None:
    send_all(sender, journal)
    send_all(sender, journal)
    arrived = sink.spans()
    assert len({span["span_id"] for span in arrived}) == len(arrived) == len(SPAN_EVENTS)
    assert [span["name"] for span in arrived] == [
        "pytest",
        "pytest",
        "git push",
        "git push",
        "git push",
        "git push",
        "git commit",
        "build",
        "command",
        "session",
    ]
    assert len({span["trace_id"] for span in arrived}) == 2, "one session, one loose command"
    assert arrived[0]["attributes"]["process.exit.code"] == 0
    root = arrived[-1]
    assert root["parent_span_id"] == ""
    inside = [span for span in arrived if span["trace_id"] == root["trace_id"]]
    assert {span["parent_span_id"] for span in inside[:-1]} == {root["span_id"]}
    assert journal.cursor(SPAN_CURSOR) == len(EVENTS), "events that are no spans are passed, too"


def test_many_spans_go_in_batches(sink: Sink, sender: SpanSender, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "many", T0)
    total = 2 * BATCH_SPANS + 7
    events = [event(f"c{n}", "command.executed", 5, session=None) for n in range(total)]
    journal.append("test", Batch(events=events), NOW)
    steps = [sender.step(journal) for _ in range(4)]
    journal.close()
    assert steps == [True, True, False, False]
    assert [request["count"] for request in sink.requests()] == [BATCH_SPANS, BATCH_SPANS, 7]
    assert len({span["span_id"] for span in sink.spans()}) == total


def test_a_span_that_is_refused_for_good_stops_no_other(
    sink: Sink, sender: SpanSender, tmp_path: Path
) -> None:
    sink.mode("picky")
    journal = Journal(tmp_path / "poisoned", T0)
    names = ["poison" if n in (3, 150) else "make" for n in range(300)]
    events = [
        event(
            f"c{n}", "command.executed", 5, session=None, fields={"command": name, "tool": "exec"}
        )
        for n, name in enumerate(names)
    ]
    journal.append("test", Batch(events=events), NOW)
    while sender.step(journal):
        pass
    assert journal.cursor(SPAN_CURSOR) == 300
    journal.close()
    assert sender.refused == 2
    assert len(sink.spans()) == len({span["span_id"] for span in sink.spans()}) == 298


def test_events_that_are_no_spans_are_passed_without_a_request(
    sink: Sink, sender: SpanSender, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "quiet", T0)
    events = [event(f"p{n}", "prompt.sent", 5, session=None) for n in range(BATCH_SPANS + 1)]
    journal.append("test", Batch(events=events), NOW)
    assert [sender.step(journal) for _ in range(3)] == [True, False, False]
    assert journal.cursor(SPAN_CURSOR) == len(events)
    journal.close()
    assert sink.requests() == []


def test_a_receiver_that_is_down_costs_delay_only(
    sink: Sink, sender: SpanSender, journal: Journal
) -> None:
    sink.stop()
    for _ in range(2):
        with pytest.raises(ExportError, match="Connection refused"):
            sender.step(journal)
    assert journal.cursor(SPAN_CURSOR) == 0
    sink.start()
    send_all(sender, journal)
    assert len({span["span_id"] for span in sink.spans()}) == len(SPAN_EVENTS)
    assert len(sink.spans()) == len(SPAN_EVENTS)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("refuse", "HTTP 503 Service Unavailable"),
        ("redirect", "HTTP 307, redirected to /elsewhere"),
        ("hang", "timed out"),
    ],
)
def test_what_was_not_accepted_comes_again(
    sink: Sink, sender: SpanSender, journal: Journal, mode: str, reason: str
) -> None:
    sink.mode(mode)
    with pytest.raises(ExportError, match=reason):
        sender.step(journal)
    assert (journal.cursor(SPAN_CURSOR), sink.spans()) == (0, [])
    sink.mode("ok")
    send_all(sender, journal)
    assert len(sink.spans()) == len(SPAN_EVENTS)


def test_an_answer_that_was_lost_gives_identical_spans(
    sink: Sink, sender: SpanSender, journal: Journal
) -> None:
    sink.mode("lose")
    with pytest.raises(ExportError):
        sender.step(journal)
    sink.mode("ok")
    send_all(sender, journal)
    arrived = sink.spans()
    assert len(arrived) > len(SPAN_EVENTS)
    assert len({span["raw"] for span in arrived}) == len(SPAN_EVENTS)


def test_a_crash_between_answer_and_cursor_gives_identical_spans(
    sink: Sink, sender: SpanSender, tmp_path: Path
) -> None:
    class CrashError(Exception):
        pass

    class Dying(Journal):
        def move_cursor(self, name: str, folded: int) -> None:
            raise CrashError

    open_journal(tmp_path / "home").close()
    dying = Dying(tmp_path / "home", NOW)
    with pytest.raises(CrashError):
        sender.step(dying)
    dying.close()
    again = Journal(tmp_path / "home", NOW + NS)
    send_all(sender, again)
    again.close()
    arrived = [span["raw"] for span in sink.spans()]
    assert arrived[: len(SPAN_EVENTS)] == arrived[len(SPAN_EVENTS) :]
    assert len(set(arrived)) == len(SPAN_EVENTS)


def test_closing_ends_a_wait_and_leaves_the_journal_alone(
    sink: Sink, sender: SpanSender, tmp_path: Path
) -> None:
    """A stop while the receiver hangs: nothing is said, the cursor stays, the journal may go."""
    journal = open_journal(tmp_path / "home")
    sink.mode("hang")
    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(sender.step(journal))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while not sink.requests() and time.monotonic() < deadline:
        time.sleep(0.02)
    sender.close()
    before = journal.cursor(SPAN_CURSOR)
    journal.close()
    thread.join(timeout=20)
    assert (outcome, before) == ([False], 0)
    assert sender.step(journal) is False
    with pytest.raises(Exception, match="closed"):
        journal.cursor(SPAN_CURSOR)


def test_a_failure_is_one_message_and_no_log(
    sink: Sink, sender: SpanSender, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    sink.stop()
    with caplog.at_level(logging.DEBUG, "opentelemetry"), pytest.raises(ExportError) as failed:
        sender.step(journal)
    assert "\n" not in str(failed.value)
    assert [record.name for record in caplog.records if record.name.startswith("opent")] == []


def test_a_password_in_the_address_is_not_said(
    sink: Sink, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.stop()
    url = sink.url.replace("http://", "http://user:pa@ss@")
    sender = SpanSender.from_settings(url, OWN, {})
    assert sender is not None
    with pytest.raises(ExportError) as failed:
        sender.step(journal)
    sender.close()
    assert "ss@" not in str(failed.value)
    assert sink.url.removeprefix("http://") in str(failed.value)
    with pytest.raises(SettingsError) as refused:
        target("traces", "http://user:secret@127.0.0.1:9466", OWN, {})
    assert "secret" not in str(refused.value)


# -- where to ---------------------------------------------------------------------------------

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"


@pytest.mark.parametrize(
    ("setting", "environ", "url"),
    [
        ("", {}, None),
        ("", {"OTEL_TRACES_EXPORTER": "otlp"}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("http://c:4318/", {}, "http://c:4318/v1/traces"),
        ("https://c/otlp", {}, "https://c/otlp/v1/traces"),
        ("", {BASE: "http://c:4318/"}, "http://c:4318/v1/traces"),
        ("", {TRACES: "http://t:1/x"}, "http://t:1/x"),
        ("", {BASE: "http://c:4318", TRACES: "http://t:1/x"}, "http://t:1/x"),
        ("http://c:4318", {BASE: "http://b:1", TRACES: "http://t:1"}, "http://c:4318/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:1"}, None),
        ("http://c:4318", {"OTEL_SDK_DISABLED": "True"}, None),
        ("http://c:4318", {"OTEL_SDK_DISABLED": "false"}, "http://c:4318/v1/traces"),
        ("http://c:4318", {"OTEL_TRACES_EXPORTER": "none"}, None),
        ("http://c:4318", {"OTEL_TRACES_EXPORTER": "console, otlp"}, "http://c:4318/v1/traces"),
        ("http://c:4318", {"OTEL_METRICS_EXPORTER": "none"}, "http://c:4318/v1/traces"),
        ("", {BASE: "http://c:1", PROTOCOL: "http/protobuf"}, "http://c:1/v1/traces"),
        ("http://c:4318", {PROTOCOL: "grpc"}, "http://c:4318/v1/traces"),
        ("http://127.0.0.1:4318", {}, "http://127.0.0.1:4318/v1/traces"),
        ("http://elsewhere:9466", {}, "http://elsewhere:9466/v1/traces"),
    ],
)
def test_where_spans_go(setting: str, environ: dict[str, str], url: str | None) -> None:
    assert target("traces", setting, OWN, environ) == url


def test_each_signal_is_turned_off_by_itself() -> None:
    environ = {"OTEL_METRICS_EXPORTER": "none"}
    assert MetricPusher.from_settings("http://c:4318", OWN, environ) is None
    sender = SpanSender.from_settings("http://c:4318", OWN, environ)
    assert sender is not None
    sender.close()


@pytest.mark.parametrize(
    ("setting", "environ", "words"),
    [
        ("http://127.0.0.1:9466", {}, r"otlp_endpoint = .*is the daemon's own address"),
        ("http://localhost:9466/x", {}, "own address"),
        ("http://[::1]:9466", {}, "own address"),
        ("http://0.0.0.0:9466", {}, "own address"),
        ("", {TRACES: "http://127.0.0.2:9466/v1/traces"}, f"{TRACES} = .*own address"),
        ("", {BASE: "c:4318"}, f"{BASE} = 'c:4318/v1/traces' is not possible"),
        ("", {BASE: "grpc://c:4317"}, "must be a URL such as"),
        ("http://:4318", {}, "must be a URL such as"),
        ("http://c:port", {}, "must be a URL such as"),
        ("", {BASE: "http://c:1", PROTOCOL: "grpc"}, f"{PROTOCOL} = 'grpc'.*http/protobuf"),
        (
            "",
            {BASE: "http://c:1", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL = 'http/json'.*http/protobuf",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(
    setting: str, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        target("traces", setting, OWN, environ)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 2),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "5"}, 5),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}, 10),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "500"}, 30),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "5", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "7"}, 7),
    ],
)
def test_how_long_an_export_may_take(environ: dict[str, str], seconds: float) -> None:
    assert timeout_s("traces", environ) == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="must be a positive number"):
        timeout_s("traces", {"OTEL_EXPORTER_OTLP_TIMEOUT": text})


def test_headers_and_compression_come_from_opentelemetrys_variables(
    sink: Sink, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=squad,authorization=Bearer%20abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # leads nowhere near the sink
    sender = SpanSender.from_settings("", OWN)
    assert sender is not None
    send_all(sender, journal)
    sender.close()
    (request,) = sink.requests()
    assert request["path"] == "/v1/traces"
    assert request["headers"]["x-team"] == "squad"
    assert request["headers"]["authorization"] == "Bearer abc"
    assert request["headers"]["content-encoding"] == "gzip"
    assert request["headers"]["content-type"] == "application/x-protobuf"
    assert len(sink.spans()) == len(SPAN_EVENTS)
