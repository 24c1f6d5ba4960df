"""Price tables: a user's own, or one that was sent to them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from squad_otel.errors import SettingsError
from squad_otel.prices import SHIPPED, Usage, read_prices

_LARGEST = 2**63 - 1
_MANY = 10**9  # what the source of answers lets through
USAGE = Usage(_MANY, _MANY, _MANY, _MANY, _MANY, _MANY, "fast", "us")


def check(data: bytes) -> None:
    """A table or a SettingsError; any answer costs what the journal can hold, or is unpriced."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prices.toml")
        path.write_bytes(data)
        try:
            prices = read_prices(path)
        except SettingsError as error:
            assert str(error)
            return
    for model in prices.models:
        for usage in (USAGE, Usage(1), Usage(input_tokens=_MANY, web_searches=_MANY)):
            cost = prices.cost_nusd(model, usage)
            assert cost is None or (type(cost) is int and 0 <= cost <= _LARGEST)


def seeds() -> Iterator[bytes]:
    """The shipped table, and its pieces."""
    text = SHIPPED.read_bytes()
    yield text
    yield from text.split(b"\n\n")[:20]
