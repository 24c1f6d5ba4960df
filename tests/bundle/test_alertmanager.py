"""The Alertmanager part of the bundle: routes, receivers, inhibition and templates."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from squad_otel.servers import alertmanager_config
from tests.bundle import tools
from tests.bundle.test_rules import ALERTS

FOLDER = tools.ROOT / "alertmanager"
CONFIG = FOLDER / "alertmanager.yml"


def _config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return loaded


def _written(folder: Path, text: str) -> Path:
    shutil.copytree(FOLDER / "templates", folder / "templates")
    path = folder / "alertmanager.yml"
    path.write_text(text)
    return path


def test_amtool_accepts_the_configuration() -> None:
    said = tools.run(tools.tool("amtool"), "check-config", CONFIG)
    assert f"{len(_config()['receivers'])} receivers" in said
    assert "1 templates" in said


def test_the_examples_are_ready_to_use(tmp_path: Path) -> None:
    text, count = re.subn(r"^( +)#: ", r"\1", CONFIG.read_text(), flags=re.MULTILINE)
    assert count > 10
    path = _written(tmp_path, text)
    tools.run(tools.tool("amtool"), "check-config", path)
    kinds = {
        key
        for receiver in yaml.safe_load(text)["receivers"]
        for key in receiver
        if key.endswith("_configs")
    }
    assert kinds == {"slack_configs", "email_configs", "webhook_configs"}


def test_the_webhook_of_the_settings_fits_where_it_is_marked(tmp_path: Path) -> None:
    text = alertmanager_config(CONFIG.read_text(), 'http://127.0.0.1:5001/a"b')
    tools.run(tools.tool("amtool"), "check-config", _written(tmp_path, text))
    hooked = {
        receiver["name"]: receiver["webhook_configs"]
        for receiver in yaml.safe_load(text)["receivers"]
        if "webhook_configs" in receiver
    }
    webhook = {"url": 'http://127.0.0.1:5001/a"b', "send_resolved": True}
    assert hooked == {name: [webhook] for name in ("critical", "warning", "info")}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_alerts_are_routed_by_severity(rule: dict[str, Any]) -> None:
    severity = rule["labels"]["severity"]
    receiver = "watchdog" if severity == "none" else severity
    tools.run(
        tools.tool("amtool"),
        "config",
        "routes",
        "test",
        f"--config.file={CONFIG}",
        f"--verify.receivers={receiver}",
        f"alertname={rule['alert']}",
        f"severity={severity}",
        "journal=a1",
    )


@pytest.mark.parametrize(
    ("severity", "receiver"), [("info", "info"), ("", "warning"), ("page", "warning")]
)
def test_no_severity_is_lost(severity: str, receiver: str) -> None:
    tools.run(
        tools.tool("amtool"),
        "config",
        "routes",
        "test",
        f"--config.file={CONFIG}",
        f"--verify.receivers={receiver}",
        "alertname=Other",
        *([f"severity={severity}"] if severity else []),
    )


def test_inhibition_asks_for_the_label_that_it_compares() -> None:
    """Two alerts that both lack a label of `equal` count as equal."""
    rules = _config()["inhibit_rules"]
    assert rules
    for rule in rules:
        assert "journal" in rule["equal"]
        for side in ("source_matchers", "target_matchers"):
            assert 'journal =~ ".+"' in rule[side]


def test_nothing_secret_is_in_the_file() -> None:
    for key in re.findall(r"\b(\w*(?:password|token|api_url|secret|key)\w*):", CONFIG.read_text()):
        assert key.endswith("_file"), key


def test_templates_say_what_happened(tmp_path: Path) -> None:
    alert = {
        "status": "firing",
        "labels": {"alertname": "SquadSessionWaiting", "severity": "warning"},
        "annotations": {
            "summary": "A session waits for a human.",
            "description": "fix-login waits for an answer.",
            "runbook_url": "docs/runbook.md#squadsessionwaiting",
        },
        "startsAt": "2026-11-26T18:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
    }
    shown = _rendered(tmp_path, alert)
    assert shown[0] == "1 firing: SquadSessionWaiting (warning)"
    assert shown[1].splitlines() == [
        "A session waits for a human.",
        "fix-login waits for an answer.",
        "What to do: docs/runbook.md#squadsessionwaiting",
    ]


def test_the_templates_show_names_as_they_are(tmp_path: Path) -> None:
    evil = '{{ template "squad.title" . }}{{ .ExternalURL }}<b>$(x)</b>"\'%s'
    alert = {
        "status": "firing",
        "labels": {"alertname": evil, "severity": evil},
        "annotations": {"summary": evil, "description": evil, "runbook_url": evil},
        "startsAt": "2026-11-26T18:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
    }
    title, text = _rendered(tmp_path, alert)
    assert title == f"1 firing: {evil} ({evil})"
    assert text.splitlines() == [evil, evil, f"What to do: {evil}"]


def _rendered(tmp_path: Path, alert: dict[str, object]) -> list[str]:
    """Title and text of a notification about one alert."""
    data = tmp_path / "data.json"
    data.write_text(
        json.dumps({"status": "firing", "alerts": [alert], "commonLabels": alert["labels"]})
    )
    return [
        tools.run(
            tools.tool("amtool"),
            "template",
            "render",
            f"--template.glob={FOLDER / 'templates' / '*.tmpl'}",
            f"--template.data={data}",
            f'--template.text={{{{ template "{name}" . }}}}',
        ).strip()
        for name in ("squad.title", "squad.text")
    ]


# -- by a running Alertmanager --------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of an Alertmanager with the shipped configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                tools.tool("alertmanager", "prometheus-alertmanager"),
                f"--config.file={CONFIG}",
                f"--storage.path={tmp_path / 'data'}",
                f"--web.listen-address={url.removeprefix('http://')}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        tools.wait_until_ready(url, process, tmp_path / "log")
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.integration
def test_a_daemon_that_is_gone_mutes_its_own_alerts_only(server: str) -> None:
    alerts = [
        {"alertname": "SquadDaemonGone", "severity": "critical", "journal": "a1"},
        {"alertname": "SquadSourceFailing", "severity": "warning", "journal": "a1"},
        {"alertname": "SquadSessionWaiting", "severity": "warning", "journal": "b2"},
        {"alertname": "SquadWatchdog", "severity": "none"},
        # two that lack the label: that does not make them belong together
        {"alertname": "Foreign", "severity": "critical"},
        {"alertname": "Foreign", "severity": "warning"},
        # the same alert at two severities
        {"alertname": "Twofold", "severity": "critical", "journal": "b2"},
        {"alertname": "Twofold", "severity": "info", "journal": "b2"},
    ]
    with urllib3.PoolManager(retries=False, timeout=5.0) as pool:
        url = f"{server}/api/v2/alerts"
        sent = pool.request("POST", url, json=[{"labels": labels} for labels in alerts])
        assert sent.status == 200, sent.data
        expected = {("SquadSourceFailing", "warning"), ("Twofold", "info")}
        for _ in range(100):
            answer = json.loads(pool.request("GET", url).data)
            muted = {
                (row["labels"]["alertname"], row["labels"]["severity"])
                for row in answer
                if row["status"]["inhibitedBy"]
            }
            pending = [row for row in answer if row["status"]["state"] == "unprocessed"]
            if len(answer) == len(alerts) and not pending and muted >= expected:
                break
            time.sleep(0.1)
    assert not pending
    assert muted == expected
