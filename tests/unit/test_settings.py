"""Settings: the order of the four places, and errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from squad_otel.errors import SettingsError
from squad_otel.journal import Journal
from squad_otel.settings import ALERT_THRESHOLDS, FILE_NAME, ROWS, load


def written(home: Path, text: str) -> Path:
    (home / FILE_NAME).write_text(text)
    return home


def test_default_file_environment_in_this_order(tmp_path: Path) -> None:
    assert load(tmp_path, {}).poll_interval_s == 1.0
    written(tmp_path, "poll_interval_s = 2\n")
    assert load(tmp_path, {}).poll_interval_s == 2.0
    environ = {"SQUAD_OTEL_POLL_INTERVAL_S": "3.5", "SQUAD_OTEL_HOME": "/x", "PATH": "/bin"}
    assert load(tmp_path, environ).poll_interval_s == 3.5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pol_interval_s = 2", ["pol_interval_s", "config.toml", "did you mean poll_interval_s?"]),
        ("poll_interval_s = 'fast'", ["poll_interval_s", "'fast'", "a number", "config.toml"]),
        ("poll_interval_s = 0.0", ["poll_interval_s", "0.0", "from 0.2 to 60", "config.toml"]),
        ("poll_interval_s = nan", ["poll_interval_s", "nan", "a number"]),
        ("http_port = 70000", ["http_port", "70000", "from 0 to 65535"]),
        ("http_port = true", ["http_port", "True", "a whole number"]),
        ("week_start = 'friday13'", ["week_start", "monday", "friday13"]),
        ("week_start = 'noday'", ["week_start", "'noday'", "monday"]),
        ("time_zone = 'Mars/Base'", ["time_zone", "Mars/Base", "Europe/Berlin"]),
        ("otlp_endpoint = 'localhost:4318'", ["otlp_endpoint", "http://"]),
        ("a = 1\nb = = 2\n", ["config.toml", "line 2"]),
        ("[alerts]\nx = 1", ["alerts", "config.toml"]),
    ],
)
def test_an_error_names_key_value_what_is_allowed_and_the_place(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    with pytest.raises(SettingsError) as raised:
        load(written(tmp_path, text), {})
    for part in parts:
        assert part in str(raised.value)


def test_a_bad_environment_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SQUAD_OTEL_HTTP_PORT.*whole number"):
        load(tmp_path, {"SQUAD_OTEL_HTTP_PORT": "http"})
    with pytest.raises(SettingsError, match="SQUAD_OTEL_NO_SUCH"):
        load(tmp_path, {"SQUAD_OTEL_NO_SUCH": "1"})


def test_the_flag_wins_over_the_environment_and_a_bad_one_is_named(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "squad_otel",
                *arguments,
                "report",
                "daily",
                "--source",
                "prometheus",
            ],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "SQUAD_OTEL_HOME": str(tmp_path),
                "SQUAD_OTEL_PROMETHEUS_URL": "http://127.0.0.1:1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    Journal(tmp_path, time.time_ns()).close()
    assert "127.0.0.1:1" in run().stderr
    assert "127.0.0.1:2" in run("--set", "prometheus_url=http://127.0.0.1:2").stderr
    bad = run("--set", "http_port=many")
    assert bad.returncode == 1
    assert "--set" in bad.stderr
    assert "http_port = 'many'" in bad.stderr
    assert run("--set", "nonsense").returncode == 2


def test_every_row_has_a_default_that_passes_its_own_check(tmp_path: Path) -> None:
    defaults = "\n".join(
        f"{name} = {row.default!r}".replace("True", "true") for name, row in ROWS.items()
    )
    assert load(written(tmp_path, defaults), {}) == load(tmp_path / "nowhere", {})
    assert set(ALERT_THRESHOLDS.values()) <= set(ROWS)
