"""What `up` writes and remembers; the servers themselves are started in the integration tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import psutil
import yaml

from squad_otel import servers
from squad_otel.running import Server, Started, save, started_servers
from squad_otel.settings import Settings


def test_the_webhook_is_put_into_every_receiver_that_has_a_place() -> None:
    shipped = (servers.bundle_folder() / "alertmanager" / "alertmanager.yml").read_text()
    url = 'http://127.0.0.1:5001/a"b'
    receivers = {
        r["name"]: r for r in yaml.safe_load(servers.alertmanager_config(shipped, url))["receivers"]
    }
    for name in ("critical", "warning", "info"):
        assert receivers[name]["webhook_configs"] == [{"url": url, "send_resolved": True}]
    assert "webhook_configs" not in receivers["watchdog"]
    assert servers.alertmanager_config(shipped, "") == shipped


def test_prometheus_is_told_to_scrape_the_daemon_and_to_load_the_rules(tmp_path: Path) -> None:
    settings = Settings(scrape_interval_s=1.5)
    config = servers.prometheus_config(
        settings, "127.0.0.1:1234", "http://127.0.0.1:5678", servers.bundle_folder()
    )
    assert config["global"]["scrape_interval"] == "1500ms"  # type: ignore[index]
    (job,) = config["scrape_configs"]  # type: ignore[misc]
    assert job["job_name"] == "squad"
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:1234"]
    (pattern,) = config["rule_files"]  # type: ignore[misc]
    assert len(list(Path(pattern).parent.glob("*.yml"))) >= 2
    assert "5678" in json.dumps(config["alerting"])
    assert "alerting" not in servers.prometheus_config(
        settings, "x:1", None, servers.bundle_folder()
    )


def test_only_the_very_process_that_was_started_counts_as_ours() -> None:
    child = subprocess.Popen(["sleep", "60"])
    created = psutil.Process(child.pid).create_time()
    ours = Server(name="x", url="", pid=child.pid, created=created)
    other = Server(name="x", url="", pid=child.pid, created=created - 100)
    assert ours.process is not None
    assert other.process is None
    assert not servers.stop(other)
    assert child.poll() is None
    assert servers.stop(ours)
    child.wait()
    assert not psutil.pid_exists(child.pid)
    assert not servers.stop(ours)


def test_what_was_started_is_remembered_and_garbage_is_nothing(tmp_path: Path) -> None:
    assert started_servers(tmp_path / "home") == Started()
    me = psutil.Process()
    started = Started(
        local={
            "prometheus": Server(
                name="prometheus", url="http://p", pid=os.getpid(), created=me.create_time()
            )
        },
        compose={"grafana": "http://127.0.0.1:3000"},
    )
    save(tmp_path / "home", started)
    loaded = started_servers(tmp_path / "home")
    assert loaded == started
    assert loaded.url("prometheus") == "http://p"
    assert loaded.url("grafana") == "http://127.0.0.1:3000"
    assert loaded.url("tempo") is None
    (tmp_path / "home" / "servers.json").write_text('{"local": [')
    assert started_servers(tmp_path / "home") == Started()


def test_published_addresses_are_read_in_both_forms_that_compose_prints() -> None:
    row = {
        "Service": "grafana",
        "Publishers": [{"PublishedPort": 3000}, {"PublishedPort": 0}],
    }
    quiet = {"Service": "tempo", "Publishers": None}
    expected = {"grafana": "http://127.0.0.1:3000"}
    assert servers.compose_addresses(json.dumps([row, quiet])) == expected
    assert servers.compose_addresses(f"{json.dumps(row)}\n{json.dumps(quiet)}\n") == expected
    assert servers.compose_addresses("") == {}


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = servers.free_port(port)
        assert other != port
        assert servers.free_port(other) == other


def test_compose_says_why_it_cannot_be_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert servers.compose_answers() == "no docker command"
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" = compose ] && exit 0\nexit 1\n')
    docker.chmod(0o755)
    assert servers.compose_answers() == "no Docker engine answers"
    docker.write_text("#!/bin/sh\nexit 1\n")
    assert servers.compose_answers() == "docker has no compose plugin"
    docker.write_text("#!/bin/sh\nexit 0\n")
    assert servers.compose_answers() is None
