"""Plain text: names from outside as they are kept, the same whichever source they came from."""

from __future__ import annotations

import unicodedata


def plain_text(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters, each of which can be printed.

    White space is one blank. Control and format characters (escape sequences, direction marks) go;
    half characters, which no database takes and which stand for a file name's odd bytes, are `?`.
    """
    if len(text) > most or not text.isprintable() or "  " in text:
        start = text[: 100 * most].encode(errors="replace").decode()
        kept = (c for c in start if c.isspace() or unicodedata.category(c)[0] != "C")
        text = " ".join("".join(kept).split())[:most]
    return text.strip()
