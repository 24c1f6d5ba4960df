"""Insights: rules over a report's sections, each of which may say one thing worth doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from squad_otel.report.sections import Cost, Insight, Report
from squad_otel.report.text import cost_text, count_text, share_text

#: Below this many commands a share of failures says little.
_FEWEST_COMMANDS = 20
_MUCH_FAILS = 0.1
_MUCH_MORE = 1.5
_A_DOLLAR_NUSD = 10**9


def with_insights(report: Report) -> Report:
    """The report with what its rules have to say."""
    found = [rule(report) for rule in RULES]
    return replace(report, insights=tuple(insight for insight in found if insight is not None))


def commands_fail(report: Report) -> Insight | None:
    """A tenth of the commands failed, or more."""
    total, success = report.headline("commands").value, report.headline("commands_success").value
    if not isinstance(total, int) or not isinstance(success, float):
        return None
    if total < _FEWEST_COMMANDS or 1 - success < _MUCH_FAILS:
        return None
    failed = round(total * (1 - success))
    what = (
        f"{count_text(failed)} of {count_text(total)} commands failed ({share_text(1 - success)})"
    )
    worst = [row for row in report.section("errors").rows if row[1] == "command"]
    if worst:
        what += f", most often with {worst[0][0]} ({count_text(_whole(worst[0][3]))})"
    return Insight(
        "commands_fail",
        what + ".",
        "Look at the commands with the lowest success; an agent that repeats one is stuck.",
    )


def cost_grew(report: Report) -> Insight | None:
    """It cost half as much again as in the period before."""
    row = report.headline("cost")
    now, before = row.value, row.before
    if not isinstance(now, Cost) or not isinstance(before, Cost):
        return None
    if now.nusd < _A_DOLLAR_NUSD or not before.nusd or now.nusd < _MUCH_MORE * before.nusd:
        return None
    what = f"Cost went from {cost_text(before.nusd)} to {cost_text(now.nusd)}"
    models = report.section("models")
    at = [column.key for column in models.columns].index("cost")
    costs = [(cell.nusd, str(row[0])) for row in models.rows if isinstance(cell := row[at], Cost)]
    if costs:
        most, model = max(costs)
        what += f"; {share_text(most / now.nusd)} of it is {model}"
    return Insight(
        "cost_grew",
        what + ".",
        "See which repository it was for, and whether a smaller model does.",
    )


def prices_missing(report: Report) -> Insight | None:
    """Answers of models whose price nobody named."""
    cost = report.headline("cost").value
    if not isinstance(cost, Cost) or not cost.unpriced:
        return None
    models = report.section("models")
    at = [column.key for column in models.columns].index("cost")
    names = [
        str(row[0]) for row in models.rows if isinstance(cell := row[at], Cost) and cell.unpriced
    ]
    return Insight(
        "prices_missing",
        f"{count_text(cost.unpriced)} answers are not in the cost: "
        f"no price is known of {', '.join(names[:5])}.",
        "Name it in a price table of your own (setting prices_file).",
    )


RULES: tuple[Callable[[Report], Insight | None], ...] = (commands_fail, cost_grew, prices_missing)


def _whole(cell: object) -> int:
    return cell if isinstance(cell, int) else 0
