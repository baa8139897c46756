"""Sums of money are exact, and as the hosted service makes them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Usage
from senryu.server.layers import SettingsError
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.prices import Kind, Prices, by_kind

counts = st.integers(0, 10**7)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_creation_5m_tokens=counts,
    cache_creation_1h_tokens=counts,
)


def test_by_default_a_million_tokens_cost_what_the_hosted_haiku_does() -> None:
    prices = Prices(ServerSettings().prices)

    def cost(**tokens: int) -> Decimal:
        usage = Usage(**{"input_tokens": 0, "output_tokens": 0} | tokens)
        return Decimal(prices.cost("any", usage, "standard")) / 10**9

    million = 10**6
    assert cost(input_tokens=million) == 1
    assert cost(output_tokens=million) == 5
    assert cost(output_tokens=million, thinking_tokens=million) == 5
    assert cost(cache_read_tokens=million) == Decimal("0.1")
    assert cost(cache_creation_5m_tokens=million) == Decimal("1.25")
    assert cost(cache_creation_1h_tokens=million) == 2


@given(usages)
def test_a_batch_costs_half(usage: Usage) -> None:
    prices = Prices(("*=1/5",))
    standard, batch = (prices.cost("m", usage, tier) for tier in ("standard", "batch"))
    assert batch == standard / 2


@given(usages, st.sampled_from(("standard", "batch")), st.integers(0, 10**6))
def test_no_answer_costs_more_than_the_most_that_was_held_for_it(
    usage: Usage, tier: str, unused: int
) -> None:
    prices = Prices(("*=0.37/1.13",))
    prompt = sum(by_kind(usage).values()) - usage.output_tokens
    most = prices.most("m", prompt, usage.output_tokens + unused, tier)  # type: ignore[arg-type]
    assert prices.cost("m", usage, tier) <= most  # type: ignore[arg-type]


def test_the_first_pattern_that_fits_holds_and_what_none_fits_is_free() -> None:
    prices = Prices(("*-int4=1/2", "smol*=3/4", "a=b=5/6"))
    usage = Usage(input_tokens=1, output_tokens=0)
    assert prices.cost("smol-int4", usage, "standard") == 1_000
    assert prices.cost("smol", usage, "standard") == 3_000
    assert prices.cost("a=b", usage, "standard") == 5_000
    assert prices.cost("other", usage, "standard") == 0
    assert Prices(()).most("m", 10, 10, "standard") == 0


def test_a_part_of_a_billionth_is_rounded_once() -> None:
    prices = Prices(("*=0.001/0.001",))  # a billionth of a dollar for a token
    usage = Usage(input_tokens=0, output_tokens=0, cache_read_tokens=5, cache_creation_5m_tokens=2)
    assert prices.cost("m", usage, "standard") == 3


@given(
    st.dictionaries(
        st.sampled_from(("input", "cache_read", "cache_creation_5m", "output")), counts, min_size=1
    ),
    st.integers(0, 10**15),
    st.sampled_from(("*=1/5", "*=0/0", "*=0.003/0")),
)
def test_the_parts_of_a_sum_are_the_sum(tokens: dict[Kind, int], total: int, text: str) -> None:
    parts = Prices((text,)).split("m", tokens, total)
    assert sum(parts.values()) == (total if any(tokens.values()) else 0)
    assert all(part >= 0 for part in parts.values())
    assert all(not parts[kind] for kind, count in tokens.items() if not count)


@given(usages)
def test_a_sum_of_todays_prices_has_the_parts_of_todays_prices(usage: Usage) -> None:
    prices, tokens = Prices(("*=1/5",)), by_kind(usage)
    parts = prices.split("m", tokens, prices.cost("m", usage, "standard"))
    assert parts["output"] == 5_000 * usage.output_tokens
    assert parts["cache_read"] == 100 * usage.cache_read_tokens


@pytest.mark.parametrize(
    "text", ["", "1/5", "=1/5", "m=1", "m=1/", "m=1/2/3", "m=-1/5", "m=nan/1", "m=1/inf", "m=1e9/1"]
)
def test_a_price_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^prices: .* is not spelt MODEL=INPUT/OUTPUT"):
        Prices((text,))
