"""Settings: one row a key. Defaults, a TOML file, the environment, then flags, in this order.

The flag `--set KEY=VALUE` of the command line is an environment variable for one command.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from squad_otel.errors import SettingsError

ENV_PREFIX = "SQUAD_OTEL_"
FILE_NAME = "config.toml"

Value = str | int | float

#: Environment variables with our prefix that are no settings.
_NOT_SETTINGS = {"SQUAD_OTEL_HOME"}


def _row(
    default: Value,
    help: str,  # noqa: A002 - the word the command line uses
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    return field(
        default=default,
        metadata={"help": help, "minimum": minimum, "maximum": maximum, "choices": choices},
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. Names end in their unit; `…_s` is seconds."""

    poll_interval_s: float = _row(1.0, "How often sources are looked at.", minimum=0.2, maximum=60)
    scrape_interval_s: float = _row(
        15.0,
        "How often Prometheus scrapes; a new series is shown as 0 for two intervals.",
        minimum=0.5,
        maximum=300,
    )
    push_interval_s: float = _row(
        15.0, "How often metrics are pushed by OTLP.", minimum=0.5, maximum=300
    )
    http_port: int = _row(
        9466, "Port of /metrics and /healthz on 127.0.0.1; 0 takes a free one.", maximum=65535
    )
    otlp_endpoint: str = _row(
        "", "OTLP/HTTP base URL to push metrics and spans to; empty: none is pushed."
    )
    claude_squad_state: str = _row("~/.claude-squad/state.json", "claude-squad's state file.")
    claude_config_dirs: str = _row(
        "",
        "Claude Code's configuration folders, separated by ':'; empty: $CLAUDE_CONFIG_DIR or "
        "~/.claude and ~/.config/claude.",
    )
    prices_file: str = _row("", "A price table (TOML) laid over the one that is shipped.")
    retention_days: int = _row(
        400, "How long events are kept; roll-ups and totals stay. 0: for ever.", maximum=36500
    )
    journal_size_mb: int = _row(
        2048,
        "From which size on the oldest events are deleted, but none of the last day. 0: no limit.",
        maximum=10**7,
    )
    time_zone: str = _row("", "Time zone of report periods, e.g. Europe/Berlin; empty: local.")
    week_start: str = _row(
        "monday",
        "First day of a week in reports.",
        choices=("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    )
    prometheus_url: str = _row("", "Prometheus to ask; empty: the one that `up` started.")
    alertmanager_url: str = _row("", "Alertmanager to ask; empty: the one that `up` started.")
    prometheus_port: int = _row(
        9090, "Port of the Prometheus that `up` starts; 0 takes a free one.", maximum=65535
    )
    alertmanager_port: int = _row(
        9093, "Port of the Alertmanager that `up` starts; 0 takes a free one.", maximum=65535
    )
    notify_webhook_url: str = _row(
        "", "Where the Alertmanager that `up` starts sends every alert; empty: nowhere."
    )
    alert_daemon_gone_s: float = _row(
        120.0, "SquadDaemonGone: seconds without a heartbeat.", minimum=1
    )
    alert_source_failing_s: float = _row(
        300.0, "SquadSourceFailing: seconds without a good read.", minimum=1
    )
    alert_session_waiting_s: float = _row(
        300.0, "SquadSessionWaiting: seconds that a session waits for a human.", minimum=1
    )
    alert_error_rate: float = _row(
        0.25, "SquadHighErrorRate: share of failed commands.", minimum=0, maximum=1
    )
    alert_error_rate_commands: int = _row(
        20, "SquadHighErrorRate: commands that there must be in half an hour.", minimum=1
    )


ROWS: Mapping[str, Field[Any]] = {row.name: row for row in fields(Settings)}

#: Which setting each alert's threshold is.
ALERT_THRESHOLDS: Mapping[str, str] = {
    "SquadDaemonGone": "alert_daemon_gone_s",
    "SquadSourceFailing": "alert_source_failing_s",
    "SquadSessionWaiting": "alert_session_waiting_s",
    "SquadHighErrorRate": "alert_error_rate",
    "SquadHighErrorRateCommands": "alert_error_rate_commands",
}


def load(home: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of `home`.

    Raises SettingsError naming the key, the value, what is allowed, and where it stands.
    """
    values: dict[str, Value] = {}
    path = home / FILE_NAME
    for key, value in _read_file(path).items():
        values[key] = _checked(key, value, str(path))
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX) or name in _NOT_SETTINGS:
            continue
        key = name.removeprefix(ENV_PREFIX).lower()
        where = f"environment variable {name} (or --set)"
        values[key] = _checked(key, _parsed(key, text, where), where)
    return Settings(**values)  # type: ignore[arg-type]  # each value was checked against its row


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except FileNotFoundError:
        return {}


def read_toml(path: Path, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """A TOML file's content. Raises FileNotFoundError, and SettingsError for all other trouble."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a NUL in the path, or no UTF-8
        raise SettingsError(f"cannot read {path}: {error}") from error
    try:
        table = tomllib.loads(text, parse_float=parse_float)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    if not _fits(table):
        raise SettingsError(f"{path} is not valid TOML: an integer has 64 bits at most")
    return table


def _fits(value: object) -> bool:
    """Whether all integers are in the bounds that TOML sets, which Python does not."""
    if isinstance(value, dict):
        return all(map(_fits, value.values()))
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _known(key: str, where: str) -> Field[Any]:
    if key in ROWS:
        return ROWS[key]
    near = get_close_matches(key, ROWS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"allowed are: {', '.join(ROWS)}"
    raise SettingsError(f"unknown setting {key!r} in {where}; {hint}")


def _parsed(key: str, text: str, where: str) -> Value:
    """Text from the environment as the type of the row."""
    default = _known(key, where).default
    try:
        if isinstance(default, int):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except ValueError:
        pass  # the check says what is allowed
    return text


def _checked(key: str, value: object, where: str) -> Value:
    row = _known(key, where)
    kind = type(row.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or value != value:  # NaN is no number of ours
        names = {str: "text", int: "a whole number", float: "a number"}
        raise _refused(key, value, where, names[kind])
    if isinstance(value, str) and "\0" in value:
        raise _refused(key, value, where, "text without NUL")
    choices: tuple[str, ...] = row.metadata["choices"]
    if choices and value not in choices:
        raise _refused(key, value, where, "one of " + ", ".join(choices))
    minimum, maximum = row.metadata["minimum"], row.metadata["maximum"]
    if isinstance(value, int | float):
        low = 0 if minimum is None else minimum
        high = float("inf") if maximum is None else maximum
        if not low <= value <= high or value == float("inf"):
            bounds = f"from {low:g}" + (f" to {high:g}" if maximum is not None else " up")
            raise _refused(key, value, where, bounds)
    if key == "time_zone" and value:
        try:
            ZoneInfo(str(value))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise _refused(key, value, where, "an IANA name such as Europe/Berlin") from None
    if (
        key.endswith(("_url", "_endpoint"))
        and value
        and not str(value).startswith(("http://", "https://"))
    ):
        raise _refused(key, value, where, "a URL that begins with http:// or https://")
    return value  # type: ignore[return-value]  # str, int or float by the check above


def _refused(key: str, value: object, where: str, allowed: str) -> SettingsError:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "…"
    return SettingsError(f"{key} = {shown} in {where} is not possible: it must be {allowed}")
