"""The whole chain on real tmux, git, Prometheus and Alertmanager, against what really happened.

The squad of the demo works through its script, which writes down its own truth. The daemon is
killed in the middle, stays away while the squad works on, and comes back to a backlog.
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from squad_otel.demo.check import (
    Record,
    alert_differences,
    differences,
    prometheus_differences,
    report_differences,
    status_differences,
)
from squad_otel.demo.scenario import Scenario, Truth
from squad_otel.demo.stage import Stage
from squad_otel.ids import digest
from squad_otel.metrics import BY_NAME
from squad_otel.running import running, started_servers
from squad_otel.schema import open_reader
from tests.otlp_sink import Sink
from tests.stack import ROOT, free_port, get, program, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

_QUIET_S = 13.0  # a daemon shows nothing new in its first ten seconds


class Chain:
    """A stage with a squad, everything that watches it, and a sink behind OTLP."""

    def __init__(self, folder: Path, sink: Sink, sabotage: str = "") -> None:
        self.stage = Stage(folder)
        self.sink = sink
        self.record = Record(self.stage.record)
        self.log: list[str] = []
        tools = os.path.dirname(program("prometheus"))  # noqa: PTH120 - a folder for PATH
        environment = self.stage.environment
        environment["PATH"] += os.pathsep + os.pathsep.join(
            {tools, os.path.dirname(program("alertmanager"))}  # noqa: PTH120
        )
        environment["PYTHONPATH"] = str(ROOT)
        environment["SQUAD_OTEL_OTLP_ENDPOINT"] = sink.url
        environment["SQUAD_OTEL_PUSH_INTERVAL_S"] = "1"
        environment["SQUAD_OTEL_HTTP_PORT"] = str(free_port())  # the same after a restart
        if sabotage:
            environment["PYTHONPATH"] += os.pathsep + str(ROOT / "tests" / "sabotage")
            environment["SABOTAGE"] = sabotage
        self.scenario = Scenario(self.stage, self.say, time.sleep, self.record.times)
        self._killed = self._back = False

    @property
    def truth(self) -> Truth:
        return self.scenario.truth

    def say(self, session: str, text: str, style: str = "") -> None:
        """Told of every step when it is done. After the first recorded command the daemon dies."""
        self.log.append(f"{session}: {text}")
        if text.startswith("runs ") and not self._killed:
            self._killed = True
            time.sleep(1.2)  # in the middle of whatever is done with that record
            state = running(self.stage.record)
            assert state is not None
            os.kill(int(state["pid"]), signal.SIGKILL)
        elif text.startswith("makes a branch") and not self._back:
            self._back = True
            segments = (self.stage.record / "spool").iterdir()
            assert sum(path.stat().st_size for path in segments) > self._read_bytes(), "no backlog"
            self.stage.squad_otel("up", "--servers", "local")

    def _read_bytes(self) -> int:
        reader = open_reader(self.stage.record)
        try:
            rows = reader.execute("SELECT value FROM offsets WHERE source = 'spool'").fetchall()
        finally:
            reader.close()
        return sum(int(value) for (value,) in rows)

    def settle(self) -> None:
        """Wait until all is recorded, then a few quiet seconds, in which all is shown and read."""
        deadline = time.monotonic() + 15
        while differences(self.truth, self.record) and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(_QUIET_S)

    def differences(self) -> list[str]:
        """What any of the ways to ask does not say as it was."""
        prometheus = self.stage.address("prometheus")
        assert prometheus is not None
        assert self._killed
        assert self._back
        found = differences(self.truth, self.record)
        found += self._metrics_differences()
        found += prometheus_differences(self.truth, prometheus, self.record.journal())
        found += self._panel_differences(prometheus)
        status = self.stage.squad_otel("status", "--format", "json")
        found += status_differences(self.truth, json.loads(status))
        for source in ("journal", "prometheus"):
            report = self.stage.squad_otel(
                "report", "weekly", "--source", source, "--format", "json"
            )
            found += report_differences(self.truth, json.loads(report))
        found += self._span_differences()
        return found

    def _git_truth(self) -> int:
        return sum(n for key, n in self.truth.counts.items() if key[0].startswith("git."))

    def _metrics_differences(self) -> list[str]:
        """`/metrics`, in both formats, against the truth."""
        address = self.stage.address("daemon")
        found = []
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            text = get(f"{address}/metrics", accept)
            for metric, happened in self._totals().items():
                name = BY_NAME[metric].prometheus
                values = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
                shown = sum(float(value) for value in values)
                if shown != happened:
                    found.append(f"{name} in /metrics ({accept}): {shown}, happened {happened}")
        return found

    def _panel_differences(self, prometheus: str) -> list[str]:
        """Totals as the dashboard shows them, which sees a series only from its first sample on."""
        found = []
        for metric, happened in self._totals().items():
            name = BY_NAME[metric].prometheus
            query = f"sum(last_over_time({name}[30m]) - min_over_time({name}[30m]))"
            answer = json.loads(get(f"{prometheus}/api/v1/query?query={query}"))
            rows = answer["data"]["result"]
            shown = float(rows[0]["value"][1]) if rows else None
            if shown != happened:
                found.append(f"{name} in a panel: {shown}, happened {happened}")
        return found

    def _totals(self) -> dict[str, int]:
        counts = self.truth.counts
        return {
            "squad.git.operations": self._git_truth(),
            "squad.commands": sum(n for k, n in counts.items() if k[0] == "command.executed"),
            "squad.session.starts": self.truth.total("session.created"),
            "squad.token.usage": sum(self.truth.tokens.values()),
        }

    def _span_differences(self) -> list[str]:
        """The distinct spans at the sink, against the journal's events and against the truth."""
        reader = open_reader(self.stage.record)
        try:
            rows = reader.execute(
                "SELECT id, session, type FROM events WHERE state = 'live' AND owned = 1 AND "
                "(type LIKE 'git.%' OR type IN ('session.killed', 'command.executed'))"
            ).fetchall()
        finally:
            reader.close()
        expected = {
            digest("span", "session", session)
            if kind == "session.killed"
            else digest("span", "event", key)
            for key, session, kind in rows
        }
        wait_for(lambda: {s["span_id"] for s in self.sink.spans()} >= expected, "all spans", 15)
        arrived = {s["span_id"]: s["raw"] for s in self.sink.spans()}
        found = []
        if set(arrived) != expected:
            found.append(f"{len(arrived)} distinct spans, the journal has {len(expected)}")
        if len({(s["span_id"], s["raw"]) for s in self.sink.spans()}) != len(arrived):
            found.append("a span that was sent again is another one")
        happened = (
            self._git_truth()
            + self._totals()["squad.commands"]
            + self.truth.total("session.killed")
        )
        if len(arrived) != happened:
            found.append(f"{len(arrived)} distinct spans, {happened} happened")
        return found


@contextmanager
def chain(sabotage: str = "") -> Iterator[Chain]:
    """A chain that is up, in a folder short enough for tmux; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="sq", dir="/tmp") as folder:
        sink = Sink(Path(folder) / "sink")
        with sink:
            made = Chain(Path(folder) / "s", sink, sabotage)
            made.stage.prepare()
            try:
                made.scenario.build()
                made.stage.start()
                yield made
            finally:
                made.record.close()
                made.scenario.close()
                killed = made.stage.end()
            assert killed == [], f"had to be killed: {killed}"
            assert made.stage.processes() == []


def test_every_way_to_ask_says_what_happened() -> None:
    with chain() as made:
        made.scenario.play(alert=True)
        made.settle()
        assert made.differences() == [], "\n".join(made.log)
        assert alert_differences(made.truth, made.stage.deliveries()) == []
        assert started_servers(made.stage.record).url("alertmanager") is not None


def _short_play(scenario: Scenario) -> None:
    """Two of the acts: enough for a kill, a backlog, and events of most kinds."""
    shop = scenario._enter("checkout page", "webshop", "claude")
    scenario._pull(shop)
    retry = scenario._enter("retry payments", "payments", "codex")
    scenario._begin_retry(retry)


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        ("", ()),
        ("fold_twice", ("in /metrics", "in Prometheus")),
        ("offset_outside", ("happened",)),
        ("no_birth_hold", ("in a panel",)),
    ],
)
def test_this_test_sees_a_broken_promise(sabotage: str, words: Sequence[str]) -> None:
    with chain(sabotage) as made:
        _short_play(made.scenario)
        made.settle()
        found = made.differences()
    if not words:
        assert found == [], "\n".join(made.log)
    for word in words:
        assert any(word in line for line in found), f"{sabotage} went unnoticed: {found}"
