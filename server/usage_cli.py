"""`senryu usage`: who used how much, read from the database itself, whether a server runs or not.

A table for people; `--json` for programs; `--csv` for spreadsheets, a line for each request.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from .conversation.messages import Usage
from .layers import SettingsError, add_flags, load_arguments
from .settings import ServerSettings
from .tenancy.account import Tier
from .tenancy.place import database_address
from .tenancy.presence import now_ms
from .tenancy.prices import Kind, Prices
from .tenancy.reports import Sums, Which, each, lost, names, summed
from .tenancy.store.opening import Store, StoreError, open_store
from .wire.errors import InvalidRequest
from .wire.reports import csv_head, csv_lines, moment

_GROUPS = {
    "key": "api_key_id",
    "workspace": "workspace_id",
    "model": "model",
    "task": "task",
    "tier": "service_tier",
}
_UNITS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_HEADS = (
    "requests",
    "input",
    "cache write",
    "cache read",
    "cached",
    "output",
    "cost",
    "at these prices",
)


@dataclass(slots=True)
class Line:
    """What one of those that are listed used."""

    requests: int = 0
    input: int = 0
    written: int = 0
    read: int = 0
    output: int = 0
    cost: int = 0
    priced: int = 0
    """What it would have cost at the prices of the settings."""

    def add(self, sums: Sums, prices: Prices) -> None:
        tokens = sums.tokens
        self.requests += sums.requests
        self.input += tokens["input"]
        self.written += tokens["cache_creation_5m"] + tokens["cache_creation_1h"]
        self.read += tokens["cache_read"]
        self.output += tokens["output"]
        self.cost += sums.cost
        tier: Tier = "batch" if sums.group["service_tier"] == "batch" else "standard"
        self.priced += prices.cost(sums.group["model"] or "", _usage(tokens), tier)

    @property
    def cached(self) -> float:
        """The share of all prompts that was read from the cache."""
        return self.read / max(1, self.input + self.written + self.read)

    def cells(self) -> list[str]:
        counts = (self.requests, self.input, self.written, self.read)
        return [
            *(f"{count:,}" for count in counts),
            f"{self.cached:.0%}",
            f"{self.output:,}",
            _dollars(self.cost),
            _dollars(self.priced),
        ]

    def body(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "input_tokens": self.input,
            "cache_creation_input_tokens": self.written,
            "cache_read_input_tokens": self.read,
            "output_tokens": self.output,
            "cost_usd": self.cost / 10**9,
            "at_these_prices_usd": self.priced / 10**9,
        }


def main(argv: Sequence[str]) -> int:
    """1: the ledger cannot be read; 2: it was asked for in a wrong way."""
    arguments = parser().parse_args(argv)
    try:
        settings = load_arguments(ServerSettings, table="server", arguments=arguments).settings
        prices, which = Prices(settings.prices), _which(arguments)
        address = database_address(settings)
        if address is None:
            raise SettingsError("database: none keeps no ledger; name a database with --database")
        if "://" not in address and not Path(address).exists():
            raise StoreError(f"there is no ledger yet at {address}; --data or --database names it")
        asyncio.run(_run(address, arguments, which, prices))
    except SettingsError as error:
        print(f"senryu usage: {error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"senryu usage: {error}", file=sys.stderr)
        return 1
    except (SQLAlchemyError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"senryu usage: the database failed ({type(error).__name__})", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="senryu usage", description="Who used how much, and what it cost."
    )
    flags.add_argument(
        "--since",
        metavar="WHEN",
        help="a day, a time, or how long ago: 2026-11-01, 12h, 30d (default: this month, UTC)",
    )
    flags.add_argument("--until", metavar="WHEN", help="the same (default: now)")
    flags.add_argument("--by", choices=_GROUPS, default="key", help="(default: %(default)s)")
    kinds = flags.add_mutually_exclusive_group()
    kinds.add_argument("--csv", action="store_true", help="a line for each request")
    kinds.add_argument("--json", action="store_true", help="print JSON")
    add_flags(flags, ServerSettings, ("data", "database", "prices"))
    return flags


async def _run(address: str, arguments: argparse.Namespace, which: Which, prices: Prices) -> None:
    store = await open_store(address)
    try:
        if arguments.csv:
            sys.stdout.write(csv_head())
            async for rows in each(store, which):
                sys.stdout.write(csv_lines(row._mapping for row in rows))
            return
        lines = await _lines(store, which, _GROUPS[arguments.by], prices)
        gone = await lost(store, which)
    finally:
        await store.close()
    if arguments.json:
        listed = [{arguments.by: name} | line.body() for name, line in lines.items()]
        print(json.dumps({"usage": listed, "lost": gone}))
    else:
        _show(arguments.by, lines, which, gone)


async def _lines(store: Store, which: Which, by: str, prices: Prices) -> dict[str | None, Line]:
    """By the name of what it is grouped by; the dearest first."""
    known, lines = await names(store), dict[str | None, Line]()
    for sums in await summed(store, which, tuple(dict.fromkeys((by, "model", "service_tier")))):
        name = sums.group[by]
        shown = None if name is None else known.get(name) or re.sub("^settings:@?", "", name)
        lines.setdefault(shown, Line()).add(sums, prices)
    return dict(sorted(lines.items(), key=lambda line: (-line[1].cost, -line[1].requests)))


def _show(by: str, lines: Mapping[str | None, Line], which: Which, gone: int) -> None:
    if lines:
        total = Line()
        for line in lines.values():
            for name in Line.__slots__:
                setattr(total, name, getattr(total, name) + getattr(line, name))
        table = [[by, *_HEADS]]
        table += [[name or f"(no {by})", *line.cells()] for name, line in lines.items()]
        table += [["all", *total.cells()]] if len(lines) > 1 else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for first, *others in table:
            cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            print("  ".join((first.ljust(widths[0]), *cells)))
    else:
        print("no requests")
    print(f"{_shown(which.since)} to {_shown(which.until)} (UTC)", file=sys.stderr)
    if gone:
        print(f"lost when a server died: {gone:,}", file=sys.stderr)


def _which(arguments: argparse.Namespace) -> Which:
    now = now_ms()
    month = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y-%m-01")
    since = _when(arguments.since or month, "since", now)
    until = now + 1 if arguments.until is None else _when(arguments.until, "until", now)
    if until <= since:
        raise SettingsError("until: must be after --since")
    return Which(since=since, until=until)


def _when(text: str, flag: str, now: int) -> int:
    """Milliseconds since 1970. Raises SettingsError."""
    ago = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if ago:
        return max(0, now - int(ago[1]) * _UNITS[ago[2]])
    try:
        return moment(text, flag)
    except InvalidRequest:
        raise SettingsError(
            f"{flag}: {text!r} is no time; write 2026-11-01, 2026-11-01T12:00:00Z, 12h or 30d"
        ) from None


def _usage(tokens: Mapping[Kind, int]) -> Usage:
    return Usage(
        input_tokens=tokens["input"],
        output_tokens=tokens["output"],
        cache_read_tokens=tokens["cache_read"],
        cache_creation_5m_tokens=tokens["cache_creation_5m"],
        cache_creation_1h_tokens=tokens["cache_creation_1h"],
    )


def _dollars(billionths: int) -> str:
    dollars = billionths / 10**9
    return f"${dollars:,.2f}" if dollars >= 1 or not billionths else f"${dollars:.4f}"


def _shown(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")
