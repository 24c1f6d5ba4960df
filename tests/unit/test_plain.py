"""Names as they are kept."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from squad_otel.plain import plain_text
from tests.hostile import EVIL, texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fix  the\n login ", "fix the login"),
        ("Grüße 你好 🦀", "Grüße 你好 🦀"),
        ("\x1b[31mred\x07", "[31mred"),
        ("evil\u202eexe.txt\u200b", "evilexe.txt"),
        ("odd\udcff byte", "odd? byte"),
        ("a" * 300, "a" * 100),
        ("a" * 99 + " b", "a" * 99),
        ("\x00\x01", ""),
    ],
)
def test_plain_text(text: str, expected: str) -> None:
    assert plain_text(text, 100) == expected


@given(texts | st.text(st.characters(codec=None)), st.integers(1, 200))
@example(EVIL[-1], 200)
def test_any_text_becomes_one_printable_line(text: str, most: int) -> None:
    plain = plain_text(text, most)
    assert len(plain) <= most
    assert plain.isprintable()
    assert plain_text(plain, most) == plain
    assert plain.encode().decode() == plain
