"""Prices: what tokens of a model cost, from a dated table; all sums are whole nano-USD.

A model that is in no table has no price. Its cost is unknown, which is not 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from squad_otel.errors import SettingsError
from squad_otel.settings import read_toml

#: The table that is shipped.
SHIPPED = Path(__file__).with_name("prices.toml")

_PRICES = ("input", "output", "cache_read", "cache_creation_5m", "cache_creation_1h")
_ROW_KEYS = (*_PRICES, "fast", "us_percent", "long", "source")
_LONG_KEYS = (*_PRICES, "above_tokens")
_TABLE_KEYS = ("as_of", "web_search", "models")
_NUSD_PER_MILLIONTH = 1000  # a dollar per million tokens is this many nano-USD per token
_NUSD_PER_THOUSANDTH = 1_000_000  # a dollar per thousand searches, per search
_MAX_PRICE = 10**6  # dollars; larger is a slip
_MAX_COST_NUSD = 10**15  # a million dollars for one answer; thousands of them fit 64 bits
_DATE_SUFFIX = re.compile(r"-\d{8}$")
_NORMAL_SPEEDS = ("", "standard", "normal")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used, as the API counts it. The kinds do not overlap, with one exception.

    `cache_creation_1h_tokens` is the part of `cache_creation_tokens` that lives an hour.
    `speed` and `geo` are the API's words, empty where it said nothing.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_creation_1h_tokens: int = 0
    web_searches: int = 0
    speed: str = ""
    geo: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Everything that the model read."""
        return self.input_tokens + self.cache_read_tokens + self.cache_creation_tokens

    def merged(self, other: Usage) -> Usage:
        """Each count at the larger of both: copies of one answer know more or less of it."""
        return Usage(
            max(self.input_tokens, other.input_tokens),
            max(self.output_tokens, other.output_tokens),
            max(self.cache_read_tokens, other.cache_read_tokens),
            max(self.cache_creation_tokens, other.cache_creation_tokens),
            max(self.cache_creation_1h_tokens, other.cache_creation_1h_tokens),
            max(self.web_searches, other.web_searches),
            self.speed or other.speed,
            self.geo or other.geo,
        )

    def __bool__(self) -> bool:
        return bool(self.prompt_tokens or self.output_tokens)


@dataclass(frozen=True, slots=True)
class Rate:
    """Nano-USD per token, by kind."""

    input: int
    output: int
    cache_read: int
    cache_creation_5m: int
    cache_creation_1h: int

    def cost_nusd(self, usage: Usage) -> int:
        """What the tokens of `usage` cost at this rate (nano-USD)."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + (usage.cache_creation_tokens - usage.cache_creation_1h_tokens)
            * self.cache_creation_5m
            + usage.cache_creation_1h_tokens * self.cache_creation_1h
        )


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """One row: the rate of a model, and what changes it. `fast` and `us_percent` 0: no price."""

    rate: Rate
    fast: int = 0
    us_percent: int = 0
    long_rate: Rate | None = None
    long_above_tokens: int = 0
    source: str = ""

    def cost_nusd(self, usage: Usage) -> int | None:
        """What the tokens of `usage` cost (nano-USD, rounded once), None where no price says."""
        factors = {**dict.fromkeys(_NORMAL_SPEEDS, 1), "fast": self.fast}
        factor = factors.get(usage.speed, 0)
        percent = self.us_percent if usage.geo == "us" else 100
        if not factor or not percent:
            return None
        rate = self.rate
        if self.long_rate is not None and usage.prompt_tokens > self.long_above_tokens:
            rate = self.long_rate
        return (rate.cost_nusd(usage) * factor * percent + 50) // 100


@dataclass(frozen=True, slots=True)
class Prices:
    """A table of prices: rows by model, nano-USD a web search (None: unknown), and its date."""

    models: Mapping[str, ModelPrice] = field(default_factory=dict)
    web_search_nusd: int | None = None
    as_of: date | None = None

    def price(self, model: str) -> ModelPrice | None:
        """The row of `model`: by its exact name, else without the date that it ends in."""
        return self.models.get(model) or self.models.get(_DATE_SUFFIX.sub("", model))

    def cost_nusd(self, model: str, usage: Usage) -> int | None:
        """What `usage` of `model` costs in nano-USD; None, never 0, where no price is known."""
        row = self.price(model)
        cost = None if row is None else row.cost_nusd(usage)
        if cost is None:
            return None
        if usage.web_searches:
            if self.web_search_nusd is None:
                return None
            cost += usage.web_searches * self.web_search_nusd
        return min(cost, _MAX_COST_NUSD)


def load_prices(own: Path | None = None) -> Prices:
    """The shipped table, with the user's `own` laid over it.

    Raises SettingsError naming file, model and key where the own table cannot be used.
    """
    shipped = read_prices(SHIPPED)
    if own is None:
        return shipped
    laid = read_prices(own)
    return Prices(
        {**shipped.models, **laid.models},
        shipped.web_search_nusd if laid.web_search_nusd is None else laid.web_search_nusd,
        laid.as_of or shipped.as_of,
    )


def read_prices(path: Path) -> Prices:
    """Read one table. Raises SettingsError naming file, model, key, value and what is allowed."""
    try:
        table = read_toml(path, parse_float=Decimal)
    except FileNotFoundError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    _check_keys(table, _TABLE_KEYS, str(path))
    models = table.get("models", {})
    if not isinstance(models, dict):
        raise SettingsError(f'models in {path} must be tables such as [models."claude-opus-5"]')
    as_of = table.get("as_of")
    if as_of is not None and type(as_of) is not date:
        raise SettingsError(f"as_of = {as_of} in {path} must be a date such as 2026-11-26")
    search = None
    if "web_search" in table:
        search = _whole(table["web_search"], _NUSD_PER_THOUSANDTH, "web_search", str(path))
    return Prices(
        {name: _row(row, f"[models.{name}] of {path}") for name, row in models.items()},
        search,
        as_of,
    )


def _row(row: object, where: str) -> ModelPrice:
    if not isinstance(row, dict):
        raise SettingsError(f"{where} must be a table with {', '.join(_PRICES)}")
    _check_keys(row, _ROW_KEYS, where)
    long = row.get("long")
    long_rate = None
    above = 0
    if long is not None:
        if not isinstance(long, dict):
            raise SettingsError(f"long in {where} must be a table with {', '.join(_LONG_KEYS)}")
        _check_keys(long, _LONG_KEYS, f"long in {where}")
        long_rate = _rate(long, f"long in {where}")
        above = _count(long, "above_tokens", f"long in {where}")
    source = row.get("source", "")
    if not isinstance(source, str):
        raise SettingsError(f"source = {source} in {where} must be text")
    return ModelPrice(
        _rate(row, where),
        _count(row, "fast", where) if "fast" in row else 0,
        _count(row, "us_percent", where) if "us_percent" in row else 0,
        long_rate,
        above,
        source,
    )


def _rate(row: Mapping[str, Any], where: str) -> Rate:
    missing = [key for key in _PRICES if key not in row]
    if missing:
        raise SettingsError(f"{', '.join(missing)} missing in {where}: a row has all five prices")
    return Rate(**{key: _whole(row[key], _NUSD_PER_MILLIONTH, key, where) for key in _PRICES})


def _whole(value: object, scale: int, key: str, where: str) -> int:
    """Dollars as whole nano-USD, so that every sum is exact."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise SettingsError(f"{key} = {value!r} in {where} must be a number of US dollars")
    if not Decimal(value).is_finite() or not 0 <= value <= _MAX_PRICE:
        raise SettingsError(f"{key} = {value} in {where} must be from 0 to {_MAX_PRICE} US dollars")
    nusd = Decimal(value) * scale
    if nusd != int(nusd):
        raise SettingsError(
            f"{key} = {value} in {where} is {nusd} nano-USD for one: it must be a whole number of "
            f"them, so give at most {len(str(scale)) - 1} decimal places"
        )
    return int(nusd)


def _count(row: Mapping[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if type(value) is not int or not 1 <= value <= 10**9:
        raise SettingsError(f"{key} = {value} in {where} must be a whole number from 1 up")
    return value


def _check_keys(table: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise SettingsError(f"unknown {key!r} in {where}; allowed are: {', '.join(allowed)}")
