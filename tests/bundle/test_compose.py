"""docker-compose.yml and the files that it mounts for the Collector and Tempo.

compose-spec.json is the published schema of the Compose specification, from compose-go 2.14.0
(Apache-2.0), unchanged.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.bundle import tools

FILE = tools.ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

each_service = pytest.mark.parametrize("name", SERVICES)


def _compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run([*command, "version"], capture_output=True, timeout=60)
        if done.returncode == 0:
            return command
    return None


def test_the_file_follows_the_published_schema() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


def test_compose_accepts_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    command = _compose_command()
    with capsys.disabled():
        if command is None:
            print("\ndocker-compose.yml: no `docker compose` here, checked by its schema only")
            return
        print(f"\ndocker-compose.yml: checked by `{' '.join(command)} config`")
    said = tools.run(*command, "--file", FILE, "config", "--format", "json")
    shown = json.loads(said[said.index("{") :])
    assert set(shown["services"]) == set(SERVICES)
    for service in shown["services"].values():
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1"


def test_all_servers_are_there_and_each_keeps_its_data() -> None:
    assert set(SERVICES) == {"collector", "prometheus", "alertmanager", "grafana", "tempo"}
    for name in COMPOSE["volumes"]:
        assert any(volume.startswith(f"{name}:") for volume in SERVICES[name]["volumes"])


@each_service
def test_a_service_is_published_on_loopback_only(name: str) -> None:
    service = SERVICES[name]
    assert "network_mode" not in service
    for port in service.get("ports", ()):
        found = re.fullmatch(r"127\.0\.0\.1:\$\{(SQUAD_[A-Z]+_PORT):-\d+\}:\d+", port)
        assert found is not None, port
        assert found[1] in FILE.read_text().split("services:")[0], "documented at the top"


@each_service
def test_an_image_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@each_service
def test_a_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]
    assert not {"privileged", "cap_add", "pid", "devices"} & set(service)


@each_service
def test_a_service_says_how_healthy_it_is(name: str) -> None:
    """The Collector's image has nothing to ask with; Prometheus scrapes it instead."""
    if name == "collector":
        assert "healthcheck" not in SERVICES[name]
        scraped = (tools.ROOT / "prometheus" / "prometheus.yml").read_text()
        assert "collector:8888" in scraped
        return
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert "localhost" not in " ".join(check["test"]), "it may be IPv6 there"


@each_service
def test_what_is_mounted_is_in_the_bundle_and_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        text = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", volume)
        source, *rest = text.split(":")
        if source in COMPOSE["volumes"]:
            continue
        assert source.startswith("./")
        assert (tools.ROOT / source).exists()
        assert rest[-1] == "ro"


@each_service
def test_nothing_waits_for_tempo(name: str) -> None:
    """Its image may be missing; the others come up without it."""
    assert "tempo" not in SERVICES[name].get("depends_on", ())


def test_environment_variables_of_compose_are_no_settings() -> None:
    """The daemon refuses an unknown SQUAD_OTEL_… variable, so Compose's have another prefix."""
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    assert used
    assert not [name for name in used if name.startswith("SQUAD_OTEL_")]
    assert all(name in FILE.read_text().split("services:")[0] for name in used)


def test_grafana_lets_people_look_and_downloads_nothing() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "${SQUAD_GRAFANA_ROLE:-Viewer}"
    for key, value in environment.items():
        if "CHECK_FOR" in key or "REPORTING" in key or "NEWS_FEED" in key:
            assert value == "false", key
    assert environment["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"
    assert not [key for key in environment if "PASSWORD" in key]


# -- what is mounted ------------------------------------------------------------------------------

COLLECTOR: dict[str, Any] = yaml.safe_load(
    (tools.ROOT / "otel-collector" / "config.yml").read_text()
)

#: Of the core distribution, in the ids of today.
_CORE = {"otlp", "memory_limiter", "otlp_http", "health_check"}


def test_the_collector_uses_what_it_defines_of_the_core_distribution() -> None:
    for kind in ("receivers", "processors", "exporters", "extensions"):
        defined = set(COLLECTOR[kind])
        assert {name.split("/")[0] for name in defined} <= _CORE
        used = set(COLLECTOR["service"].get(kind, ()))
        for pipeline in COLLECTOR["service"]["pipelines"].values():
            used |= set(pipeline.get(kind, ()))
        assert used == defined


def test_the_collector_listens_where_compose_publishes() -> None:
    endpoint = COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert endpoint == "0.0.0.0:4318"
    assert SERVICES["collector"]["ports"] == ["127.0.0.1:${SQUAD_COLLECTOR_PORT:-14318}:4318"]


def test_one_push_stays_one_request_in_its_order() -> None:
    """So all series of a push become visible at once, and late ones still land."""
    metrics = COLLECTOR["service"]["pipelines"]["metrics"]
    assert not [name for name in metrics["processors"] if name.startswith("batch")]
    exporter = COLLECTOR["exporters"]["otlp_http/prometheus"]
    assert exporter["sending_queue"]["num_consumers"] == 1
    prometheus = yaml.safe_load((tools.ROOT / "prometheus" / "prometheus.yml").read_text())
    window = prometheus["storage"]["tsdb"]["out_of_order_time_window"]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == window


def test_the_collector_accepts_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    collector = shutil.which("otelcol")
    if collector is None:
        with capsys.disabled():
            print("\notel-collector/config.yml: no `otelcol` here, checked by its references only")
        return
    tools.run(collector, "validate", f"--config={tools.ROOT / 'otel-collector' / 'config.yml'}")


def test_tempo_listens_where_the_collector_and_grafana_look() -> None:
    tempo = yaml.safe_load((tools.ROOT / "tempo" / "tempo.yml").read_text())
    port = tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert port == "0.0.0.0:4318"
    endpoint = COLLECTOR["exporters"]["otlp_http/traces"]["endpoint"]
    assert endpoint == "${env:TRACES_ENDPOINT:-http://tempo:4318}"
    assert tempo["usage_report"]["reporting_enabled"] is False
    folders = [tempo["storage"]["trace"][kind]["path"] for kind in ("wal", "local")]
    assert all(folder.startswith("/var/tempo/") for folder in folders)
