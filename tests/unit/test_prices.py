"""The price table against costs that Claude Code itself reported, and its exact arithmetic."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squad_otel.errors import SettingsError
from squad_otel.prices import SHIPPED, Prices, Usage, load_prices, read_prices

PRICED = Path(__file__).parents[1] / "fixtures" / "claude" / "priced.jsonl"

ROW = """
input = 3
output = 15
cache_read = 0.30
cache_creation_5m = 3.75
cache_creation_1h = 6
"""

counts = st.integers(0, 10**9)


@pytest.fixture(scope="module")
def prices() -> Prices:
    return load_prices()


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_every_cost_that_claude_code_reported_is_met_to_the_last_digit(prices: Prices) -> None:
    answers = [json.loads(line) for line in PRICED.read_text().splitlines()]
    assert len(answers) == 45
    for answer in answers:
        usage = Usage(
            answer["input_tokens"],
            answer["output_tokens"],
            answer["cache_read_tokens"],
            answer["cache_creation_tokens"],
            answer["cache_creation_1h_tokens"],
            speed=answer["speed"],
        )
        reported_nusd = round(answer["cost_usd"] * 1e9)  # a float: 0.0024079999999999996
        assert prices.cost_nusd(answer["model"], usage) == reported_nusd


def test_each_kind_has_its_price(prices: Prices) -> None:
    million = 10**6
    dollars = {  # claude-opus-4-5: 5 in, 25 out, 0.50 read, 6.25 and 10 written
        Usage(input_tokens=million): 5,
        Usage(output_tokens=million): 25,
        Usage(cache_read_tokens=million): 0.5,
        Usage(cache_creation_tokens=million): 6.25,
        Usage(cache_creation_tokens=million, cache_creation_1h_tokens=million): 10,
        Usage(web_searches=1000): 10,
    }
    for usage, cost in dollars.items():
        assert prices.cost_nusd("claude-opus-4-5", usage) == cost * 10**9


def test_an_unknown_model_has_no_price_and_not_the_price_0(prices: Prices) -> None:
    for model in ("claude-opus-99", "", "<synthetic>", "gpt-5", "claude-opus", "claude"):
        assert prices.cost_nusd(model, Usage(1, 1)) is None


def test_a_model_is_found_with_the_date_in_its_name(prices: Prices) -> None:
    dated = prices.price("claude-sonnet-4-5-20250929")
    assert dated is not None
    assert dated is prices.price("claude-sonnet-4-5")
    assert prices.price("claude-opus-4-20250514") is prices.price("claude-opus-4")
    assert prices.price("claude-opus-4") is not prices.price("claude-opus-4-1")
    assert prices.price("claude-sonnet-4-5-2025") is None


def test_a_row_with_a_date_wins_over_the_one_without(tmp_path: Path) -> None:
    own = f'[models."m"]{ROW}[models."m-20260101"]{ROW.replace("input = 3", "input = 4")}'
    mine = read_prices(table(tmp_path, own))
    usage = Usage(input_tokens=1)
    assert mine.cost_nusd("m-20260101", usage) == 4000
    assert mine.cost_nusd("m-20260102", usage) == 3000


def test_fast_answers_cost_a_factor_where_one_is_known(prices: Prices) -> None:
    assert prices.cost_nusd("claude-opus-5-5", Usage(1, 1, speed="fast")) == 48_000
    assert prices.cost_nusd("claude-opus-5-5", Usage(1, 1, speed="standard")) == 24_000
    assert prices.cost_nusd("claude-sonnet-5", Usage(1, 1, speed="fast")) is None
    assert prices.cost_nusd("claude-opus-5-5", Usage(1, 1, speed="warp")) is None


def test_answers_held_in_one_country_cost_more_where_that_is_known(prices: Prices) -> None:
    assert prices.cost_nusd("claude-opus-5-5", Usage(1, geo="us")) == 4400
    assert prices.cost_nusd("claude-opus-5-5", Usage(1, geo="global")) == 4000
    assert prices.cost_nusd("claude-opus-4-1", Usage(1, geo="us")) is None
    one_written = Usage(cache_creation_tokens=1, geo="us")  # 137.5 nano-USD
    assert prices.cost_nusd("claude-haiku-5-5", one_written) == 138


def test_a_long_prompt_prices_the_whole_answer(prices: Prices) -> None:
    at_limit = Usage(50_000, 10, 30_000, 20_000)
    above = Usage(50_001, 10, 30_000, 20_000)
    assert prices.cost_nusd("claude-haiku-5-5", at_limit) == (
        50_000 * 100 + 10 * 500 + 30_000 * 10 + 20_000 * 125
    )
    assert prices.cost_nusd("claude-haiku-5-5", above) == (
        50_001 * 500 + 10 * 2500 + 30_000 * 50 + 20_000 * 625
    )


@given(counts, counts, counts, counts)
def test_costs_are_whole_and_add_up(new: int, output: int, read: int, written: int) -> None:
    shipped = load_prices()
    for model in shipped.models:
        parts = [
            shipped.cost_nusd(model, usage)
            for usage in (
                Usage(input_tokens=new),
                Usage(output_tokens=output),
                Usage(cache_read_tokens=read),
                Usage(cache_creation_tokens=written, cache_creation_1h_tokens=written // 2),
            )
        ]
        whole = shipped.cost_nusd(model, Usage(new, output, read, written, written // 2))
        assert all(type(part) is int for part in parts)
        if shipped.models[model].long_rate is None:
            assert whole == sum(part or 0 for part in parts)


def test_copies_of_an_answer_make_one_that_knows_what_each_knew() -> None:
    early = Usage(1, 20, 3, 40, 5, 0, speed="fast")
    late = Usage(10, 2, 30, 4, 6, 7, geo="us")
    whole = Usage(10, 20, 30, 40, 6, 7, speed="fast", geo="us")
    assert early.merged(late) == late.merged(early) == whole
    assert Usage().merged(whole) == whole.merged(whole) == whole


def test_the_shipped_table_is_dated_and_says_where_each_row_is_from() -> None:
    shipped = load_prices()
    assert shipped.as_of is not None
    assert shipped.as_of >= date(2026, 11, 26)
    header = SHIPPED.read_text().partition("as_of")[0]
    for name, row in shipped.models.items():
        assert f"#   {row.source} " in header, f"{name}: its source is not explained"


def test_writing_the_cache_costs_more_than_input_and_reading_it_less() -> None:
    for name, row in load_prices().models.items():
        for rate in (row.rate, row.long_rate):
            if rate is not None:
                ordered = (
                    rate.cache_read,
                    rate.input,
                    rate.cache_creation_5m,
                    rate.cache_creation_1h,
                    rate.output,
                )
                assert list(ordered) == sorted(ordered), name
                assert rate.output == 5 * rate.input, name


def test_an_own_table_is_laid_over_the_shipped_one(tmp_path: Path) -> None:
    own = table(tmp_path, f'as_of = 2027-01-01\n[models."claude-opus-5-5"]{ROW}[models.mine]{ROW}')
    prices = load_prices(own)
    assert prices.cost_nusd("claude-opus-5-5", Usage(1)) == 3000
    assert prices.cost_nusd("mine", Usage(1)) == 3000
    assert prices.cost_nusd("claude-opus-5", Usage(1, web_searches=1)) == 5000 + 10**7
    assert prices.as_of == date(2027, 1, 1)


def test_a_web_search_without_a_price_leaves_the_cost_unknown(tmp_path: Path) -> None:
    prices = read_prices(table(tmp_path, f"[models.m]{ROW}"))
    assert prices.cost_nusd("m", Usage(1)) == 3000
    assert prices.cost_nusd("m", Usage(1, web_searches=1)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.m]\ninput = 1", "output, cache_read, .* missing in .models.m. of .*own.toml"),
        (
            f"[models.m]{ROW}".replace("0.30", "0.3001"),
            r"cache_read = 0.3001 .*\[models.m\].*whole",
        ),
        (f"[models.m]{ROW}".replace("0.30", "-1"), "cache_read = -1 .*from 0"),
        (f"[models.m]{ROW}".replace("0.30", "nan"), "cache_read = NaN .*from 0"),
        (f"[models.m]{ROW}".replace("0.30", "inf"), "cache_read = Infinity .*from 0"),
        (f"[models.m]{ROW}".replace("0.30", '"1"'), "cache_read = '1' .*number of US dollars"),
        (f"[models.m]{ROW}".replace("0.30", "true"), "cache_read = True .*number of US dollars"),
        (f"[models.m]{ROW}cached = 1", "unknown 'cached' .*cache_read"),
        (f"[models.m]{ROW}fast = 1.5", "fast = 1.5 .*whole number"),
        (f"[models.m]{ROW}us_percent = 0", "us_percent = 0 .*whole number"),
        (f"[models.m]{ROW}source = 1", "source = 1 .*text"),
        (f"[models.m]{ROW}long = 1", "long in .*table"),
        (f"[models.m]{ROW}[models.m.long]{ROW}", "above_tokens = None in long in .*whole"),
        ("models = 1", "models in .*must be tables"),
        ("[models]\nm = 1", r"\[models.m\] of .*must be a table"),
        ("model = 1", "unknown 'model' .*models"),
        ("as_of = 2026", "as_of = 2026 .*date"),
        ("web_search = 0.0000001", "web_search = .*whole number"),
        ("a = = 1", "not valid TOML.*line 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        load_prices(table(tmp_path, text))


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*none\.toml"):
        load_prices(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="cannot read"):
        load_prices(tmp_path / "bytes.toml")


def test_no_answer_costs_more_than_the_journal_can_add_up() -> None:
    """A transcript may say that an answer searched a billion times."""
    searched = Usage(input_tokens=1, web_searches=10**12)
    cost_nusd = load_prices().cost_nusd("claude-opus-4-5", searched)
    assert cost_nusd == 10**15
