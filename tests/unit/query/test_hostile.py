"""A journal's name is one string in PromQL, whatever is in it."""

from __future__ import annotations

import promql_parser
import pytest
from hypothesis import given

from squad_otel.query.prometheus import promql
from tests.hostile import EVIL, texts


def holds(journal: str) -> None:
    """Fail unless the query has one matcher, for this very journal."""
    query = promql_parser.parse(promql("squad_prompts_total", journal, ("program",), 1000))
    assert isinstance(query, promql_parser.AggregateExpr)
    (selector,) = query.expr.args
    matchers = [(m.name, m.value) for m in selector.vector_selector.matchers.matchers]
    assert matchers == [("journal", journal)]


def sendable(text: str) -> str:
    """JSON from a server holds no half characters."""
    return text.encode(errors="replace").decode()


@pytest.mark.parametrize("journal", [*map(sendable, EVIL)])
def test_a_hostile_name_is_a_string(journal: str) -> None:
    holds(journal)


@given(texts.map(sendable))
def test_any_name_is_a_string(journal: str) -> None:
    holds(journal)
