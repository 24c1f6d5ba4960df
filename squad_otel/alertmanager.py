"""Alertmanager's API: the alerts that fire now, and the silence of an orderly stop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

import msgspec
import urllib3

from squad_otel.errors import QueryError

_TIMEOUT_S = 3.0
_SILENCE_S = 30 * 86400
_LAST_S = 2.0**32  # the year 2106: a later time is none


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert that fires now; `since` in Unix seconds."""

    name: str
    severity: str
    summary: str
    description: str
    since: float
    labels: dict[str, str]


class _Answer(msgspec.Struct):
    labels: dict[str, str]
    annotations: dict[str, str]
    startsAt: Annotated[datetime, msgspec.Meta(tz=True)]  # noqa: N815 - the API's name


_decode_alerts = msgspec.json.Decoder(list[_Answer]).decode


class _Silence(msgspec.Struct):
    silenceID: str  # noqa: N815 - the API's name


def firing(url: str) -> list[Alert]:
    """The alerts that are active at the Alertmanager at `url`, neither silenced nor inhibited.

    The watchdog, which always fires, is left out. Raises QueryError when there is no answer.
    """
    path = "/api/v2/alerts?active=true&silenced=false&inhibited=false"
    return parse_alerts(_call("GET", url, path), url)


def parse_alerts(body: bytes, url: str) -> list[Alert]:
    """The alerts in an answer, the most severe first. Raises QueryError for any other bytes."""
    try:
        answers = _decode_alerts(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError(f"{url} does not answer like an Alertmanager: {error}") from error
    alerts = [
        Alert(
            name=answer.labels.get("alertname", "unknown"),
            severity=answer.labels.get("severity", "none"),
            summary=answer.annotations.get("summary", ""),
            description=answer.annotations.get("description", ""),
            since=min(max(answer.startsAt.timestamp(), 0.0), _LAST_S),  # a zero time is year 1
            labels=answer.labels,
        )
        for answer in answers
    ]
    order = {"critical": 0, "warning": 1, "info": 2}
    return sorted(
        (alert for alert in alerts if alert.severity != "none"),
        key=lambda alert: (order.get(alert.severity, 3), alert.since),
    )


def silence_daemon_gone(url: str, journal: str, now_s: float) -> str:
    """Silence SquadDaemonGone of one journal for 30 days; returns the silence's id."""
    silence = {
        "matchers": [
            {"name": "alertname", "value": "SquadDaemonGone", "isRegex": False, "isEqual": True},
            {"name": "journal", "value": journal, "isRegex": False, "isEqual": True},
        ],
        "startsAt": datetime.fromtimestamp(now_s, UTC).isoformat(),
        "endsAt": datetime.fromtimestamp(now_s + _SILENCE_S, UTC).isoformat(),
        "createdBy": "squad-otel",
        "comment": "stopped in order by `squad-otel down`",
    }
    body = _call("POST", url, "/api/v2/silences", silence)
    try:
        return msgspec.json.decode(body, type=_Silence).silenceID
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError(f"{url} does not answer like an Alertmanager: {error}") from error


def end_silence(url: str, silence: str) -> None:
    """End a silence; one that is gone already is fine."""
    try:
        _call("DELETE", url, f"/api/v2/silence/{quote(silence, safe='')}")
    except QueryError:
        return


def _call(method: str, url: str, path: str, body: object = None) -> bytes:
    try:
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT_S) as pool:
            answer = pool.request(method, url.rstrip("/") + path, json=body)
    except urllib3.exceptions.HTTPError as error:
        raise QueryError(f"no answer from Alertmanager at {url}: {error}") from error
    if answer.status != 200:
        said = answer.data[:200].decode(errors="replace").strip()
        raise QueryError(f"Alertmanager at {url} answers {answer.status}: {said}")
    return answer.data
