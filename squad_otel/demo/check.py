"""Compares the truth of the demo with what was recorded: journal, Prometheus, delivered alert."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from squad_otel.commands import GIT_OPERATIONS
from squad_otel.demo.scenario import Truth, delivered_alert
from squad_otel.errors import QueryError
from squad_otel.metrics import BY_NAME
from squad_otel.schema import open_reader
from squad_otel.sessions import Session

_KINDS = ("input", "output", "cache_read", "cache_creation")

#: How far the alert's "since" may be from the moment at which the question was asked: a screen is
#: believed after two looks.
_SINCE_S = 3.0


class Record:
    """What the journal of `home` holds, read while the daemon writes it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._db: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let the journal go."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def journal(self) -> str:
        """The journal's id."""
        return str(self._rows("SELECT value FROM meta WHERE key = 'id'")[0][0])

    def sessions(self) -> list[Session]:
        """All sessions, by their start."""
        rows = self._rows("SELECT data FROM sessions")
        found = [msgspec.json.decode(data, type=Session) for (data,) in rows]
        return sorted(found, key=lambda session: session.started_at)

    def times(self, session: str, event: str) -> int:
        """How often an event of a session, known by its name, is recorded."""
        ids = [known.id for known in self.sessions() if known.name == session]
        rows = self._rows("SELECT session FROM events WHERE type = ?", event)
        return sum(row[0] in ids for row in rows)

    def counts(self) -> Counter[tuple[str, str, str, bool]]:
        """Events by (type, program, repository, success), of those that are counted."""
        rows = self._rows(
            "SELECT type, program, repository, success IS NOT 0, count(*) FROM events "
            "WHERE owned = 1 AND state = 'live' GROUP BY 1, 2, 3, 4"
        )
        return Counter({(e, p or "", r or "", bool(s)): n for e, p, r, s, n in rows})

    def tokens(self) -> Counter[tuple[str, str]]:
        """Tokens by (model, kind)."""
        found: Counter[tuple[str, str]] = Counter()
        for kind in _KINDS:
            rows = self._rows(
                f"SELECT json_extract(fields, '$.model'), sum({kind}_tokens) "  # noqa: S608 - ours
                "FROM events WHERE type = 'tokens.used' AND state = 'live' GROUP BY 1"
            )
            found.update({(model, kind): n for model, n in rows if n})
        return found

    def states(self) -> Counter[tuple[str, str]]:
        """How often each session, by its name, came into each state."""
        names = {session.id: session.name for session in self.sessions()}
        rows = self._rows(
            "SELECT session, json_extract(fields, '$.state'), count(*) FROM events "
            "WHERE type = 'session.state' GROUP BY 1, 2"
        )
        return Counter({(names.get(session, ""), state): n for session, state, n in rows})

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if self._db is None:
            self._db = open_reader(self._home)
        return self._db.execute(query, values).fetchall()


def differences(truth: Truth, record: Record) -> list[str]:
    """What the journal does not say as it was, one sentence each."""
    found = []
    events = {key[0] for key in truth.counts} | {f"git.{operation}" for operation in GIT_OPERATIONS}
    recorded = {key: n for key, n in record.counts().items() if key[0] in events}
    for key in sorted(truth.counts.keys() | recorded.keys()):
        event, program, repository, succeeded = key
        name = f"{event} ({program}, {repository}{'' if succeeded else ', failed'})"
        found += _difference(name, truth.counts[key], recorded.get(key, 0))
    tokens = record.tokens()
    for model, kind in sorted(truth.tokens.keys() | tokens.keys()):
        name = f"{kind} tokens of {model}"
        found += _difference(name, truth.tokens[model, kind], tokens[model, kind])
    states = record.states()
    for session in truth.sessions:
        for state in ("waiting", "failed"):
            change = (session["name"], state)
            found += _difference(f"{change[0]!r} {state}", truth.states[change], states[change])
    return found


def _difference(name: str, happened: int, counted: int) -> list[str]:
    return [] if happened == counted else [f"{name}: {happened} happened, {counted} counted"]


def prometheus_differences(truth: Truth, url: str, journal: str) -> list[str]:
    """What the counters in Prometheus do not say as it was."""
    found = []
    git: Counter[tuple[str, ...]] = Counter()
    commands: Counter[tuple[str, ...]] = Counter()
    for (event, program, repository, succeeded), n in truth.counts.items():
        outcome = "ok" if succeeded else "error"
        if event.startswith("git."):
            git[event.removeprefix("git."), outcome, program, repository] += n
        elif event == "command.executed":
            commands[outcome, program, repository] += n
    tokens: Counter[tuple[str, ...]] = Counter()
    tokens.update(truth.tokens)
    for metric, labels, wanted in (
        ("squad.git.operations", ("operation", "outcome", "program", "repository"), git),
        ("squad.commands", ("outcome", "program", "repository"), commands),
        ("squad.token.usage", ("model", "type"), tokens),
    ):
        name = BY_NAME[metric].prometheus
        query = f'sum by ({", ".join(labels)}) ({name}{{journal="{journal}"}})'
        shown = _ask(url, query, labels)
        for key in sorted(wanted.keys() | shown.keys()):
            said = f"{name}{{{', '.join(key)}}} in Prometheus"
            found += _difference(said, wanted[key], shown.get(key, 0))
    return found


def _ask(url: str, query: str, labels: tuple[str, ...]) -> Mapping[tuple[str, ...], int]:
    try:
        with urllib3.PoolManager(retries=False, timeout=10.0) as pool:
            answer = pool.request("GET", f"{url}/api/v1/query", fields={"query": query})
    except urllib3.exceptions.HTTPError as error:
        raise QueryError(f"no answer from Prometheus at {url}: {error}") from error
    if answer.status != 200:
        raise QueryError(f"Prometheus at {url} answers {answer.status}")
    rows = answer.json()["data"]["result"]
    return {
        tuple(row["metric"].get(label, "") for label in labels): round(float(row["value"][1]))
        for row in rows
        if float(row["value"][1])
    }


def status_differences(truth: Truth, status: Mapping[str, Any]) -> list[str]:
    """What `squad-otel status --format json` does not say as it was."""
    found = _told("`squad-otel status`", truth, status["totals"])
    live = {row["session"]: row["commits"] for row in status["sessions"]}
    for session in truth.live():
        name = f"commits of {session!r} in `squad-otel status`"
        found += _difference(name, truth.commits[session], live.get(session, 0))
    return found


def report_differences(truth: Truth, report: Mapping[str, Any]) -> list[str]:
    """What `squad-otel report … --format json` does not say as it was."""
    figures = {headline["key"]: headline["value"] for headline in report["headlines"]}
    return _told(f"the report from {report['source']['name']}", truth, figures)


def _told(where: str, truth: Truth, figures: Mapping[str, Any]) -> list[str]:
    failed = truth.total("command.executed", succeeded=False)
    happened = {
        "sessions_started": truth.total("session.created"),
        "sessions_ended": truth.total("session.killed"),
        "commands": truth.total("command.executed") + failed,
        "git_operations": sum(
            truth.total(f"git.{operation}", succeeded)
            for operation in GIT_OPERATIONS
            for succeeded in (True, False)
        ),
        "errors": failed,
        "tokens": sum(truth.tokens.values()),
    }
    found = []
    for key, count in happened.items():
        if key in figures:
            name = f"{key.replace('_', ' ')} in {where}"
            found += _difference(name, count, figures[key] or 0)
    return found


def alert_differences(truth: Truth, alerts: list[dict[str, Any]]) -> list[str]:
    """What the delivered alert does not say as it was: which session, where, since when."""
    alert = delivered_alert(alerts)
    if alert is None:
        return ["the alert of the waiting session was not delivered"]
    labels, text = alert["labels"], alert["annotations"]["description"]
    found = [
        f"the alert says {key} = {labels.get(key)!r}, it was {truth.alert[key]!r}"
        for key in ("program", "repository", "branch")
        if labels.get(key) != truth.alert[key]
    ]
    if not str(labels.get("session", "")).startswith(str(truth.alert["session"])):
        found.append(
            f"the alert is of session {labels.get('session')!r}, not {truth.alert['session']!r}"
        )
    waits_since = truth.alert["waits_since"]
    assert isinstance(waits_since, float)
    steps = range(-1, round(_SINCE_S) + 1)
    moments = [datetime.fromtimestamp(waits_since + step, UTC) for step in steps]
    if not any(f"{moment:%Y-%m-%d %H:%M:%S}" in text for moment in moments):
        found.append(f"the alert does not say since when: {text!r}, it was {moments[1]}")
    return found
