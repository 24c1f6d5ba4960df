"""Text: numbers as people read them, and names made harmless for whatever shows them."""

from __future__ import annotations

import unicodedata

from squad_otel.events import NS

DASH = "\N{EN DASH}"

_HOUR_S, _DAY_S = 3600, 86400


def clean(text: str) -> str:
    """`text` on one line, without control characters, escape sequences and direction marks.

    What cannot be shown becomes `\N{REPLACEMENT CHARACTER}`; invisible format characters go.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def clean_lines(text: str) -> str:
    """`text` with each of its lines cleaned, for what is printed outside of a report."""
    return "\n".join(map(clean, text.split("\n")))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Cf":
        return ""
    return "\N{REPLACEMENT CHARACTER}"


def count_text(number: int) -> str:
    """`1,234`; from a million on `1.23 M`, `45.6 M`, `7.89 G`."""
    for size, word in ((10**9, "G"), (10**6, "M")):
        if abs(number) >= size:
            digits = 2 if abs(number) < 10 * size else 1
            return f"{number / size:,.{digits}f} {word}"
    return f"{number:,}"


def duration_text(duration_ns: int) -> str:
    """`0.34 ms`, `340 ms`, `12.3 s`, `2 m 05 s`, `1 h 02 m`, `3 d 04 h`."""
    seconds = duration_ns / NS
    if duration_ns == 0:
        return "0 s"
    if seconds < 0.001:
        return f"{seconds * 1000:.2f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // 60} m {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 2 * _DAY_S // 60:
        return f"{minutes // 60} h {minutes % 60:02d} m"
    hours = round(seconds / _HOUR_S)
    return f"{hours // 24} d {hours % 24:02d} h"


def cost_text(cost_nusd: int) -> str:
    """`$1,234.50`; below a cent `$0.0012`."""
    dollars = cost_nusd / 1e9
    if cost_nusd == 0 or dollars >= 0.01:
        return f"${dollars:,.2f}"
    if dollars < 0.0001:
        return "< $0.0001"
    return f"${dollars:.4f}"


def share_text(share: float) -> str:
    """`98.2 %`; never `100.0 %` for what is less, never `0.0 %` for what is more."""
    percent = share * 100
    if share in (0, 1):
        return f"{percent:.0f} %"
    return f"{min(max(percent, 0.1), 99.9):.1f} %"
