"""What the ledger's rows say together, and one by one.

Requests that run, and those that were lost with their server, are in no sum: nobody has seen what
they used. A request belongs to the time at which it began.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, and_, case, cast, func, literal, or_, select

from .prices import Kind
from .store.opening import Store
from .store.tables import keys, ledger, workspaces

_PAGE = 1_000
# Asked for as what it is not, lest SQLite take the index of states for the better one: nearly all
# rows have one of the others, and those are found by their time.
_ENDED = ledger.c.state.not_in(("open", "lost"))
_PROMPT = (
    cast(ledger.c.input_tokens, BigInteger)
    + ledger.c.cache_read_tokens
    + ledger.c.cache_creation_5m_tokens
    + ledger.c.cache_creation_1h_tokens
)

# What rows can be chosen and grouped by.
DIMENSIONS: Mapping[str, ColumnElement[Any]] = {
    "api_key_id": ledger.c.key_id,
    "workspace_id": ledger.c.workspace_id,
    "model": ledger.c.model,
    "service_tier": ledger.c.tier,
    "context_window": case((_PROMPT <= 200_000, "0-200k"), else_="200k-1M"),
    "inference_geo": literal("not_available"),
    "task": ledger.c.task,
}
_COUNTS = (
    ledger.c.input_tokens,
    ledger.c.cache_read_tokens,
    ledger.c.cache_creation_5m_tokens,
    ledger.c.cache_creation_1h_tokens,
    ledger.c.output_tokens,
    ledger.c.thinking_tokens,
    ledger.c.cost,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Requests that began in [since, until), in milliseconds since 1970; `only` those with one of
    these values of a dimension."""

    since: int
    until: int
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a group of requests used."""

    start: int
    """Of its bucket of time."""
    group: Mapping[str, str | None]
    requests: int
    tokens: Mapping[Kind, int]
    thinking_tokens: int
    cost: int


async def summed(
    store: Store, which: Which, by: Sequence[str] = (), width: int | None = None
) -> list[Sums]:
    """The sums of each group, in each bucket of `width` milliseconds or in all."""
    grouped = [DIMENSIONS[name].label(f"by_{name}") for name in by]
    if width is not None:
        grouped.append((ledger.c.started_at // width).label("bucket"))
    asked = (
        select(
            *grouped,
            func.count().label("requests"),
            *(func.coalesce(func.sum(count), 0).label(count.name) for count in _COUNTS),
        )
        .where(_chosen(which), _ENDED)
        .group_by(*(column.name for column in grouped))
        .order_by(*(column.name for column in reversed(grouped)))
    )
    async with store.reading() as connection:
        found = (await connection.execute(asked)).all()
    return [_sums(row, by, which.since, width) for row in found if row.requests]


async def lost(store: Store, which: Which) -> int:
    """How many requests were lost with their server."""
    asked = select(func.count()).where(_chosen(which), ledger.c.state == "lost")
    async with store.reading() as connection:
        return (await connection.execute(asked)).scalar_one()


async def each(store: Store, which: Which) -> AsyncIterator[Sequence[Row[Any]]]:
    """The rows themselves, some at a time, in the order in which they began."""
    place = (which.since, "")
    while True:
        at, after = place
        later = or_(ledger.c.started_at > at, and_(ledger.c.started_at == at, ledger.c.id > after))
        asked = (
            select(ledger)
            # The index is read on from where the page before ended.
            .where(_chosen(replace(which, since=at)), _ENDED, later)
            .order_by(ledger.c.started_at, ledger.c.id)
            .limit(_PAGE)
        )
        async with store.reading() as connection:
            rows = (await connection.execute(asked)).all()
        if rows:
            yield rows
        if len(rows) < _PAGE:
            return
        place = (rows[-1].started_at, rows[-1].id)


async def names(store: Store) -> dict[str, str]:
    """Of the stored keys and workspaces, by their ids."""
    async with store.reading() as connection:
        found = [
            *await connection.execute(select(keys.c.id, keys.c.name)),
            *await connection.execute(select(workspaces.c.id, workspaces.c.name)),
        ]
    return {row.id: row.name for row in found}


def _chosen(which: Which) -> ColumnElement[bool]:
    chosen = [ledger.c.started_at >= which.since, ledger.c.started_at < which.until]
    chosen += [DIMENSIONS[name].in_(values) for name, values in which.only.items() if values]
    return and_(*chosen)


def _sums(row: Any, by: Sequence[str], since: int, width: int | None) -> Sums:
    # PostgreSQL's sums are decimals.
    tokens: dict[Kind, int] = {
        "input": int(row.input_tokens),
        "cache_read": int(row.cache_read_tokens),
        "cache_creation_5m": int(row.cache_creation_5m_tokens),
        "cache_creation_1h": int(row.cache_creation_1h_tokens),
        "output": int(row.output_tokens),
    }
    return Sums(
        start=since if width is None else row.bucket * width,
        group={name: getattr(row, f"by_{name}") for name in by},
        requests=row.requests,
        tokens=tokens,
        thinking_tokens=int(row.thinking_tokens),
        cost=int(row.cost),
    )
