"""What the README shows is run: its Python, its commands, its settings."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from squad_otel.events import NS
from squad_otel.settings import FILE_NAME, load
from squad_otel.sources.spool import SpoolSource

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert found, f"no {language} block"
    return found


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SQUAD_", "OTEL_"))}
    made = {
        **kept,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "SQUAD_OTEL_HTTP_PORT": "0",
    }
    yield made
    subprocess.run([sys.executable, "-m", "squad_otel", "down"], env=made, check=False)


def test_the_python_block_records_what_it_says(tmp_path: Path, environ: dict[str, str]) -> None:
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, cwd=tmp_path)
    batch = SpoolSource(tmp_path / ".squad-otel").poll({}, {}, time.time_ns() + NS)
    assert [event.type for event in batch.events] == [
        "operation.completed",
        "command.executed",
        "error",
    ]


def test_the_line_of_shell_is_a_record(tmp_path: Path, environ: dict[str, str]) -> None:
    (script,) = blocks("bash")
    (tmp_path / ".squad-otel" / "spool").mkdir(parents=True)
    environ["SQUAD_SESSION_ID"] = "s-7"
    subprocess.run(["/bin/sh", "-c", script], env=environ, check=True, cwd=tmp_path)
    (event,) = SpoolSource(tmp_path / ".squad-otel").poll({}, {}, time.time_ns() + NS).events
    assert (event.type, event.session, event.error_type) == ("error", "s-7", "hook_timeout")


def test_the_settings_block_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / FILE_NAME).write_text(text)
    assert load(tmp_path, {}).alert_session_waiting_s == 120


def test_the_commands_run_in_the_order_shown(tmp_path: Path, environ: dict[str, str]) -> None:
    lines = [line.partition("#")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("squad-otel ")]
    assert ["up"] in commands
    assert ["report", "weekly"] in commands
    for arguments in commands:
        if arguments == ["up"]:
            arguments = ["up", "--servers", "none"]  # the servers have tests of their own
        if arguments[0] == "exec":
            arguments = ["exec", "--", "true"]  # which program it is does not matter
        if "--follow" in arguments:  # it has no end, and a test of its own
            arguments = [word for word in arguments if word != "--follow"]
        done = subprocess.run(
            [sys.executable, "-m", "squad_otel", *arguments],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        if arguments == ["down"]:  # the rest is shown further down in the README
            subprocess.run(
                [sys.executable, "-m", "squad_otel", "up", "--servers", "none"],
                env=environ,
                check=True,
                capture_output=True,
            )


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", README):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
