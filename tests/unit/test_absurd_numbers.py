"""Producers that report absurd numbers: nothing stops, and there is still a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from squad_otel.batch import Batch
from squad_otel.events import NS, Event
from squad_otel.journal import Journal
from squad_otel.query.journal import JournalBackend
from squad_otel.query.periods import Calendar
from squad_otel.report.render import FORMATS, render
from squad_otel.report.sections import build

T0 = 1_795_000_500 * NS  # inside of a quarter of an hour
YEAR_NS = 366 * 86400 * NS


def events(repository: str) -> list[Event]:
    tokens = {"model": "m", "input_tokens": 10**15, "cost_nusd": 10**15}
    own = {"session": "s", "program": "p", "repository": repository, "source": "track"}
    return [
        Event(
            id=f"{repository}:{kind}:{number}",
            type=kind,
            occurred_at=T0 + number,
            duration_ns=YEAR_NS,
            fields=fields,
            **own,
        )
        for kind, fields, count in (
            ("command.executed", {"command": "x"}, 400),
            ("tokens.used", tokens, 9400),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("absurd")
    journal = Journal(home, T0)
    for number in range(3):
        journal.append("x", Batch(events=events(f"r{number}")), T0 + 60 * NS)
        journal.settle(T0 + 3600 * NS)
    tokens, cost_nusd = journal.usage("s") or (0, 0)
    journal.close()
    assert tokens >= 0
    assert cost_nusd is None or cost_nusd >= 0
    return home


@pytest.mark.parametrize("end_s", [60, 7200], ids=["events", "roll-ups"])
def test_there_is_a_report_all_the_same(home: Path, end_s: int) -> None:
    backend = JournalBackend(home, T0 + 7200 * NS)
    calendar = Calendar()
    period = calendar.custom(T0, T0 + end_s * NS, T0 + 7200 * NS)
    report = build(backend, calendar, period, T0 + 7200 * NS)
    backend.close()
    assert report.headline("commands").value == 3 * 400
    assert isinstance(tokens := report.headline("tokens").value, int)
    assert tokens > 2**55
    for form in FORMATS:
        assert render(report, form)
