"""Writes dashboards/overview.json: classic dashboard JSON, as Grafana 10 to 13 provision it.

`python grafana/build.py` writes it; with `--check` it only says whether the file is current.
Metric names come from the table in squad_otel.metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from squad_otel.metrics import BY_NAME
from squad_otel.sessions import LIVE_STATES

OVERVIEW = Path(__file__).parent / "dashboards" / "overview.json"

Json = dict[str, Any]

_DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
_NO_DATA = "no data"

#: The selectors. A metric is filtered by those variables whose label it has.
_FILTERS = {
    "journal": 'journal=~"$journal"',
    "program": 'program=~"$program"',
    "repository": 'repository=~"$repository"',
}

#: State -> number on the timeline, and colour. A test holds that no live state is missing.
STATES = {
    "starting": (1, "light-green"),
    "running": (2, "green"),
    "idle": (3, "blue"),
    "waiting": (4, "orange"),
    "failed": (5, "red"),
    "paused": (6, "#808080"),
    "dead": (7, "dark-red"),
}


# -- expressions ----------------------------------------------------------------------------------


def select(name: str, *matchers: str, suffix: str = "") -> str:
    """A selector of the metric `name` (OpenTelemetry's), filtered by the dashboard's variables."""
    metric = BY_NAME[name]
    filters = [text for label, text in _FILTERS.items() if label in ("journal", *metric.labels)]
    return f"{metric.prometheus}{suffix}{{{','.join([*filters, *matchers])}}}"


def total(selector: str) -> str:
    """What a lifetime counter rose by within the dashboard's range; exact, unlike increase().

    The end is read over the range too: a daemon that stopped an hour ago has not lost its counts.
    """
    return (
        f"(last_over_time({selector}[$__range]) - "
        f"({selector} offset $__range or min_over_time({selector}[$__range])))"
    )


def fresh(selector: str, condition: str = "") -> str:
    """Of gauges, those whose sample is as new as the heartbeat's.

    Where metrics are pushed, Prometheus shows a session that ended for five more minutes.
    """
    heartbeat = select("squad.otel.heartbeat.timestamp")
    return (
        f"(({selector}{condition}) and timestamp({selector}) >= on (journal) group_left () "
        f"max by (journal) (timestamp({heartbeat})))"
    )


def with_info(expression: str) -> str:
    """Per-session values with the session's repository and branch joined."""
    info = fresh(select("squad.session.info"))
    return (
        f"max by (journal, session, program) ({expression}) * on (journal, session) "
        f"group_left (repository, branch) max by (journal, session, repository, branch) ({info})"
    )


def state_code() -> str:
    """The number of the state that each live session is in."""
    metric = "squad.session.state"
    parts = []
    for name, (code, _colour) in STATES.items():
        selector = select(metric, f'state="{name}"')
        parts.append(f"({selector} == 1) * {code}")
    info = fresh(select("squad.session.info"))
    return f"(({' or '.join(parts)}) and on (journal, session) {info})"


# -- panels ---------------------------------------------------------------------------------------


def target(expression: str, legend: str = "", *, instant: bool = False, ref: str = "A") -> Json:
    table = instant and not legend
    return {
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "expr": expression,
        "format": "table" if table else "time_series",
        "instant": instant,
        "legendFormat": legend or "__auto",
        "range": not instant,
        "refId": ref,
    }


def panel(
    kind: str,
    title: str,
    description: str,
    targets: list[Json],
    unit: str,
    options: Json,
    **defaults: Any,
) -> Json:
    """A panel without its place. `defaults` are further field defaults."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {
            "defaults": {"unit": unit, "noValue": _NO_DATA, **defaults},
            "overrides": [],
        },
        "options": options,
    }


def steps(*pairs: tuple[float | None, str]) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": colour} for value, colour in pairs],
    }


_PLAIN = steps((None, "text"))


def stat(title: str, description: str, expression: str, unit: str, thresholds: Json) -> Json:
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
        "wideLayout": True,
    }
    return panel(
        "stat",
        title,
        description,
        [target(expression, title, instant=True)],
        unit,
        options,
        color={"mode": "thresholds"},
        thresholds=thresholds,
    )


def series(title: str, description: str, targets: list[Json], unit: str) -> Json:
    options = {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "table",
            "placement": "right",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom = {
        "drawStyle": "line",
        "fillOpacity": 10,
        "lineWidth": 1,
        "showPoints": "auto",
        # longer gaps are gaps: the daemon was away
        "spanNulls": 300_000,
    }
    return panel(
        "timeseries",
        title,
        description,
        targets,
        unit,
        options,
        color={"mode": "palette-classic"},
        custom=custom,
        min=0,
    )


def bars(title: str, description: str, expression: str, legend: str, unit: str) -> Json:
    """Totals of the range, one bar a group, the largest first."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "valueMode": "text",
        "namePlacement": "auto",
        "sizing": "auto",
        "minVizHeight": 16,
        "minVizWidth": 8,
    }
    return panel(
        "bargauge",
        title,
        description,
        [target(f"sort_desc({expression})", legend, instant=True)],
        unit,
        options,
        color={"mode": "palette-classic"},
        thresholds=_PLAIN,
        min=0,
    )


def table(
    title: str,
    description: str,
    targets: list[Json],
    columns: dict[str, str],
    *,
    hidden: tuple[str, ...] = (),
    overrides: list[Json] | None = None,
    unit: str = "none",
) -> Json:
    """Instant queries merged into rows. `columns` are field -> heading, in order."""
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": dict.fromkeys(hidden, True),
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": columns,
            },
        },
    ]
    options = {"cellHeight": "sm", "showHeader": True, "footer": {"show": False}}
    made = panel(
        "table",
        title,
        description,
        targets,
        unit,
        options,
        color={"mode": "fixed", "fixedColor": "text"},
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True},
    )
    made["fieldConfig"]["overrides"] = overrides or []
    made["transformations"] = transformations
    return made


def override(field: str, **properties: Any) -> Json:
    return {
        "matcher": {"id": "byName", "options": field},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def _state_mappings() -> list[Json]:
    return [
        {
            "type": "value",
            "options": {
                str(code): {"text": name, "color": colour, "index": place}
                for place, (name, (code, colour)) in enumerate(STATES.items())
            },
        }
    ]


# -- the overview ---------------------------------------------------------------------------------


def stats() -> list[Json]:
    alive = f"0 * count({fresh(select('squad.otel.info'))})"
    sessions = "squad.sessions"
    waiting = select(sessions, 'state="waiting"')
    commands = total(select("squad.commands"))
    failed = total(select("squad.commands", 'outcome="error"'))
    return [
        stat(
            "Sessions now",
            "Agents that live at the end of the chosen time, paused ones included.",
            f"sum({fresh(select(sessions))}) or {alive}",
            "none",
            _PLAIN,
        ),
        stat(
            "Waiting for a human",
            "Sessions that have asked something and stand still until you answer.",
            f"sum({fresh(waiting)}) or {alive}",
            "none",
            steps((None, "green"), (1, "orange")),
        ),
        stat(
            "Commands",
            "Commands that ended in the chosen time, run by `squad-otel exec` or told by the track "
            "API. Counted, not extrapolated.",
            f"sum({commands})",
            "none",
            _PLAIN,
        ),
        stat(
            "Error rate",
            "Share of the commands in the chosen time that failed.",
            f"(sum({failed}) or 0 * sum({commands})) / (sum({commands}) > 0)",
            "percentunit",
            steps((None, "green"), (0.1, "orange"), (0.25, "red")),
        ),
        stat(
            "Tokens",
            "Tokens used in the chosen time: input, output and cache.",
            f"sum({total(select('squad.token.usage'))})",
            "short",
            _PLAIN,
        ),
        stat(
            "Cost",
            "Cost at list price of the model answers in the chosen time. Answers of models without "
            "a known price are not in it; they are counted below.",
            f"sum({total(select('squad.cost.usage'))})",
            "currencyUSD",
            _PLAIN,
        ),
    ]


def timeline() -> Json:
    made = panel(
        "state-timeline",
        "What each session does",
        "One lane a session. Orange waits for you, red has failed.",
        [target(f"max by (session) ({state_code()})", "{{session}}")],
        "none",
        {
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "never",
            "tooltip": {"mode": "single", "sort": "none"},
        },
        color={"mode": "thresholds"},
        custom={"fillOpacity": 80, "lineWidth": 0, "spanNulls": False},
        mappings=_state_mappings(),
        thresholds=_PLAIN,
    )
    made["maxDataPoints"] = 300
    return made


def alerts() -> Json:
    return table(
        "Alerts firing",
        "Alerts that fire now. The watchdog always fires: without its row the rules do not run. "
        "What to do about each is in docs/runbook.md.",
        [
            target(
                "max by (alertname, severity, session, source, repository, branch) "
                '(ALERTS{alertstate="firing",alertname=~"Squad.+"})',
                instant=True,
            )
        ],
        {
            "alertname": "Alert",
            "severity": "Severity",
            "session": "Session",
            "repository": "Repository",
            "branch": "Branch",
            "source": "Source",
        },
        hidden=("Time", "Value"),
        overrides=[
            override(
                "Severity",
                mappings=[
                    {
                        "type": "value",
                        "options": {
                            "critical": {"color": "red", "index": 0},
                            "warning": {"color": "orange", "index": 1},
                            "info": {"color": "blue", "index": 2},
                            "none": {"color": "green", "index": 3},
                        },
                    }
                ],
                **{"custom.cellOptions": {"type": "color-text"}},
            )
        ],
    )


def sessions_table() -> Json:
    waiting = select("squad.session.waiting.timestamp")
    activity = select("squad.session.last_activity.timestamp")
    queries = [
        with_info(state_code()),
        f"({with_info(fresh(waiting, ' > 0'))}) * 1000",
        f"({with_info(fresh(activity))}) * 1000",
        with_info(fresh(select("squad.session.tokens"))),
        with_info(fresh(select("squad.session.cost"))),
    ]
    refs = "ABCDE"
    return table(
        "Sessions",
        "The sessions that live now. A cost is missing where no answer's price is known.",
        [target(query, instant=True, ref=ref) for ref, query in zip(refs, queries, strict=True)],
        {
            "session": "Session",
            "program": "Program",
            "repository": "Repository",
            "branch": "Branch",
            "Value #A": "State",
            "Value #B": "Waits since",
            "Value #C": "Last activity",
            "Value #D": "Tokens",
            "Value #E": "Cost",
        },
        hidden=("Time", "journal"),
        overrides=[
            override(
                "State",
                mappings=_state_mappings(),
                **{"custom.cellOptions": {"type": "color-text"}},
            ),
            override("Waits since", unit="dateTimeFromNow"),
            override("Last activity", unit="dateTimeFromNow"),
            override("Tokens", unit="short"),
            override("Cost", unit="currencyUSD", decimals=2),
        ],
    )


def quantile(q: float, metric: str, *by: str) -> str:
    bucket = select(metric, suffix="_bucket")
    groups = ", ".join((*by, "le"))
    return f"histogram_quantile({q}, sum by ({groups}) ({total(bucket)})) >= 0"


def slowest() -> Json:
    metric = "squad.command.duration"
    calls = select(metric, suffix="_count")
    return table(
        "Slowest commands",
        "Commands by program and sub-command, with the time that 95 and 99 of 100 of them stayed "
        "below in the chosen time. Not split by repository.",
        [
            target(f"sum by (command) ({total(calls)}) > 0", instant=True, ref="A"),
            target(quantile(0.95, metric, "command"), instant=True, ref="B"),
            target(quantile(0.99, metric, "command"), instant=True, ref="C"),
        ],
        {"command": "Command", "Value #A": "Times", "Value #B": "P95", "Value #C": "P99"},
        hidden=("Time",),
        overrides=[override("P95", unit="s"), override("P99", unit="s")],
    )


def recorded(level: str, metric: str, window: str, legend: str) -> list[Json]:
    """P95 and P99 from the recording rules."""
    name = BY_NAME[metric].prometheus
    by = [label for label in level.split("_") if label != "journal"]
    filters = ",".join(
        text for label, text in _FILTERS.items() if label == "journal" or label in by
    )
    groups = ", ".join(by)
    return [
        target(
            f"max by ({groups}) ({level}:{name}:p{q}_increase{window}{{{filters}}})",
            f"{legend} P{q}",
            ref=ref,
        )
        for ref, q in (("A", 95), ("B", 99))
    ]


def git_targets() -> str:
    return f"sum by (operation, outcome) ({total(select('squad.git.operations'))}) > 0"


def overview() -> Json:
    """The whole dashboard. Rows are lists of (panel, width); a row's panels share their height."""
    rate = f"sum by (program) (rate({select('squad.commands')}[$__rate_interval])) * 60"
    heartbeat = select("squad.otel.heartbeat.timestamp")
    source = fresh(select("squad.otel.source.success.timestamp"))
    rows: list[tuple[int, list[tuple[Json, int]]]] = [
        (4, [(made, 4) for made in stats()]),
        (9, [(timeline(), 14), (alerts(), 10)]),
        (9, [(sessions_table(), 24)]),
        (
            8,
            [
                (
                    bars(
                        "Commands by program",
                        "Commands that ended in the chosen time, by the agent's program and by "
                        "outcome.",
                        f"sum by (program, outcome) ({total(select('squad.commands'))}) > 0",
                        "{{program}} {{outcome}}",
                        "none",
                    ),
                    8,
                ),
                (
                    series(
                        "Commands per minute",
                        "How fast commands end, by the agent's program. A rate, smoothed; the "
                        "counts beside it are exact.",
                        [target(rate, "{{program}}")],
                        "opm",
                    ),
                    16,
                ),
            ],
        ),
        (
            9,
            [
                (
                    series(
                        "Command duration, P95 and P99",
                        "The time that 95 and 99 of 100 commands of the last hour stayed below. "
                        "Not split by repository.",
                        recorded("journal_program", "squad.command.duration", "1h", "{{program}}"),
                        "s",
                    ),
                    12,
                ),
                (slowest(), 12),
            ],
        ),
        (
            8,
            [
                (
                    bars(
                        "Git operations",
                        "Commits, pushes, pulls and new branches in the chosen time. Failed ones "
                        "are known where git was run by `squad-otel exec` or told by the API.",
                        git_targets(),
                        "{{operation}} {{outcome}}",
                        "none",
                    ),
                    8,
                ),
                (
                    series(
                        "Git duration, P95 and P99",
                        "The time that 95 and 99 of 100 timed git operations of the last hour "
                        "stayed below. Not split by repository or program.",
                        recorded(
                            "journal_operation",
                            "squad.git.operation.duration",
                            "1h",
                            "{{operation}}",
                        ),
                        "s",
                    ),
                    8,
                ),
                (
                    bars(
                        "Errors by type",
                        "Errors that were reported, and commands that failed, in the chosen time.",
                        f"sum by (component, error_type) ({total(select('squad.errors'))}) > 0",
                        "{{component}} {{error_type}}",
                        "none",
                    ),
                    8,
                ),
            ],
        ),
        (
            8,
            [
                (
                    bars(
                        "Tokens by model",
                        "Tokens used in the chosen time, by model and kind.",
                        f"sum by (model, type) ({total(select('squad.token.usage'))}) > 0",
                        "{{model}} {{type}}",
                        "short",
                    ),
                    10,
                ),
                (
                    bars(
                        "Cost by model",
                        "Cost at list price in the chosen time, by model.",
                        f"sum by (model) ({total(select('squad.cost.usage'))}) > 0",
                        "{{model}}",
                        "currencyUSD",
                    ),
                    7,
                ),
                (
                    bars(
                        "Answers without a price",
                        "Model answers in the chosen time whose cost is unknown, as the model's "
                        "price is. Add it to your `prices_file`.",
                        f"sum by (model) ({total(select('squad.cost.unpriced'))}) > 0",
                        "{{model}}",
                        "none",
                    ),
                    7,
                ),
            ],
        ),
        (
            7,
            [
                (
                    series(
                        "Session length, P95 and P99",
                        "How long 95 and 99 of 100 sessions lived, of those that ended in a day.",
                        recorded("journal_program", "squad.session.duration", "1d", "{{program}}"),
                        "s",
                    ),
                    12,
                ),
                (
                    bars(
                        "Age of the last heartbeat",
                        "Seconds since each daemon last completed a round. More than a few: it is "
                        "gone, or its metrics do not arrive.",
                        f"time() - max by (journal) (last_over_time({heartbeat}[1d]))",
                        "{{journal}}",
                        "s",
                    ),
                    6,
                ),
                (
                    bars(
                        "Age of each source's last good read",
                        "Seconds since the daemon last read each source without error.",
                        f"time() - max by (source) ({source})",
                        "{{source}}",
                        "s",
                    ),
                    6,
                ),
            ],
        ),
    ]
    return {
        "uid": "squad-overview",
        "title": "Squad overview",
        "description": "What the squad does now, and what it did in the chosen time.",
        "tags": ["squad-otel"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "links": [],
        "annotations": {"list": [_annotation()]},
        "templating": {"list": _variables()},
        "panels": _placed(rows),
    }


def _placed(rows: list[tuple[int, list[tuple[Json, int]]]]) -> list[Json]:
    """Give each panel its id and place."""
    panels: list[Json] = []
    top = 0
    for height, row in rows:
        left = 0
        for made, width in row:
            place = {"h": height, "w": width, "x": left, "y": top}
            panels.append({"id": len(panels) + 1, "gridPos": place, **made})
            left += width
        top += height
    return panels


def _annotation() -> Json:
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": 'ALERTS{alertstate="firing",alertname=~"Squad.+",severity!="none"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{session}}{{source}} {{repository}}",
        "step": "30s",
    }


def _variables() -> list[Json]:
    found: list[Json] = [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
            "includeAll": False,
            "multi": False,
            "options": [],
            "current": {},
            "regex": "",
        }
    ]
    counters = "|".join(
        BY_NAME[name].prometheus for name in ("squad.session.starts", "squad.commands")
    )
    info = BY_NAME["squad.otel.info"].prometheus
    live = BY_NAME["squad.session.info"].prometheus
    union = f'__name__=~"{counters}|{live}"'
    for name, label, query in (
        ("journal", "Journal", f"label_values({info}, journal)"),
        ("program", "Program", f'label_values({{{union},journal=~"$journal"}}, program)'),
        (
            "repository",
            "Repository",
            f'label_values({{{union},journal=~"$journal",program=~"$program"}}, repository)',
        ),
    ):
        found.append(
            {
                "name": name,
                "label": label,
                "type": "query",
                "datasource": _DATASOURCE,
                "definition": query,
                "query": {"query": query, "refId": f"variable-{name}"},
                "refresh": 2,  # when the time range changes
                "sort": 1,
                "hide": 0,
                "includeAll": True,
                "allValue": ".+",
                "multi": True,
                "options": [],
                "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
                "regex": "",
            }
        )
    return found


def rendered() -> str:
    """The dashboard as it is committed."""
    return json.dumps(overview(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    missing = [state for state in LIVE_STATES if state not in STATES]
    assert not missing, f"states without a colour: {missing}"
    if "--check" in sys.argv[1:]:
        if not OVERVIEW.exists() or OVERVIEW.read_text() != rendered():
            sys.exit(f"{OVERVIEW} is not current: run `make dashboard`")
        return
    OVERVIEW.write_text(rendered())


if __name__ == "__main__":
    main()
