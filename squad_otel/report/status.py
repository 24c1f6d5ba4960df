"""Status: each live session, the totals, and the alerts that fire now. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squad_otel.query.journal import SESSION, JournalBackend
from squad_otel.query.measures import MEASURES, Unit, evaluate, evaluate_by
from squad_otel.report.sections import Cell, Column, Cost, metrics_of
from squad_otel.sessions import LIVE_STATES, Session, State

if TYPE_CHECKING:
    from squad_otel.alertmanager import Alert


_FIGURES = ("commits", "errors", "tokens", "cost")
_TOTALS = ("commands", "git_operations", "errors", "tokens", "cost")

SESSION_COLUMNS = (
    Column("id", "Id", Unit.TEXT),
    Column("session", "Session", Unit.TEXT),
    Column("program", "Program", Unit.TEXT),
    Column("repository", "Repository", Unit.TEXT),
    Column("branch", "Branch", Unit.TEXT),
    Column("state", "State", Unit.TEXT),
    Column("state_since", "Since", Unit.TIME),
    Column("last_activity", "Active", Unit.TIME),
    Column("started", "Started", Unit.TIME),
    Column("ended", "Ended", Unit.TIME),
    *(Column(name, MEASURES[name].title, MEASURES[name].unit) for name in _FIGURES),
)

Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Status:
    """What `squad-otel status` says. Times are UTC ns.

    `daemon` is what the running daemon says of itself, None when none runs; `recorded_at` when
    the journal was last added to. `alerts` is None where no Alertmanager answered, and
    `alerts_note` says why.
    """

    made_at: int
    daemon: Mapping[str, Any] | None
    journal: str
    began_at: int
    recorded_at: int | None
    states: tuple[tuple[State, int], ...]
    sessions: tuple[Row, ...]
    totals: Row
    alerts: tuple[Alert, ...] | None
    alerts_note: str


def build(
    backend: JournalBackend,
    daemon: Mapping[str, Any] | None,
    alerts: Sequence[Alert] | None,
    alerts_note: str,
    now: int,
) -> Status:
    """Read the journal as of `now`. Raises QueryError."""
    live = [session for session in backend.sessions(0, now) if session.live]
    reading, _ = backend.read(metrics_of(_TOTALS), (backend.created_at, now))
    totals: dict[str, Cell] = {name: evaluate(MEASURES[name], reading) for name in _TOTALS}
    if reading is not None:
        unpriced = evaluate(MEASURES["unpriced"], reading)
        totals["cost"] = Cost(int(totals["cost"] or 0), int(unpriced or 0))  # type: ignore[arg-type]  # a number here
    counts = {state: sum(s.state is state for s in live) for state in LIVE_STATES}
    return Status(
        now,
        daemon,
        backend.journals[0],
        backend.created_at,
        backend.last_recorded(),
        tuple((state, count) for state, count in counts.items() if count),
        tuple(rows(backend, sorted(live, key=_urgency), now)),
        totals,
        None if alerts is None else tuple(alerts),
        alerts_note,
    )


def rows(backend: JournalBackend, sessions: Sequence[Session], now: int) -> list[Row]:
    """The sessions with what each did since the journal began, by the keys of SESSION_COLUMNS."""
    measures = [*_FIGURES, "unpriced"]
    reading = backend.by_session(metrics_of(measures), backend.created_at, now)
    figures: dict[str, Mapping[tuple[str, ...], float | None]] = {}
    if reading is not None:
        figures = {name: evaluate_by(MEASURES[name], reading, (SESSION,)) for name in measures}
    found: list[Row] = []
    for session in sessions:
        own = {name: int(values.get((session.id,)) or 0) for name, values in figures.items()}
        cells: dict[str, Cell] = {
            "id": session.id,
            "session": session.name,
            "program": session.program,
            "repository": session.repository,
            "branch": session.branch,
            "state": str(session.state if session.live else State.ENDED),
            "state_since": session.state_since,
            "last_activity": session.last_activity or None,
            "started": session.started_at,
            "ended": session.ended_at,
            **{name: own.get(name) for name in _FIGURES},
        }
        if own:
            # Where no answer of a model was seen, its tokens are not known to be 0.
            answered = own["tokens"] or own["unpriced"]
            cells["tokens"] = own["tokens"] if answered else None
            cells["cost"] = Cost(own["cost"], own["unpriced"]) if answered else None
        found.append(cells)
    return found


def _urgency(session: Session) -> tuple[int, int]:
    """What needs a human first, then by age."""
    order = (State.WAITING, State.FAILED, State.DEAD, State.RUNNING, State.STARTING, State.IDLE)
    place = order.index(session.state) if session.state in order else len(order)
    return (place, session.started_at)
