"""How much a key or a workspace may use. Values only: `limiter` holds callers to them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

from senryu.server.layers import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None is no limit. Tokens that were read from the cache count towards none of them but the
    budgets of money."""

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    """Read and written together, from midnight on (UTC)."""
    tokens_per_month: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))

    def as_dict(self) -> dict[str, float]:
        """Those that are set."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in told.items() if value is not None}


NO_LIMITS = Limits()
_NAMES = tuple(each.name for each in fields(Limits))


def read_limits(texts: Iterable[str], *, where: str) -> Limits:
    """Of texts such as `requests_per_minute=60`. Raises SettingsError, which begins with `where`
    they stood."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = (part.strip() for part in text.partition("="))
        if name not in _NAMES:
            raise SettingsError(f"{where}: {name!r} is no limit; there are {', '.join(_NAMES)}")
        try:
            value = float(number) if name.startswith("usd") else int(number)
        except ValueError:
            value = -1
        if not value >= 0 or math.isinf(value):
            raise SettingsError(f"{where}: {name} wants a number from 0 on, not {number!r}")
        found[name] = value
    return Limits(**found)  # type: ignore[arg-type]
