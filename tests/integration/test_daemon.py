"""The daemon as a process: its HTTP, its end, a source that fails, and `up` and `down`."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from squad_otel import spool
from squad_otel.metrics import BY_NAME
from squad_otel.schema import open_reader
from tests.stack import Stack, ended, get, program, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    with ended(made.daemon):
        made.start_daemon()
        yield made


def spooled(stack: Stack, number: int) -> None:
    lines = [spool.encode({"type": "prompt.sent", "at": time.time_ns()}) for _ in range(number)]
    spool.append(stack.home, lines)


def recorded(stack: Stack) -> int:
    reader = open_reader(stack.home)
    try:
        row = reader.execute("SELECT count(*) FROM events WHERE type = 'prompt.sent'").fetchone()
        return int(row[0])
    finally:
        reader.close()


def test_metrics_are_clean_under_promtools_lint(stack: Stack) -> None:
    spooled(stack, 3)
    wait_for(lambda: recorded(stack) == 3, "the record")
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        text = get(f"{stack.url}/metrics", accept)
        assert text.endswith("# EOF\n") is bool(accept)
    plain = get(f"{stack.url}/metrics")
    lint = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=plain,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
    assert BY_NAME["squad.prompts"].prometheus + "{" in plain


@pytest.mark.parametrize(
    ("headers", "method", "path", "status"),
    [
        ({}, "GET", "/healthz", 200),
        ({"Host": "localhost"}, "GET", "/metrics", 200),
        ({"Host": "evil.example.org"}, "GET", "/metrics", 403),
        ({"Host": "127.0.0.1.evil.example.org:80"}, "GET", "/metrics", 403),
        ({"Origin": "http://evil.example.org"}, "GET", "/metrics", 403),
        ({}, "POST", "/metrics", 405),
        ({}, "GET", "/", 404),
        ({}, "GET", "/../etc/passwd", 404),
    ],
)
def test_http_answers_loopback_alone(
    stack: Stack, headers: dict[str, str], method: str, path: str, status: int
) -> None:
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        assert pool.request(method, stack.url + path, headers=headers).status == status


def test_a_stop_in_order_keeps_all_and_leaves_no_pid_file(stack: Stack) -> None:
    spooled(stack, 5)
    wait_for(lambda: recorded(stack) == 5, "the record")
    assert stack.daemon.stop() == 0
    assert not (stack.home / "daemon.json").exists()
    spooled(stack, 7)  # while nobody reads
    stack.start_daemon()
    wait_for(lambda: recorded(stack) == 12, "what was left meanwhile")
    reader = open_reader(stack.home)
    kinds = [row[0] for row in reader.execute("SELECT type FROM events WHERE source = 'daemon'")]
    reader.close()
    assert kinds == ["system.start", "system.stop", "system.start"]


def test_a_second_daemon_of_the_same_home_is_refused(stack: Stack) -> None:
    done = stack.run("daemon", "run", check=False)
    assert done.returncode == 1
    assert "squad-otel down" in done.stderr
    get(f"{stack.url}/healthz")


def test_a_taken_port_is_said(stack: Stack, tmp_path: Path) -> None:
    other = {**stack.environ, "SQUAD_OTEL_HOME": str(tmp_path / "other")}
    stack.environ = other
    done = stack.run("daemon", "run", check=False)
    assert done.returncode == 1
    assert "http_port" in done.stderr


def test_a_failing_source_is_counted_and_stops_no_other(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "tmux").write_text("#!/bin/sh\necho nonsense >&2\nexit 3\n")
    (fake / "tmux").chmod(0o755)
    state = tmp_path / ".claude-squad" / "state.json"
    state.parent.mkdir()
    (tmp_path / "wt").mkdir()
    tree = {"repo_path": "/r", "worktree_path": str(tmp_path / "wt"), "branch_name": "b"}
    instance = {
        "title": "t",
        "branch": "b",
        "program": "claude",
        "created_at": "2026-11-22T14:10:26Z",
        "worktree": tree,
    }
    state.write_text(json.dumps({"instances": [instance]}))
    stack.daemon._environ["PATH"] = f"{fake}:{stack.environ['PATH']}"
    with ended(stack.daemon):
        stack.start_daemon()
        spooled(stack, 4)
        wait_for(lambda: recorded(stack) == 4, "the record beside a failing source")
        failed = BY_NAME["squad.otel.source.errors"].prometheus
        wait_for(
            lambda: (
                f"{failed}{{" in get(f"{stack.url}/metrics")
                and 'source="claude_squad"' in get(f"{stack.url}/metrics")
            ),
            "the failures counted",
        )
        health = json.loads(get(f"{stack.url}/healthz"))
        assert health["sources_failing"] == ["claude_squad"]
        (fake / "tmux").unlink()
        wait_for(
            lambda: json.loads(get(f"{stack.url}/healthz"))["sources_failing"] == [],
            "the source read again",
        )


def test_up_and_down_bring_and_take_away(tmp_path: Path) -> None:
    stack = Stack(
        tmp_path, {"SQUAD_OTEL_PROMETHEUS_PORT": "0", "SQUAD_OTEL_ALERTMANAGER_PORT": "0"}
    )
    try:
        said = stack.run("up", "--servers", "local").stdout
        for name in ("daemon", "prometheus", "alertmanager"):
            assert f"✓ {name}" in said
        again = stack.run("up", "--servers", "local").stdout
        assert [line.split()[-1] for line in again.splitlines()[:3]] == [
            line.split()[-1] for line in said.splitlines()[:3]
        ]
        status = json.loads(stack.run("status", "--format", "json").stdout)
        assert status["daemon"]["http"] == stack.url
        assert status["alerts"] == []
        pids = [
            server["pid"]
            for server in json.loads((stack.home / "servers.json").read_text())["local"].values()
        ]
        assert len(pids) == 2
    finally:
        said = stack.run("down").stdout
    assert said.count("stopped") == 3
    for pid in pids:
        wait_for(lambda pid=pid: not psutil.pid_exists(pid), f"the end of {pid}")
    assert stack.run("down").stdout.split()[0:3] == ["daemon", "did", "not"]
    assert "does not run" in stack.run("status").stdout
