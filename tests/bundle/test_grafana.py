"""The Grafana part of the bundle: provisioning and the dashboard."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from squad_otel.sessions import LIVE_STATES
from tests.bundle import tools
from tests.bundle.promql import Labels, known_series, labels_of, walk
from tests.bundle.test_compose import SERVICES
from tests.bundle.test_rules import ALERTS, recorded_series

FOLDER = tools.ROOT / "grafana"
DASHBOARDS = tools.sorted_files(FOLDER / "dashboards", "*.json")
OVERVIEW: dict[str, Any] = json.loads((FOLDER / "dashboards" / "overview.json").read_text())
PANELS: list[dict[str, Any]] = OVERVIEW["panels"]
VARIABLES: dict[str, dict[str, Any]] = {row["name"]: row for row in OVERVIEW["templating"]["list"]}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))

#: A recognisable value for each of Grafana's own variables.
_MACROS = {"$__rate_interval": "61s", "$__range": "3607s", "$__interval": "17s"}


def _alert_labels() -> Labels:
    known = known_series() | recorded_series()
    found = {"alertname", "alertstate", "severity"}
    for rule in ALERTS:
        found |= labels_of(rule["expr"], known)
    return frozenset(found)


def series() -> dict[str, Labels]:
    """All that panels may ask for."""
    return known_series() | recorded_series() | {"ALERTS": _alert_labels()}


def plain(expression: str) -> str:
    """PromQL of what stands in a panel."""
    for macro, value in sorted(_MACROS.items(), key=lambda pair: -len(pair[0])):
        expression = expression.replace(macro, value)
    return re.sub(r"\$(\w+)", ".+", expression)


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_committed_dashboard_is_what_its_description_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tools.ROOT))
    tools.run(sys.executable, FOLDER / "build.py", "--check")


def test_there_is_one_dashboard() -> None:
    assert [path.name for path in DASHBOARDS] == ["overview.json"]
    assert OVERVIEW["uid"] == "squad-overview"
    assert "apiVersion" not in OVERVIEW, "the classic model: provisioning of the new one fails"
    assert OVERVIEW["editable"] is False


def test_panels_have_their_own_ids_and_places() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in PANELS]
    for place in places:
        assert place["x"] + place["w"] <= 24
        assert min(place["w"], place["h"]) > 0
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@each_panel
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["noValue"] == "no data"
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]


@each_panel
def test_a_panel_asks_for_labels_and_metrics_that_are_there(panel: dict[str, Any]) -> None:
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)
    for target in panel["targets"]:
        labels = labels_of(plain(target["expr"]), series())
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert legend <= labels
        if target["format"] == "time_series" and target["legendFormat"].count("{{") == 0:
            assert not labels, "one number, else the legend has to tell the series apart"
        # a table or a number is of one moment, a graph of many
        assert target["instant"] is (panel["type"] not in ("timeseries", "state-timeline"))
        assert target["range"] is not target["instant"]


@each_panel
def test_a_table_names_only_columns_that_it_has(panel: dict[str, Any]) -> None:
    if panel["type"] != "table":
        return
    many = len(panel["targets"]) > 1
    columns = {"Time", *(f"Value #{t['refId']}" if many else "Value" for t in panel["targets"])}
    for target in panel["targets"]:
        columns |= labels_of(plain(target["expr"]), series())
    organize = panel["transformations"][-1]["options"]
    shown = set(organize["renameByName"])
    assert shown | set(organize["excludeByName"]) == columns
    headings = set(organize["renameByName"].values())
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["options"] in headings


@pytest.mark.parametrize("expression", expressions())
def test_rates_are_for_rates_and_differences_for_totals(expression: str) -> None:
    for node in walk(promql.parse(plain(expression))):
        if type(node).__name__ != "Call":
            continue
        assert node.func.name not in ("increase", "irate", "delta"), "it extrapolates"
        if node.func.name == "rate":
            assert str(node.args[0].range) in ("0:01:01", "61"), "$__rate_interval"
    assert ("$__rate_interval" in expression) == ("rate(" in expression)
    if re.search(r"_total|_bucket\{|_count\{", expression) and "rate(" not in expression:
        assert "offset $__range or min_over_time(" in expression


def test_every_counter_or_gauge_is_filtered_by_the_variables_that_it_carries() -> None:
    filters = {name for name, row in VARIABLES.items() if row["type"] == "query"}
    for expression in expressions():
        for node in walk(promql.parse(plain(expression))):
            if type(node).__name__ != "VectorSelector" or node.name == "ALERTS":
                continue
            given = {matcher.name for matcher in node.matchers.matchers}
            assert filters & series()[node.name] <= given, node.prettify()


def test_promtool_understands_every_query(tmp_path: Path) -> None:
    """A second opinion beside promql-parser's."""
    rules = [
        {"record": f"panel:{number}", "expr": plain(expression)}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in tools.run(tools.tool("promtool"), "check", "rules", path)


def test_variables_are_there_and_ask_for_what_is_there() -> None:
    assert list(VARIABLES) == ["datasource", "journal", "program", "repository"]
    assert VARIABLES["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$(?!__)(\w+)", json.dumps(PANELS)))
    assert used <= set(VARIABLES)
    for name, row in VARIABLES.items():
        if row["type"] != "query":
            continue
        assert row["multi"] and row["includeAll"] and row["allValue"] == ".+"
        query = re.fullmatch(r"label_values\((.+), (\w+)\)", row["query"]["query"])
        assert query is not None
        assert query[2] == name
        selector: Any = promql.parse(plain(query[1]))
        names = [selector.name] if selector.name else []
        for matcher in selector.matchers.matchers:
            if matcher.name == "__name__":
                names += matcher.value.split("|")
        assert names
        assert all(name in known_series()[metric] for metric in names)
        assert row["definition"] == row["query"]["query"]


def test_every_state_has_its_colour_on_the_timeline() -> None:
    (timeline,) = (panel for panel in PANELS if panel["type"] == "state-timeline")
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    shown = {entry["text"]: int(code) for code, entry in mapping["options"].items()}
    assert set(shown) == {str(state) for state in LIVE_STATES}
    expression = timeline["targets"][0]["expr"]
    asked = re.findall(r'state="(\w+)"} == 1\) \* (\d+)', expression)
    assert {state: int(code) for state, code in asked} == shown


def test_the_overview_answers_the_first_questions_first() -> None:
    top = [panel["title"] for panel in PANELS if panel["gridPos"]["y"] == 0]
    assert top == [
        "Sessions now",
        "Waiting for a human",
        "Commands",
        "Error rate",
        "Tokens",
        "Cost",
    ]


def test_data_sources_are_the_servers_of_compose() -> None:
    path = FOLDER / "provisioning" / "datasources" / "squad.yml"
    sources = {row["uid"]: row for row in yaml.safe_load(path.read_text())["datasources"]}
    assert set(sources) == {"prometheus", "alertmanager", "tempo"}
    for uid, source in sources.items():
        assert source["type"] == uid
        host = re.fullmatch(r"http://([a-z]+):\d+", source["url"])
        assert host is not None
        assert host[1] in SERVICES
        assert source["editable"] is False
    assert sources["prometheus"]["jsonData"]["alertmanagerUid"] in sources
    assert sources["prometheus"]["isDefault"] is True
    version = sources["prometheus"]["jsonData"]["prometheusVersion"]
    assert SERVICES["prometheus"]["image"].endswith(f":v{version}")


def test_dashboards_are_read_from_where_compose_puts_them() -> None:
    path = FOLDER / "provisioning" / "dashboards" / "squad.yml"
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in SERVICES["grafana"]["volumes"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/overview.json"
