"""The Prometheus part of the bundle: configuration, rules, their tests and the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from squad_otel.settings import ALERT_THRESHOLDS
from tests.bundle import tools
from tests.bundle.promql import Labels, known_series, labels_of, walk

PROMETHEUS = tools.ROOT / "prometheus"
RULE_FILES = tools.sorted_files(PROMETHEUS / "rules", "*.yml")
TEST_FILES = tools.sorted_files(PROMETHEUS / "tests", "*_test.yml")

Rule = dict[str, Any]


def _rules() -> list[Rule]:
    return [
        rule
        for path in RULE_FILES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


RECORDED = [rule for rule in _rules() if "record" in rule]
ALERTS = [rule for rule in _rules() if "alert" in rule]


def recorded_series() -> dict[str, Labels]:
    """The series of the recording rules, with the labels that their names promise."""
    return {rule["record"]: frozenset(rule["record"].split(":")[0].split("_")) for rule in RECORDED}


def _name(rule: Rule) -> str:
    return str(rule.get("alert") or rule["record"])


# -- by Prometheus's own tools --------------------------------------------------------------------


def test_promtool_accepts_the_rules() -> None:
    promtool = tools.tool("promtool")
    said = tools.run(promtool, "check", "rules", *RULE_FILES)
    counts = [int(count) for count in re.findall(r"(\d+) rules found", said)]
    assert sum(counts) == len(RECORDED) + len(ALERTS)


def test_promtool_passes_the_rules_tests() -> None:
    tools.run(tools.tool("promtool"), "test", "rules", *TEST_FILES)


def test_promtool_accepts_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promtool = tools.tool("promtool")
    path = PROMETHEUS / "prometheus.yml"
    if tools.version(promtool) < (3, 11):
        config = yaml.safe_load(path.read_text())
        # Compose pins a Prometheus that knows these two; an older promtool does not.
        del config["otlp"], config["storage"]["tsdb"]["retention"]
        config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
        path = tmp_path / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        with capsys.disabled():
            print("\nprometheus.yml: checked without otlp and retention, unknown to this promtool")
    assert f"{len(RULE_FILES)} rule files found" in tools.run(promtool, "check", "config", path)


# -- by what the package knows --------------------------------------------------------------------


@pytest.mark.parametrize("rule", RECORDED, ids=_name)
def test_a_recorded_name_says_its_labels_and_its_metric(rule: Rule) -> None:
    """level:metric:operations, of labels and metrics that are there."""
    labels = labels_of(rule["expr"], known_series() | recorded_series())
    assert labels == recorded_series()[rule["record"]]
    _level, metric, operations = rule["record"].split(":")
    source = next(
        node.name
        for node in walk(promql.parse(rule["expr"]))
        if type(node).__name__ == "VectorSelector"
    )
    assert metric in source.replace("_total", "")
    assert re.fullmatch(r"(p95_|p99_)?increase\d+[mhd]", operations)


@pytest.mark.parametrize("rule", ALERTS, ids=_name)
def test_an_alert_uses_labels_and_metrics_that_are_there(rule: Rule) -> None:
    labels = labels_of(rule["expr"], known_series() | recorded_series())
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert named <= labels
    if rule["alert"] != "SquadWatchdog":
        assert "journal" in labels, "inhibition and silences go by journal"


@pytest.mark.parametrize("rule", ALERTS, ids=_name)
def test_an_alert_follows_the_conventions(rule: Rule) -> None:
    name = rule["alert"]
    assert re.fullmatch(r"Squad[A-Z][A-Za-z]+", name)
    assert rule["labels"]["severity"] in ("critical", "warning", "info", "none")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["summary"].endswith(".")
    assert "{{" not in annotations["summary"], "a summary is constant"
    assert annotations["description"].endswith(".")
    assert annotations["runbook_url"] == f"docs/runbook.md#{name.lower()}"


@pytest.mark.parametrize("rule", ALERTS, ids=_name)
def test_an_alert_has_its_runbook(rule: Rule) -> None:
    text = (tools.ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    section = sections[rule["alert"]]
    for part in ("What it means", "Impact", "Check first", "Fix", "Silence it when"):
        assert f"**{part}" in section
    assert set(sections) == {other["alert"] for other in ALERTS}


#: What must be shown of each alert, as words in the names of its promtool tests.
_KINDS = ("fires", "silent", "without data", "several", "stale")


@pytest.mark.parametrize("rule", ALERTS, ids=_name)
def test_an_alert_is_tested_in_each_way(rule: Rule) -> None:
    name = rule["alert"]
    cases = [
        test
        for path in TEST_FILES
        for test in yaml.safe_load(path.read_text())["tests"]
        if any(check["alertname"] == name for check in test.get("alert_rule_test", ()))
    ]
    names = " / ".join(test["name"] for test in cases)
    if name == "SquadWatchdog":
        assert "without any data" in names
        return
    for kind in ("first events ever", *_KINDS) if "commands" in rule["expr"] else _KINDS:
        words = ("apart",) if kind == "several" else (kind,)
        assert any(word in names for word in words), f"no test of {name}: {kind}"
    expected = [check["exp_alerts"] for test in cases for check in test["alert_rule_test"]]
    assert any(expected), "none that fires"
    assert not all(expected), "none that stays silent"


def test_thresholds_are_the_published_ones() -> None:
    used: set[str] = set()
    for rule in ALERTS:
        found = set(re.findall(r'squad_alert_threshold\{alert="(\w+)"\}', rule["expr"]))
        compares = rule["alert"] != "SquadWatchdog"
        assert (rule["alert"] in found) == compares, f"{rule['alert']} has no threshold of its own"
        used |= found
    assert used == set(ALERT_THRESHOLDS)


def test_rules_read_thresholds_and_heartbeat_past_a_gap() -> None:
    """A plain instant of a threshold ends five minutes after the daemon, and the alert with it."""
    for rule in ALERTS:
        text = re.sub(r"\s+", "", rule["expr"])
        plain = text.count("squad_alert_threshold{")
        assert text.count("last_over_time(squad_alert_threshold{") == plain


def test_what_prometheus_receives_is_named_as_what_it_scrapes() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert config["otlp"] == {"translation_strategy": "UnderscoreEscapingWithSuffixes"}
    assert config["storage"]["tsdb"]["out_of_order_time_window"] == "30m"


# -- the inference itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("squad_comands_total", "there is no metric"),
        ('squad_commands_total{branch="x"}', "has no label 'branch'"),
        ("sum by (session) (squad_commands_total)", "no label"),
        ("squad_sessions * on (session) squad_session_info", "to match on"),
        ("squad_session_state * on (session) group_left (model) squad_session_info", "no label"),
        ("histogram_quantile(0.9, sum by (program) (squad_command_duration_seconds_bucket))", "le"),
        ("squad_command_duration_seconds", "there is no metric"),
    ],
)
def test_a_wrong_expression_is_refused(expression: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        labels_of(expression, known_series())
