"""Metrics: one row each. Names, units, labels, buckets, and which event adds which value.

Prometheus and OTLP output, SQL, PromQL and the reference page all come from these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from squad_otel.commands import GIT_OPERATIONS
from squad_otel.events import Event, owns_count


class Kind(StrEnum):
    """What a number of this metric is."""

    COUNTER = "counter"  # lifetime total, kept in the journal, never goes down
    HISTOGRAM = "histogram"  # lifetime distribution, kept in the journal
    GAUGE = "gauge"  # of this moment, from memory
    RESETTING = "resetting"  # counter of this process; starts at 0 with it


@dataclass(frozen=True, slots=True)
class Label:
    """One label of event-fed series and how many values it may take before `other`."""

    name: str
    budget: int
    help: str


LABELS: Mapping[str, Label] = {
    label.name: label
    for label in (
        Label("program", 30, "the agent's program: claude, codex, …"),
        Label("repository", 50, "the repository's folder name"),
        Label("command", 100, "program and sub-command, e.g. `git push`"),
        Label("tool", 20, "what ran the command: exec, track"),
        Label("model", 50, "the model's name as the agent reports it"),
        Label("operation", 100, "the git operation, or a timed operation's name"),
        Label("outcome", 2, "ok or error"),
        Label("error_type", 50, "why it failed; empty on success"),
        Label("severity", 5, "info, warning, error, critical"),
        Label("component", 30, "what failed: command, or what the producer names"),
        Label("reason", 10, "why a session ended"),
    )
}

#: The value of a label whose budget is spent, and of one that nobody knows.
OTHER = "other"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """A named test of an event: in Python, in SQL over `events`, and over roll-ups.

    `rolled` is how many events of a roll-up's row pass it.
    """

    holds: Callable[[Event], bool]
    sql: str
    rolled: str


CONDITIONS: Mapping[str, Condition] = {
    "": Condition(lambda _event: True, "1", "n"),
    "owned": Condition(owns_count, "owned = 1", "n * owned"),
    "failed": Condition(lambda event: event.success is False, "success = 0", "n * (success = 0)"),
    "unpriced": Condition(
        lambda event: "cost_nusd" not in event.fields,
        "cost_nusd IS NULL",
        "n - priced",
    ),
}


@dataclass(frozen=True, slots=True)
class Feed:
    """Which events add to a metric, and what they add.

    `value` is `"1"` or the name of an integer of the event (`duration_ns`, or one of
    `events.SUM_FIELDS`); an event without it adds nothing.
    """

    event: str
    value: str = "1"
    when: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Series values are integers; times `scale` they are in `unit`."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    feeds: tuple[Feed, ...] = ()
    bounds: tuple[float, ...] = ()
    scale: float = 1

    @property
    def bounds_units(self) -> tuple[int, ...]:
        """The bounds as integers of the series: the largest one that lies in each bucket."""
        return tuple(last_inside(bound, self.scale) for bound in self.bounds)

    @property
    def prometheus(self) -> str:
        """The name in Prometheus, the same by scrape, Collector and OTLP receiver."""
        return prometheus_name(self.name, self.unit, self.kind)


#: Words that OpenTelemetry's units become at the end of a Prometheus name. `{…}` adds nothing.
_UNIT_WORDS = {"s": "seconds", "By": "bytes", "1": "ratio"}


def prometheus_name(name: str, unit: str, kind: Kind) -> str:
    """Translate an OpenTelemetry name: dots, the unit's word, `_total` on counters."""
    parts = [name.replace(".", "_")]
    word = _UNIT_WORDS.get(unit)
    if word is not None and not parts[0].endswith("_" + word):
        parts.append(word)
    if kind in (Kind.COUNTER, Kind.RESETTING):
        parts.append("total")
    return "_".join(parts)


def ladder(first: int, last: int) -> tuple[float, ...]:
    """Histogram bounds `0.01·2^n` seconds for n = first…last: never an integer, exact doubles."""
    return tuple(0.01 * 2**n for n in range(first, last + 1))


_COMMAND_BOUNDS = ladder(0, 16)  # 10 ms … 655.36 s
_SESSION_BOUNDS = ladder(6, 23)  # 0.64 s … 83,886.08 s
_NANO = 1e-9

_TOKEN_FEEDS = tuple(
    Feed("tokens.used", f"{kind}_tokens", labels={"type": kind})
    for kind in ("input", "output", "cache_read", "cache_creation")
)

METRICS: tuple[Metric, ...] = (
    Metric(
        "squad.sessions",
        Kind.GAUGE,
        "{session}",
        "Live sessions by state.",
        ("program", "repository", "state"),
    ),
    Metric(
        "squad.session.starts",
        Kind.COUNTER,
        "{session}",
        "Sessions that began.",
        ("program", "repository"),
        (Feed("session.created"),),
    ),
    Metric(
        "squad.session.ends",
        Kind.COUNTER,
        "{session}",
        "Sessions that ended.",
        ("program", "repository", "reason"),
        (Feed("session.killed"),),
    ),
    Metric(
        "squad.session.duration",
        Kind.HISTOGRAM,
        "s",
        "How long sessions lived.",
        ("program", "reason"),
        (Feed("session.killed", "duration_ns"),),
        _SESSION_BOUNDS,
        _NANO,
    ),
    Metric(
        "squad.session.info",
        Kind.GAUGE,
        "",
        "1 for each live session; joins its repository and branch to other series.",
        ("session", "program", "repository", "branch"),
    ),
    Metric(
        "squad.session.state",
        Kind.GAUGE,
        "",
        "1 for the state that a live session is in, 0 for the others.",
        ("session", "program", "state"),
    ),
    Metric(
        "squad.session.waiting.timestamp",
        Kind.GAUGE,
        "s",
        "Since when a live session waits for a human (Unix time); 0 when it does not.",
        ("session", "program"),
    ),
    Metric(
        "squad.session.last_activity.timestamp",
        Kind.GAUGE,
        "s",
        "When a live session last did something (Unix time).",
        ("session", "program"),
    ),
    Metric(
        "squad.session.tokens",
        Kind.GAUGE,
        "{token}",
        "Tokens that a live session used so far, all kinds.",
        ("session", "program"),
    ),
    Metric(
        "squad.session.cost",
        Kind.GAUGE,
        "{USD}",
        "What a live session cost so far, of models whose price is known.",
        ("session", "program"),
    ),
    Metric(
        "squad.prompts",
        Kind.COUNTER,
        "{prompt}",
        "Prompts given to agents.",
        ("program", "repository"),
        (Feed("prompt.sent"),),
    ),
    Metric(
        "squad.commands",
        Kind.COUNTER,
        "{command}",
        "Commands that ended.",
        ("program", "repository", "tool", "outcome"),
        (Feed("command.executed"),),
    ),
    Metric(
        "squad.command.duration",
        Kind.HISTOGRAM,
        "s",
        "How long commands ran.",
        ("program", "tool", "command", "error_type"),
        (Feed("command.executed", "duration_ns"),),
        _COMMAND_BOUNDS,
        _NANO,
    ),
    Metric(
        "squad.git.operations",
        Kind.COUNTER,
        "{operation}",
        "Git operations: commit, push, pull, branch.",
        ("program", "repository", "operation", "outcome"),
        tuple(
            Feed(f"git.{operation}", when="owned", labels={"operation": operation})
            for operation in GIT_OPERATIONS
        ),
    ),
    Metric(
        "squad.git.operation.duration",
        Kind.HISTOGRAM,
        "s",
        "How long git operations took, of those that were timed.",
        ("program", "operation", "error_type"),
        tuple(
            Feed(f"git.{operation}", "duration_ns", labels={"operation": operation})
            for operation in GIT_OPERATIONS
        ),
        _COMMAND_BOUNDS,
        _NANO,
    ),
    Metric(
        "squad.token.usage",
        Kind.COUNTER,
        "{token}",
        "Tokens used.",
        ("program", "repository", "model", "type"),
        _TOKEN_FEEDS,
    ),
    Metric(
        "squad.cost.usage",
        Kind.COUNTER,
        "{USD}",
        "Cost of model answers at list price, of models whose price is known.",
        ("program", "repository", "model"),
        (Feed("tokens.used", "cost_nusd"),),
        scale=_NANO,
    ),
    Metric(
        "squad.cost.unpriced",
        Kind.COUNTER,
        "{request}",
        "Model answers whose cost is unknown because the model's price is.",
        ("program", "repository", "model"),
        (Feed("tokens.used", when="unpriced"),),
    ),
    Metric(
        "squad.errors",
        Kind.COUNTER,
        "{error}",
        "Errors that were reported, and commands that failed.",
        ("program", "repository", "error_type", "severity", "component"),
        (
            Feed("error"),
            Feed(
                "command.executed",
                when="failed",
                labels={"severity": "error", "component": "command"},
            ),
        ),
    ),
    Metric(
        "squad.operation.duration",
        Kind.HISTOGRAM,
        "s",
        "How long timed operations took.",
        ("program", "operation", "error_type"),
        (Feed("operation.completed", "duration_ns"),),
        _COMMAND_BOUNDS,
        _NANO,
    ),
    Metric(
        "squad.alert.threshold",
        Kind.GAUGE,
        "",
        "The value that an alert rule compares with; a setting.",
        ("alert",),
    ),
    Metric("squad.otel.info", Kind.GAUGE, "", "1; the daemon's version.", ("version",)),
    Metric(
        "squad.otel.heartbeat.timestamp",
        Kind.GAUGE,
        "s",
        "When the daemon last completed a round (Unix time).",
    ),
    Metric(
        "squad.otel.journal.created.timestamp",
        Kind.GAUGE,
        "s",
        "When the journal began (Unix time).",
    ),
    Metric("squad.otel.journal.size", Kind.GAUGE, "By", "Size of the journal on disk."),
    Metric(
        "squad.otel.events",
        Kind.RESETTING,
        "{event}",
        "Events written to the journal since the daemon started.",
        ("source",),
    ),
    Metric(
        "squad.otel.pruned",
        Kind.RESETTING,
        "{event}",
        "Events deleted because of their age or the journal's size, since the daemon started.",
    ),
    Metric(
        "squad.otel.skipped",
        Kind.RESETTING,
        "{record}",
        "Input that could not be read as a record, since the daemon started.",
        ("source", "reason"),
    ),
    Metric(
        "squad.otel.label.overflow",
        Kind.RESETTING,
        "{event}",
        "Label values replaced by `other` because the label's budget is spent.",
        ("label",),
    ),
    Metric(
        "squad.otel.source.errors",
        Kind.RESETTING,
        "{error}",
        "Failed looks at a source since the daemon started.",
        ("source",),
    ),
    Metric(
        "squad.otel.source.success.timestamp",
        Kind.GAUGE,
        "s",
        "When a source was last read without error (Unix time).",
        ("source",),
    ),
    Metric(
        "squad.otel.export.errors",
        Kind.RESETTING,
        "{error}",
        "Failed OTLP exports since the daemon started.",
        ("signal",),
    ),
)


def last_inside(bound: float, scale: float) -> int:
    """The largest integer that, times `scale`, is not above `bound`: where its bucket ends."""
    guess = round(bound / scale)
    return next(n for n in range(guess + 2, guess - 3, -1) if n * scale <= bound)


#: Where the buckets of all histograms together end, in ns: all histograms are of durations.
DURATION_BOUNDS_NS = tuple(sorted({bound for metric in METRICS for bound in metric.bounds_units}))

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def label_value(label: str, event: Event, constants: Mapping[str, str]) -> str:
    """The raw, unbounded value of `label` for `event`."""
    if label in constants:
        return constants[label]
    if label == "program":
        return event.program or UNKNOWN
    if label == "repository":
        return event.repository or UNKNOWN
    if label == "outcome":
        return "error" if event.success is False else "ok"
    if label == "error_type":
        return event.error_type or ""
    value = event.fields.get(label)
    return UNKNOWN if value is None or value == "" else str(value)


def increment(feed: Feed, event: Event) -> int | None:
    """What `event` adds to a metric through `feed`; None when it adds nothing."""
    if event.type != feed.event or not CONDITIONS[feed.when].holds(event):
        return None
    if feed.value == "1":
        return 1
    if feed.value == "duration_ns":
        return event.duration_ns
    value = event.fields.get(feed.value)
    return int(value) if isinstance(value, int | float) else None
