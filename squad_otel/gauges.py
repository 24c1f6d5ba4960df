"""Gauges of this moment, from the live sessions, the settings and the daemon's own counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from squad_otel.events import NS
from squad_otel.export.points import Sample
from squad_otel.sessions import LIVE_STATES, Session, State
from squad_otel.settings import ALERT_THRESHOLDS, Settings


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session used so far: tokens of all kinds, and the cost in billionths of a dollar.

    `cost_nusd` is None where no answer's price is known.
    """

    tokens: int = 0
    cost_nusd: int | None = None


@dataclass(slots=True)
class OwnCounts:
    """What the daemon counts about itself; starts at zero with it."""

    events: Counter[str] = field(default_factory=Counter)  # by source
    skipped: Counter[tuple[str, str]] = field(default_factory=Counter)  # by source, reason
    overflow: Counter[str] = field(default_factory=Counter)  # by label
    source_errors: Counter[str] = field(default_factory=Counter)  # by source
    pruned: int = 0
    export_errors: Counter[str] = field(default_factory=Counter)  # by signal
    source_success_at: dict[str, int] = field(default_factory=dict)  # by source, UTC ns


def session_samples(sessions: Iterable[Session], usage: Mapping[str, Usage]) -> list[Sample]:
    """What `squad_session_*` and `squad_sessions` say of the live sessions given."""
    samples: list[Sample] = []
    totals: Counter[tuple[str, str, str]] = Counter()
    for session in sessions:
        for state in LIVE_STATES:
            totals[session.program, session.repository, state] += session.state is state
        own = {"session": session.label, "program": session.program}
        samples.append(
            Sample(
                "squad.session.info",
                {**own, "repository": session.repository, "branch": session.branch},
                1,
            )
        )
        samples.extend(
            Sample("squad.session.state", {**own, "state": state}, int(session.state is state))
            for state in LIVE_STATES
        )
        waits = session.state_since if session.state is State.WAITING else 0
        samples.append(Sample("squad.session.waiting.timestamp", own, waits / NS))
        samples.append(
            Sample("squad.session.last_activity.timestamp", own, session.last_activity / NS)
        )
        used = usage.get(session.id)
        if used is not None:
            samples.append(Sample("squad.session.tokens", own, used.tokens))
            if used.cost_nusd is not None:
                samples.append(Sample("squad.session.cost", own, used.cost_nusd / 1e9))
    samples.extend(
        Sample(
            "squad.sessions", {"program": program, "repository": repository, "state": state}, total
        )
        for (program, repository, state), total in totals.items()
    )
    return samples


def threshold_samples(settings: Settings) -> list[Sample]:
    """The settings that alert rules compare with."""
    return [
        Sample("squad.alert.threshold", {"alert": alert}, getattr(settings, key))
        for alert, key in ALERT_THRESHOLDS.items()
    ]


def own_samples(
    counts: OwnCounts, version: str, heartbeat: int, created_at: int, size_bytes: int
) -> list[Sample]:
    """What the daemon says of itself. Times are UTC ns.

    The counts may grow in another thread meanwhile: they are copied in one step before use.
    """
    samples = [
        Sample("squad.otel.info", {"version": version}, 1),
        Sample("squad.otel.heartbeat.timestamp", {}, heartbeat / NS),
        Sample("squad.otel.journal.created.timestamp", {}, created_at / NS),
        Sample("squad.otel.journal.size", {}, size_bytes),
        Sample("squad.otel.pruned", {}, counts.pruned),
    ]
    for name, label, counter in (
        ("squad.otel.events", "source", counts.events),
        ("squad.otel.label.overflow", "label", counts.overflow),
        ("squad.otel.source.errors", "source", counts.source_errors),
        ("squad.otel.export.errors", "signal", counts.export_errors),
    ):
        samples.extend(Sample(name, {label: key}, count) for key, count in counter.copy().items())
    samples.extend(
        Sample("squad.otel.skipped", {"source": source, "reason": reason}, count)
        for (source, reason), count in counts.skipped.copy().items()
    )
    samples.extend(
        Sample("squad.otel.source.success.timestamp", {"source": source}, at / NS)
        for source, at in counts.source_success_at.copy().items()
    )
    return samples
