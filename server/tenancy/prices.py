"""What tokens cost: a table of prices per model, and sums in billionths of a dollar.

Pure and exact: prices are decimal fractions, and one sum is rounded once. What is read from the
cache, written to it or asked for in a batch costs the hosted service's share of the plain price.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Literal

from senryu.server.conversation.messages import Usage
from senryu.server.layers import SettingsError

from .account import Tier

Kind = Literal["input", "cache_read", "cache_creation_5m", "cache_creation_1h", "output"]

# A token's price as a share of the plain one for input; output has a price of its own.
SHARES: dict[Kind, Decimal] = {
    "input": Decimal(1),
    "cache_read": Decimal("0.1"),
    "cache_creation_5m": Decimal("1.25"),
    "cache_creation_1h": Decimal(2),
}
_BATCH = Decimal("0.5")
# A dollar for a million tokens is as many billionths of a dollar for one.
_PER_TOKEN = Decimal(1000)
_FREE = (Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Price:
    """Billionths of a dollar for a token read and for one written."""

    pattern: str
    rates: tuple[Decimal, Decimal]


class Prices:
    """The table of the setting `prices`; a model that no pattern fits is free."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises SettingsError for a text that is not spelt MODEL=INPUT/OUTPUT."""
        self._table = tuple(map(_read, texts))

    def cost(self, model: str, usage: Usage, tier: Tier) -> int:
        """What an answer cost."""
        return _whole(sum(self._parts(model, tier, by_kind(usage)).values(), Decimal(0)))

    def most(self, model: str, input_tokens: int, output_tokens: int, tier: Tier) -> int:
        """What an answer costs at most: all of its prompt is written to the cache for an hour."""
        tokens: dict[Kind, int] = {"cache_creation_1h": input_tokens, "output": output_tokens}
        return _whole(sum(self._parts(model, tier, tokens).values(), Decimal(0)))

    def split(self, model: str, tokens: dict[Kind, int], total: int) -> dict[Kind, int]:
        """`total` as shares of the kinds of tokens that it was paid for; they sum to it.

        The ledger keeps sums alone, which may be of other prices than today's: these say only how
        much dearer one kind is than another.
        """
        weights = self._parts(model, "standard", tokens)
        if not any(weights.values()):  # free today, and it was not then
            weights = {kind: Decimal(count) for kind, count in tokens.items()}
        left, of = total, sum(weights.values(), Decimal(0))
        shares: dict[Kind, int] = {}
        for kind, weight in weights.items():  # each takes its part of what is left: none is lost
            shares[kind] = _whole(left * weight / of) if of else 0
            left, of = left - shares[kind], of - weight
        return shares

    def _parts(self, model: str, tier: Tier, tokens: dict[Kind, int]) -> dict[Kind, Decimal]:
        read, written = next(
            (price.rates for price in self._table if fnmatchcase(model, price.pattern)), _FREE
        )
        share = _BATCH if tier == "batch" else Decimal(1)
        return {
            kind: count * share * (written if kind == "output" else read * SHARES[kind])
            for kind, count in tokens.items()
        }


def by_kind(usage: Usage) -> dict[Kind, int]:
    """The tokens of an answer by what they cost."""
    return {
        "input": usage.input_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_creation_5m": usage.cache_creation_5m_tokens,
        "cache_creation_1h": usage.cache_creation_1h_tokens,
        "output": usage.output_tokens,
    }


def _read(text: str) -> _Price:
    pattern, _, prices = text.rpartition("=")
    try:
        read, written = (Decimal(price.strip()) for price in prices.split("/"))
    except (ValueError, InvalidOperation):
        read = written = Decimal("NaN")
    finite = read.is_finite() and written.is_finite()
    if not pattern.strip() or not finite or min(read, written) < 0 or max(read, written) >= 10**6:
        raise SettingsError(
            f"prices: {text!r} is not spelt MODEL=INPUT/OUTPUT, in dollars for a million tokens"
        )
    return _Price(pattern=pattern.strip(), rates=(read * _PER_TOKEN, written * _PER_TOKEN))


def _whole(amount: Decimal) -> int:
    return int(amount.to_integral_value(ROUND_HALF_UP))
