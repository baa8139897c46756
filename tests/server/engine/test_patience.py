"""The first event is waited for a while, is given once more, and is never lost."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from senryu.server.engine.base import EngineError, TokenEvent
from senryu.server.engine.patience import Patient


async def events(
    count: int, *, delay: float = 0.0, closed: list[bool] | None = None
) -> AsyncGenerator[TokenEvent, None]:
    try:
        for number in range(count):
            await asyncio.sleep(delay)
            yield TokenEvent([number], "")
    finally:
        if closed is not None:
            closed.append(True)


async def ids(patient: Patient) -> list[int]:
    return [event.token_ids[0] async for event in patient]


async def test_all_events_come_with_or_without_waiting_for_the_first() -> None:
    assert await ids(Patient(events(3))) == [0, 1, 2]
    patient = Patient(events(3))
    first = await patient.first(10)
    assert first is not None
    assert list(first.token_ids) == [0]
    assert await ids(patient) == [0, 1, 2]


async def test_a_first_event_that_is_late_comes_later() -> None:
    patient = Patient(events(2, delay=0.05))
    assert await patient.first(0.001) is None
    assert await ids(patient) == [0, 1]


async def test_no_event_is_none_and_an_end() -> None:
    patient = Patient(events(0))
    assert await patient.first(10) is None
    assert await ids(patient) == []


async def test_closing_while_the_first_is_waited_for_closes_the_engine() -> None:
    closed: list[bool] = []
    patient = Patient(events(2, delay=60, closed=closed))
    assert await patient.first(0.001) is None
    await patient.aclose()
    assert closed == [True]


async def test_an_engine_that_fails_at_once_says_so_at_once() -> None:
    async def broken() -> AsyncGenerator[TokenEvent, None]:
        raise EngineError("gone")
        yield

    with pytest.raises(EngineError, match="gone"):
        await Patient(broken()).first(10)
