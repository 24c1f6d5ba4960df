"""The demo's comparison of truth and record: it is silent when they agree, and only then."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from squad_otel.batch import Batch
from squad_otel.demo.check import Record, alert_differences, differences
from squad_otel.demo.scenario import Truth
from squad_otel.events import NS, Event
from squad_otel.ids import session_id
from squad_otel.journal import Journal
from squad_otel.sessions import Session

START = 1_795_000_000 * NS
WORKTREE = "/home/dev/.claude-squad/worktrees/dev/login_1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A journal of one session that committed twice, failed to push, spent, and waited once."""
    identity = session_id(WORKTREE)
    common: dict[str, Any] = {
        "session": identity,
        "program": "claude",
        "repository": "webshop",
        "occurred_at": START + NS,
    }
    spent: dict[str, str | int | float | bool] = {
        "model": "m",
        "input_tokens": 3,
        "output_tokens": 40,
    }
    journal = Journal(tmp_path, START)
    journal.append(
        "test",
        Batch(
            sessions=[
                Session(
                    id=identity,
                    name="login",
                    program="claude",
                    repository="webshop",
                    branch="dev/login",
                    worktree=WORKTREE,
                    started_at=START,
                )
            ],
            events=[
                Event(id="1", type="git.commit", source="git", success=True, **common),
                Event(id="2", type="git.commit", source="git", success=True, **common),
                # A wrapper saw the second commit, too: it counts once.
                Event(id="3", type="git.commit", source="exec", success=True, **common),
                Event(id="4", type="git.push", source="exec", success=False, **common),
                Event(id="5", type="tokens.used", source="claude", fields=spent, **common),
                Event(
                    id="6",
                    type="session.state",
                    source="claude_squad",
                    fields={"state": "waiting", "previous": "running"},
                    **common,
                ),
            ],
        ),
        START + 2 * NS,
    )
    journal.close()
    return tmp_path


def truth() -> Truth:
    told = Truth(sessions=[{"name": "login"}])
    told.counts["git.commit", "claude", "webshop", True] = 2
    told.counts["git.push", "claude", "webshop", False] = 1
    told.counts["tokens.used", "claude", "webshop", True] = 1
    told.tokens["m", "input"] = 3
    told.tokens["m", "output"] = 40
    told.states["login", "waiting"] = 1
    return told


def found(told: Truth, home: Path) -> list[str]:
    record = Record(home)
    try:
        return differences(told, record)
    finally:
        record.close()


def test_what_agrees_is_not_mentioned(home: Path) -> None:
    assert found(truth(), home) == []


def test_each_difference_is_a_sentence(home: Path) -> None:
    told = truth()
    told.counts["git.commit", "claude", "webshop", True] = 3
    told.counts["git.push", "claude", "webshop", False] = 0
    told.counts["git.pull", "claude", "webshop", True] = 1
    told.tokens["m", "output"] = 41
    told.states["login", "waiting"] = 0
    told.states["login", "failed"] = 1
    assert found(told, home) == [
        "git.commit (claude, webshop): 3 happened, 2 counted",
        "git.pull (claude, webshop): 1 happened, 0 counted",
        "git.push (claude, webshop, failed): 0 happened, 1 counted",
        "output tokens of m: 41 happened, 40 counted",
        "'login' waiting: 0 happened, 1 counted",
        "'login' failed: 1 happened, 0 counted",
    ]


def alert(**labels: str) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {
            "alertname": "SquadSessionWaiting",
            "session": "login-abc123",
            "program": "claude",
            "repository": "webshop",
            "branch": "dev/login",
            **labels,
        },
        "annotations": {"description": "login waits since 2026-11-26 19:05:02.716 +0000 UTC."},
    }


def test_the_alert_has_to_say_who_and_where_and_since_when() -> None:
    told = truth()
    told.alert = {
        "session": "login",
        "program": "claude",
        "repository": "webshop",
        "branch": "dev/login",
        "waits_since": datetime(2026, 11, 26, 19, 5, 1, tzinfo=UTC).timestamp(),
    }
    assert alert_differences(told, [alert()]) == []
    assert len(alert_differences(told, [])) == 1
    assert len(alert_differences(told, [alert(alertname="SquadWatchdog")])) == 1
    assert len(alert_differences(told, [alert(repository="payments")])) == 1
    assert len(alert_differences(told, [alert(session="payments-1")])) == 1
    told.alert["waits_since"] = datetime(2026, 11, 26, 19, 4, tzinfo=UTC).timestamp()
    assert len(alert_differences(told, [alert()])) == 1
