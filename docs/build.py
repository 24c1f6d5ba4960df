"""Writes docs/reference.md from the tables of the package; `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from squad_otel.events import EVENT_TYPES
from squad_otel.metrics import LABELS, METRICS, Kind
from squad_otel.report.records import EVENT_COLUMNS, EVENT_FIELDS, SERIES_FIELDS, STATS_FIELDS
from squad_otel.settings import ALERT_THRESHOLDS, ENV_PREFIX, ROWS

TARGET = Path(__file__).parent / "reference.md"

_KINDS = {
    Kind.COUNTER: "counter, lifetime",
    Kind.HISTOGRAM: "histogram, lifetime",
    Kind.GAUGE: "gauge",
    Kind.RESETTING: "counter, resets with the daemon",
}


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; pipes in cells are escaped."""
    lines = [header, tuple("---" for _ in header), *rows]
    cells = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return "\n".join(f"| {line} |" for line in cells)


def code(words: Iterable[str]) -> str:
    """Words as code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def bounds_of(row: object) -> str:
    """What a setting may be, in words."""
    meta = row.metadata  # type: ignore[attr-defined]
    if meta["choices"]:
        return ", ".join(meta["choices"])
    if isinstance(row.default, str):  # type: ignore[attr-defined]
        return "text"
    low = 0 if meta["minimum"] is None else meta["minimum"]
    return f"{low:g} to {meta['maximum']:g}" if meta["maximum"] is not None else f"{low:g} and up"


def page() -> str:
    """The whole reference page."""
    metrics = table(
        ("Prometheus", "OpenTelemetry", "unit", "kind", "labels", "what"),
        (
            (
                f"`{m.prometheus}`",
                f"`{m.name}`",
                f"`{m.unit}`" if m.unit else "",
                _KINDS[m.kind],
                code(m.labels),
                m.help,
            )
            for m in METRICS
        ),
    )
    labels = table(
        ("label", "values at most", "what"),
        ((f"`{row.name}`", str(row.budget), row.help) for row in LABELS.values()),
    )
    events = table(
        ("type", "fields", "what"),
        ((f"`{row.name}`", code(row.fields), row.help) for row in EVENT_TYPES.values()),
    )
    event_keys, series_keys, stats_keys = (
        table(("key", "what"), ((f"`{name}`", text) for name, text in keys.items()))
        for keys in (EVENT_FIELDS, SERIES_FIELDS, STATS_FIELDS)
    )
    own_keys = code(name for name in EVENT_COLUMNS if name not in EVENT_FIELDS)
    settings = table(
        ("key", "default", "allowed", "what"),
        (
            (f"`{name}`", f"`{row.default!r}`", bounds_of(row), row.metadata["help"])
            for name, row in ROWS.items()
        ),
    )
    thresholds = table(
        ("`alert` label of `squad_alert_threshold`", "setting"),
        ((f"`{alert}`", f"`{key}`") for alert, key in ALERT_THRESHOLDS.items()),
    )
    return f"""# Reference

Made by `docs/build.py` from the tables in the package. Do not edit.

## Metrics

Every series also carries `journal`, the journal's id. Lifetime series never go down and survive
restarts. A new one is shown as 0 for two intervals before its value, so that `increase()` and every
other difference sees its first event.

{metrics}

Labels that come from events are bounded; what is beyond a budget is `other`, and counted in
`squad_otel_label_overflow_total`.

{labels}

## Events

Common to all: id, type, time, session, program, repository, branch, source, duration, success,
error type.

{events}

## What programs are given

`squad-otel events` and `squad-otel export` write one record a line. `--format json` is JSON Lines:
every key is on every line, null is not known. `--format csv` has the same keys as columns, an empty
cell is not known, and no cell begins a formula of a spreadsheet. Times are ISO 8601 with the local
offset (setting `time_zone`), money is US dollars. Control characters in names are replaced.

Nothing is locked while it is read: an export holds every event that was recorded when it began,
each as it was known when its line was written.

An event:

{event_keys}

then the fields of its own type: {own_keys}.

A series (`export metrics`):

{series_keys}

A measure (`export stats`):

{stats_keys}

A session (`export sessions`) has the keys that `sessions list --format json` gives it.

## Settings

From defaults, `config.toml` in the home folder, environment variables (`{ENV_PREFIX}` and the
key in capitals), and the flag `--set KEY=VALUE` before a command; the later one wins.

{settings}

## Alert thresholds

{thresholds}
"""


def main() -> int:
    """Write the page, or with `--check` say whether it is up to date."""
    fresh = page()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text() == fresh:
            return 0
        print(f"{TARGET.name} is out of date: run python docs/build.py", file=sys.stderr)
        return 1
    TARGET.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
