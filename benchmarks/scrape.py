"""A scrape of 2,000 label sets, against prometheus_client rendering the same as plain counters."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, generate_latest

from squad_otel.export.points import points
from squad_otel.export.prometheus import render
from squad_otel.journal import Shown
from squad_otel.metrics import BY_NAME

LABEL_SETS = 2000
ROUNDS = 15
METRIC = BY_NAME["squad.commands"]


def fastest(call: Callable[[], object]) -> float:
    """Seconds of a call: the best of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def counted(text: str) -> set[str]:
    """The lines of the counters; ours have no _created lines beside them."""
    return {line for line in text.splitlines() if line.startswith("squad_commands_total{")}


def main() -> None:
    """Print the ratio first."""
    labels = [("claude", f"repository-{i}", "exec", "ok") for i in range(LABEL_SETS)]
    shown = [Shown(METRIC, values, i + 1, i + 1, None) for i, values in enumerate(labels)]
    registry = CollectorRegistry()
    names = ("journal", *METRIC.labels)
    counter = Counter("squad_commands", METRIC.help, names, registry=registry)
    for i, values in enumerate(labels):
        counter.labels("0a1b2c3d", *values).inc(i + 1)
    ours = fastest(lambda: render(points("0a1b2c3d", shown, []), ""))
    plain = fastest(lambda: generate_latest(registry))
    body, _ = render(points("0a1b2c3d", shown, []), "")
    theirs = generate_latest(registry).decode()
    assert counted(body.decode()) == counted(theirs)
    print(f"{ours / plain:.2f}x  a scrape of {LABEL_SETS:,} label sets / prometheus_client")
    print(f"  ours               {ours * 1e3:7.2f} ms")
    print(
        f"  prometheus_client  {plain * 1e3:7.2f} ms, without the _created lines it is told to add"
    )
    print(f"  the same lines, the best of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
