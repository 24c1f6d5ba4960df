"""The dashboard's questions, put to a real Prometheus as Grafana would, on data of known truth.

The history is written into Prometheus's storage, so nothing here waits for the clock.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import urllib3

from tests.bundle import tools
from tests.bundle.test_grafana import OVERVIEW, PANELS, VARIABLES

pytestmark = pytest.mark.integration

STEP_S = 15
HISTORY_S = 3 * 3600
RANGE_S = 3600  # what the dashboard looks at: the last hour
#: From the last sample to the moment of asking; people do not ask on the beat of the scrapes.
LATE_S = 7

#: The value of a series by seconds before the end; None where it has no sample.
Course = Callable[[int], float | None]


def counted(*events: tuple[int, float], born: int = HISTORY_S) -> Course:
    """A counter that is first seen `born` seconds before the end; events are (seconds, amount)."""

    def value(ago: int) -> float | None:
        return None if ago > born else sum(amount for at, amount in events if at >= ago)

    return value


def constant(value: float, *, until: int = 0) -> Course:
    """A gauge whose series just stops `until` seconds before the end, as a pushed one does."""
    return lambda ago: value if ago >= until else None


@dataclass(frozen=True)
class Server:
    url: str
    last: int  # the last sample

    @property
    def end(self) -> int:
        """The moment of asking."""
        return self.last + LATE_S

    def get(self, path: str, **fields: str) -> Any:
        with urllib3.PoolManager(retries=False, timeout=20.0) as pool:
            answer = pool.request("GET", f"{self.url}{path}", fields=fields)
        body = json.loads(answer.data)
        assert answer.status == 200, body
        assert not body.get("warnings") and not body.get("infos"), body
        return body["data"]

    def instant(self, expression: str) -> list[tuple[dict[str, str], float]]:
        found = self.get("/api/v1/query", query=expression, time=str(self.end))["result"]
        return [(row["metric"], float(row["value"][1])) for row in found]

    def ranged(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(
            "/api/v1/query_range",
            query=expression,
            start=str(self.end - RANGE_S),
            end=str(self.end),
            step="60",
        )["result"]
        return found


# -- the truth ------------------------------------------------------------------------------------


def histogram(name: str, labels: str, buckets: Mapping[str, int], at: int) -> dict[str, Course]:
    """Observations `at` seconds before the end; `buckets` are cumulative."""
    found = {
        f'{name}_bucket{{{labels},le="{le}"}}': counted((at, count))
        for le, count in buckets.items()
    }
    found[f"{name}_count{{{labels}}}"] = counted((at, buckets["+Inf"]))
    return found


def courses(end: int) -> dict[str, Course]:
    """All series. Journal a1 is the one looked at; b2 is another daemon's."""
    claude, codex = 'journal="a1",program="claude"', 'journal="a1",program="codex"'
    web, api = f'{claude},repository="web"', f'{codex},repository="api"'
    beat: Course = lambda ago: end - ago  # noqa: E731 - a course is a function of one line
    found: dict[str, Course] = {
        'squad_otel_heartbeat_timestamp_seconds{journal="a1"}': beat,
        'squad_otel_info{journal="a1",version="0.1.0"}': constant(1),
        'squad_otel_info{journal="b2",version="0.1.0"}': constant(1),
        'squad_otel_source_success_timestamp_seconds{journal="a1",source="git"}': beat,
        'squad_otel_source_success_timestamp_seconds{journal="a1",source="tmux"}': constant(
            end - 90
        ),
        # 5 before the hour, 7 in it; the failures are the first ever, and two before the hour
        f'squad_commands_total{{{web},tool="exec",outcome="ok"}}': counted(
            (7000, 5), (3000, 4), (30, 3)
        ),
        f'squad_commands_total{{{web},tool="exec",outcome="error"}}': counted((1200, 3), born=1230),
        f'squad_commands_total{{{api},tool="track",outcome="ok"}}': counted((9000, 1), (600, 2)),
        'squad_commands_total{journal="b2",program="claude",repository="web",tool="exec",'
        'outcome="ok"}': counted((600, 100)),
        f'squad_git_operations_total{{{web},operation="commit",outcome="ok"}}': counted(
            (8000, 9), (2000, 4)
        ),
        f'squad_git_operations_total{{{web},operation="push",outcome="error"}}': counted(
            (900, 1), born=930
        ),
        f'squad_errors_total{{{web},error_type="exit 1",severity="error",component="command"}}': (
            counted((1200, 3), born=1230)
        ),
        f'squad_token_usage_total{{{web},model="m1",type="input"}}': counted(
            (5000, 500), (1000, 1000)
        ),
        f'squad_token_usage_total{{{web},model="m1",type="output"}}': counted((1000, 50)),
        f'squad_cost_usage_total{{{web},model="m1"}}': counted((5000, 1), (1000, 0.25), (60, 0.5)),
        f'squad_cost_unpriced_total{{{api},model="m9"}}': counted((1000, 2), born=1030),
        # sessions: one works, one waits, one ended two minutes ago
        f'squad_sessions{{{web},state="running"}}': constant(1),
        f'squad_sessions{{{web},state="waiting"}}': constant(0),
        f'squad_sessions{{{api},state="waiting"}}': constant(1),
        'squad_sessions{journal="a1",program="claude",repository="old",state="waiting"}': constant(
            1, until=120
        ),
        f"squad_session_starts_total{{{web}}}": counted((9000, 1)),
    }
    for session, labels, state, until in (
        ("fix-1", claude, "running", 0),
        ("ask-2", codex, "waiting", 0),
        ("gone-3", claude, "waiting", 120),
    ):
        own = f'session="{session}",{labels}'
        place = {"fix-1": "web", "ask-2": "api", "gone-3": "old"}[session]
        waits = end - 700 if state == "waiting" else 0
        gauges = {
            f'squad_session_info{{{own},repository="{place}",branch="me/{session}"}}': 1,
            f'squad_session_state{{{own},state="running"}}': int(state == "running"),
            f'squad_session_state{{{own},state="waiting"}}': int(state == "waiting"),
            f"squad_session_waiting_timestamp_seconds{{{own}}}": waits,
            f"squad_session_last_activity_timestamp_seconds{{{own}}}": end - 40,
            f"squad_session_tokens{{{own}}}": 1550,
        }
        found |= {series: constant(value, until=until) for series, value in gauges.items()}
    found[f'squad_session_cost{{session="fix-1",{claude}}}'] = constant(1.75)
    found |= histogram(
        "squad_command_duration_seconds",
        f'{claude},tool="exec",command="pytest",error_type=""',
        {"0.32": 50, "0.64": 100, "+Inf": 100},
        at=1000,
    )
    found |= histogram(
        "squad_command_duration_seconds",
        f'{claude},tool="exec",command="make",error_type=""',
        {"0.32": 10, "0.64": 10, "+Inf": 10},
        at=7000,  # before the hour
    )
    for q, value in ((95, 0.5), (99, 0.75)):
        for labels, metric in (
            ("journal_program", "squad_command_duration_seconds"),
            ("journal_operation", "squad_git_operation_duration_seconds"),
            ("journal_program", "squad_session_duration_seconds"),
        ):
            group = 'operation="push"' if "operation" in labels else 'program="claude"'
            window = "1d" if "session" in metric else "1h"
            series = f'{labels}:{metric}:p{q}_increase{window}{{journal="a1",{group}}}'
            found[series] = constant(value)
    firing = 'ALERTS{alertstate="firing",'
    found[f'{firing}alertname="SquadWatchdog",severity="none"}}'] = constant(1)
    found[
        f'{firing}alertname="SquadSessionWaiting",severity="warning",session="ask-2",'
        'program="codex",repository="api",branch="me/ask-2",journal="a1"}'
    ] = constant(1)
    return found


def openmetrics(end: int) -> str:
    lines = []
    for series, course in courses(end).items():
        for ago in range(HISTORY_S, -1, -STEP_S):
            value = course(ago)
            if value is not None:
                lines.append(f"{series} {value} {end - ago}")
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("replay")
    end = int(time.time()) - 60
    (folder / "history.txt").write_text(openmetrics(end))
    data = folder / "data"
    tools.run(
        tools.tool("promtool"),
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        folder / "history.txt",
        data,
    )
    (folder / "prometheus.yml").write_text("{}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tools.tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        tools.wait_until_ready(url, process, folder / "log")
        yield Server(url, end)
    finally:
        process.terminate()
        process.wait(20)


# -- Grafana's part -------------------------------------------------------------------------------


def interpolated(expression: str, **chosen: str) -> str:
    """The expression with Grafana's variables replaced; what is not `chosen` is All."""
    values = {
        "__rate_interval": f"{4 * STEP_S}s",
        "__range": f"{RANGE_S}s",
        "journal": ".+",
        "program": ".+",
        "repository": ".+",
        **chosen,
    }
    for name in sorted(values, key=len, reverse=True):
        expression = expression.replace(f"${name}", values[name])
    assert "$" not in expression
    return expression


def panel(title: str) -> dict[str, Any]:
    (found,) = (panel for panel in PANELS if panel["title"] == title)
    return found


def shown(server: Server, title: str, *labels: str, ref: str = "A", **chosen: str) -> Any:
    """What a target of the panel yields: by the values of `labels`, or the one number."""
    (expression,) = (t["expr"] for t in panel(title)["targets"] if t["refId"] == ref)
    rows = server.instant(interpolated(expression, **{"journal": "a1", **chosen}))
    if labels:
        found = {tuple(row.get(label, "") for label in labels): value for row, value in rows}
        assert len(found) == len(rows)
        return found
    (row,) = rows
    assert row[0] == {}
    return row[1]


@pytest.mark.parametrize("title", [panel["title"] for panel in PANELS])
def test_every_query_is_answered_with_data(server: Server, title: str) -> None:
    for target in panel(title)["targets"]:
        expression = interpolated(target["expr"])
        answer = server.instant(expression) if target["instant"] else server.ranged(expression)
        assert answer, expression
        assert len(answer) < 50


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Sessions now", 2),
        ("Waiting for a human", 1),
        ("Commands", 7 + 3 + 2),
        ("Error rate", 3 / 12),
        ("Tokens", 1050),
        ("Cost", 0.75),
    ],
)
def test_the_first_row_is_exact(server: Server, title: str, expected: float) -> None:
    assert shown(server, title) == expected


def test_variables_filter(server: Server) -> None:
    assert shown(server, "Commands", journal=".+") == 112
    assert shown(server, "Commands", program="codex") == 2
    assert shown(server, "Commands", repository="web") == 10
    assert shown(server, "Sessions now", repository="api") == 1
    assert shown(server, "Waiting for a human", repository="web") == 0
    # nobody is there, but the daemon is alive: that is a zero
    assert shown(server, "Sessions now", repository="nowhere") == 0
    # no command that failed is no error series, and an error rate of 0
    assert shown(server, "Error rate", program="codex") == 0


def test_what_has_no_data_says_nothing(server: Server) -> None:
    for title in ("Commands", "Error rate", "Tokens", "Cost"):
        (target,) = panel(title)["targets"]
        assert server.instant(interpolated(target["expr"], repository="nowhere")) == []
    # without commands there is no rate of errors
    (target,) = panel("Error rate")["targets"]
    assert server.instant(interpolated(target["expr"], journal="gone")) == []


def test_bars_count_what_happened_in_the_range(server: Server) -> None:
    assert shown(server, "Commands by program", "program", "outcome") == {
        ("claude", "ok"): 7,
        ("claude", "error"): 3,
        ("codex", "ok"): 2,
    }
    assert shown(server, "Git operations", "operation", "outcome") == {
        ("commit", "ok"): 4,
        ("push", "error"): 1,
    }
    assert shown(server, "Errors by type", "component", "error_type") == {("command", "exit 1"): 3}
    assert shown(server, "Tokens by model", "model", "type") == {
        ("m1", "input"): 1000,
        ("m1", "output"): 50,
    }
    assert shown(server, "Cost by model", "model") == {("m1",): 0.75}
    assert shown(server, "Answers without a price", "model") == {("m9",): 2}


def test_the_sessions_table_has_the_live_sessions_only(server: Server) -> None:
    key = ("session", "program", "repository", "branch")
    fix = ("fix-1", "claude", "web", "me/fix-1")
    ask = ("ask-2", "codex", "api", "me/ask-2")
    codes = {
        entry["text"]: int(code)
        for code, entry in panel("What each session does")["fieldConfig"]["defaults"]["mappings"][
            0
        ]["options"].items()
    }
    last = server.last
    assert shown(server, "Sessions", *key) == {fix: codes["running"], ask: codes["waiting"]}
    assert shown(server, "Sessions", *key, ref="B") == {ask: (last - 700) * 1000}
    assert shown(server, "Sessions", *key, ref="C") == dict.fromkeys((fix, ask), (last - 40) * 1000)
    assert shown(server, "Sessions", *key, ref="D") == dict.fromkeys((fix, ask), 1550)
    assert shown(server, "Sessions", *key, ref="E") == {fix: 1.75}


def test_the_timeline_has_a_lane_a_session_that_ends_with_it(server: Server) -> None:
    (target,) = panel("What each session does")["targets"]
    lanes = {
        row["metric"]["session"]: row["values"]
        for row in server.ranged(interpolated(target["expr"], journal="a1"))
    }
    assert set(lanes) == {"fix-1", "ask-2", "gone-3"}
    assert lanes["fix-1"][-1][0] == server.end
    assert lanes["gone-3"][-1][0] == server.end - 120


def test_percentiles_are_of_the_range(server: Server) -> None:
    assert shown(server, "Slowest commands", "command") == {("pytest",): 100}
    p95 = shown(server, "Slowest commands", "command", ref="B")
    p99 = shown(server, "Slowest commands", "command", ref="C")
    # on the straight line between 0.32 and 0.64: 45 of 50, and 49 of 50
    assert p95 == {("pytest",): pytest.approx(0.32 + 0.32 * 45 / 50)}
    assert p99 == {("pytest",): pytest.approx(0.32 + 0.32 * 49 / 50)}


def test_alerts_and_ages(server: Server) -> None:
    assert set(shown(server, "Alerts firing", "alertname", "session")) == {
        ("SquadWatchdog", ""),
        ("SquadSessionWaiting", "ask-2"),
    }
    assert shown(server, "Age of the last heartbeat", "journal") == {("a1",): LATE_S}
    assert shown(server, "Age of each source's last good read", "source") == {
        ("git",): LATE_S,
        ("tmux",): LATE_S + 90,
    }
    (annotation,) = OVERVIEW["annotations"]["list"]
    (row,) = server.ranged(annotation["expr"])
    assert row["metric"]["alertname"] == "SquadSessionWaiting"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("journal", ["a1", "b2"]),
        ("program", ["claude", "codex"]),
        ("repository", ["api", "old", "web"]),
    ],
)
def test_variables_offer_what_is_there(server: Server, name: str, expected: list[str]) -> None:
    query = VARIABLES[name]["query"]["query"]
    selector = query.removeprefix("label_values(").rpartition(",")[0]
    found = server.get(
        f"/api/v1/label/{name}/values",
        **{
            "match[]": interpolated(selector),
            "start": str(server.end - RANGE_S),
            "end": str(server.end),
        },
    )
    assert found == expected
