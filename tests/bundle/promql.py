"""Which labels a PromQL expression yields, inferred from the table of metrics.

An unknown metric, or a label that cannot be there, is an AssertionError that quotes the place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import promql_parser as promql

from squad_otel.metrics import METRICS, Kind

Labels = frozenset[str]

#: What Prometheus adds to whatever it scrapes or receives.
_TARGET = frozenset({"job", "instance"})


def known_series() -> dict[str, Labels]:
    """Every series name that squad-otel can show, with its labels."""
    known: dict[str, Labels] = {}
    for metric in METRICS:
        labels = frozenset({"journal", *metric.labels}) | _TARGET
        if metric.kind is Kind.HISTOGRAM:
            known[f"{metric.prometheus}_bucket"] = labels | {"le"}
            known[f"{metric.prometheus}_sum"] = labels
            known[f"{metric.prometheus}_count"] = labels
        else:
            known[metric.prometheus] = labels
    return known


def walk(expression: Any) -> Iterator[Any]:
    """The node and all below it."""
    yield expression
    for child in _children(expression):
        yield from walk(child)


def _children(node: Any) -> list[Any]:
    match type(node).__name__:
        case "BinaryExpr":
            return [node.lhs, node.rhs]
        case "AggregateExpr":
            return [node.expr, *([] if node.param is None else [node.param])]
        case "Call":
            return list(node.args)
        case "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
            return [node.expr]
        case "MatrixSelector":
            return [node.vector_selector]
    return []


def labels_of(expression: str, known: Mapping[str, Labels]) -> Labels:
    """The labels that the result of `expression` may carry."""
    return _labels(promql.parse(expression), known)


def _labels(node: Any, known: Mapping[str, Labels]) -> Labels:
    match type(node).__name__:
        case "VectorSelector":
            return _selected(node, known)
        case "AggregateExpr":
            return _aggregated(node, known)
        case "BinaryExpr":
            return _combined(node, known)
    found: Labels = frozenset()
    for child in _children(node):
        found |= _labels(child, known)
    if type(node).__name__ == "Call" and node.func.name == "histogram_quantile":
        assert "le" in found, f"histogram_quantile without le: {node.prettify()}"
        found -= {"le"}
    return found


def _selected(node: Any, known: Mapping[str, Labels]) -> Labels:
    assert node.name in known, f"there is no metric {node.name!r}: {node.prettify()}"
    labels = known[node.name]
    for matcher in node.matchers.matchers:
        assert matcher.name in labels, f"{node.name} has no label {matcher.name!r}"
    return labels


def _aggregated(node: Any, known: Mapping[str, Labels]) -> Labels:
    below = _labels(node.expr, known)
    if node.modifier is None:
        return frozenset()
    assert str(node.modifier.type).endswith("By"), f"by, not without: {node.prettify()}"
    kept = frozenset(node.modifier.labels)
    assert kept <= below, f"no label {set(kept - below)} in {node.expr.prettify()}"
    return kept


def _combined(node: Any, known: Mapping[str, Labels]) -> Labels:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    operator, modifier = str(node.op), node.modifier
    matching = modifier.matching if modifier is not None else None
    if matching is not None:
        on = frozenset(matching.labels)
        assert str(matching.type).endswith("Include"), f"on, not ignoring: {node.prettify()}"
        for side in (left, right):
            assert on <= side, f"no label {set(on - side)} to match on: {node.prettify()}"
    if operator in ("and", "unless"):
        return left
    if operator == "or":
        return left | right
    if matching is None:
        return left | right
    extra = frozenset(modifier.group_labels or ())
    match str(modifier.card).rpartition(".")[2]:
        case "ManyToOne":
            assert extra <= right, f"no label {set(extra - right)}: {node.rhs.prettify()}"
            return left | extra
        case "OneToMany":
            assert extra <= left, f"no label {set(extra - left)}: {node.lhs.prettify()}"
            return right | extra
    return frozenset(matching.labels)
