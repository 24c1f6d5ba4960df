"""One tracked command, as its caller pays it: against the OpenTelemetry SDK, and a no-op."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import squad_otel

CALLS = 20_000
ROUNDS = 7


def fastest(call: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Seconds a call: the best of a few rounds, since other work only ever adds."""
    best = float("inf")
    for _ in range(ROUNDS):
        before()
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, time.perf_counter() - began)
    return best / CALLS


def empty(command: str, *, duration_s: float, exit_code: int) -> None:
    """What a call costs that does nothing."""


def opentelemetry() -> Callable[[], None]:
    """The same record with the plain SDK: a span, a counter and a histogram."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    tracer = provider.get_tracer("bench")
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("bench")
    commands = meter.create_counter("commands")
    durations = meter.create_histogram("duration")

    def record() -> None:
        attributes = {"command": "git push", "tool": "track", "outcome": "ok"}
        with tracer.start_as_current_span("git push", attributes=attributes):
            pass
        commands.add(1, attributes)
        durations.record(0.2, attributes)

    return record


def main() -> None:
    """Print the ratios first."""

    def ours() -> None:
        squad_otel.command("git push origin main", duration_s=0.2, exit_code=0)

    nothing = fastest(lambda: empty("git push origin main", duration_s=0.2, exit_code=0))
    unconfigured = fastest(ours)
    theirs = fastest(opentelemetry())
    with tempfile.TemporaryDirectory() as folder:
        squad_otel.init(folder)
        configured = fastest(ours, before=squad_otel.flush)
        squad_otel.flush()
    print(f"1/{theirs / configured:.0f}  tracked command / OpenTelemetry SDK (goal: 1/20)")
    print(f"{unconfigured / nothing:.2f}x  unconfigured / an empty function call (goal: 3x)")
    for name, seconds in (
        ("tracked", configured),
        ("OpenTelemetry", theirs),
        ("unconfigured", unconfigured),
        ("empty call", nothing),
    ):
        print(f"  {name:<14} {seconds * 1e9:8.0f} ns")


if __name__ == "__main__":
    main()
