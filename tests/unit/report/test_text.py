"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squad_otel.report.text import (
    clean,
    clean_lines,
    cost_text,
    count_text,
    duration_text,
    share_text,
)

S = 1_000_000_000


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1234, "1,234"),
        (999_999, "999,999"),
        (1_234_567, "1.23 M"),
        (45_600_000, "45.6 M"),
        (7_890_000_000, "7.89 G"),
    ],
)
def test_counts(number: int, text: str) -> None:
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0 s"),
        (340_000, "0.34 ms"),
        (340_000_000, "340 ms"),
        (999_600_000, "1.00 s"),
        (1_500_000_000, "1.50 s"),
        (12_340_000_000, "12.3 s"),
        (59_960_000_000, "1 m 00 s"),
        (125 * S, "2 m 05 s"),
        (3599 * S + S // 2, "1 h 00 m"),
        (3720 * S, "1 h 02 m"),
        (47 * 3600 * S, "47 h 00 m"),
        (76 * 3600 * S, "3 d 04 h"),
    ],
)
def test_durations(duration_ns: int, text: str) -> None:
    assert duration_text(duration_ns) == text


@pytest.mark.parametrize(
    ("cost_nusd", "text"),
    [
        (0, "$0.00"),
        (1_230_000_000, "$1.23"),
        (1_234_500_000_000, "$1,234.50"),
        (1_200_000, "$0.0012"),
        (10, "< $0.0001"),
    ],
)
def test_costs(cost_nusd: int, text: str) -> None:
    assert cost_text(cost_nusd) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.982, "98.2 %"), (1.0, "100 %"), (0.0, "0 %"), (0.99999, "99.9 %"), (0.00001, "0.1 %")],
)
def test_shares(share: float, text: str) -> None:
    assert share_text(share) == text


def test_names_lose_what_a_terminal_would_obey() -> None:
    lost = "\N{REPLACEMENT CHARACTER}"
    assert clean("a\x1b[31mred\x07\nb\tc") == f"a{lost}[31mred{lost} b c"
    assert clean("evil\u202eexe.txt\u200b") == "evilexe.txt"
    assert clean("Grüße 你好") == "Grüße 你好"


@given(st.text())
def test_whatever_comes_is_one_printable_line(text: str) -> None:
    assert clean(text).isprintable()


@given(st.text())
def test_lines_stay_lines(text: str) -> None:
    lines = clean_lines(text).split("\n")
    assert len(lines) == text.count("\n") + 1
    assert all(line.isprintable() for line in lines)
