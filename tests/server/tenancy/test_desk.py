"""Who waits, who is next, and who is told to come back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.tenancy.desk import Desk, Place
from senryu.server.wire.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def desk(*, seats: int = 2, batch: int = 1, queued: int = 3, tokens: int = 1_000) -> Desk:
    return Desk(
        seats=seats,
        batch_seats=batch,
        max_queued=queued,
        max_queued_tokens=tokens,
        clock=Clock(),
    )


async def test_there_is_a_seat_for_as_many_as_the_engine_works_on() -> None:
    places = [(at := desk()).place("ann", 1), at.place("ann", 1), at.place("ann", 1)]
    assert [place.seated for place in places] == [True, True, False]
    places[0].leave()
    await asyncio.wait_for(places[2].seat(), 1)
    assert (at.active, at.queued, at.queued_tokens) == (2, 0, 0)


async def test_more_than_may_wait_are_told_to_come_back() -> None:
    at = desk(seats=1, queued=2)
    for _ in range(3):
        at.check()
        at.place("ann", 1)
    with pytest.raises(Overloaded) as full:
        at.check()
    assert full.value.headers()["retry-after"] == "1"
    with pytest.raises(Overloaded):
        at.place("bob", 1)
    assert at.queued == 2


async def test_tokens_that_wait_are_bounded_too_but_a_long_prompt_alone_may_wait() -> None:
    at = desk(seats=1, tokens=100)
    at.place("ann", 5_000)
    at.place("ann", 5_000)
    with pytest.raises(Overloaded):
        at.check()
    with pytest.raises(Overloaded):
        at.place("bob", 1)


async def test_when_to_come_back_follows_from_how_fast_the_queue_moves() -> None:
    at = desk(seats=1, queued=9)
    clock = at._clock
    assert isinstance(clock, Clock)
    places = [at.place("ann", 1) for _ in range(10)]
    for place in places[:3]:
        clock.now += 4.0
        place.leave()
    assert at.queued == 6
    assert at.retry_after() == 12  # half of six, four seconds each


async def test_one_who_sends_many_does_not_hold_up_the_others() -> None:
    at = desk(seats=2, queued=100)
    greedy = [at.place("greedy", 1) for _ in range(20)]
    modest = at.place("modest", 1)
    greedy[0].leave()
    assert modest.seated
    assert not greedy[2].seated
    others = [at.place(name, 1) for name in ("c", "d")]
    greedy[1].leave()
    modest.leave()
    assert [greedy[2].seated, *(place.seated for place in others)] == [True, True, False]
    greedy[2].leave()
    assert others[1].seated, "each in turn"


async def test_batches_take_what_nobody_wants_and_no_more_than_their_share() -> None:
    at = desk(seats=3, batch=2)
    batch = [at.place("b", 1, batch=True) for _ in range(4)]
    assert [place.seated for place in batch] == [True, True, False, False]
    mine = at.place("ann", 1)
    assert mine.seated
    mine.leave()
    assert not batch[2].seated


async def test_a_batch_gives_way_to_whoever_waits_the_latest_first() -> None:
    at = desk(seats=2, batch=2)
    batch = [at.place("b", 1, batch=True) for _ in range(3)]
    mine = at.place("ann", 1)
    assert not mine.seated
    assert [place.gives_way for place in batch] == [False, True, False]
    batch[1].leave()
    assert mine.seated
    assert not batch[2].seated, "what was given back is not taken by the next of the batch"


async def test_batches_are_never_told_that_the_queue_is_full() -> None:
    at = desk(seats=1, batch=1, queued=1)
    for _ in range(50):
        at.place("b", 1, batch=True)
    at.check()
    assert at.queued == 0


async def test_one_who_leaves_the_queue_leaves_nothing_behind() -> None:
    at = desk(seats=1)
    first, second = at.place("ann", 1), at.place("bob", 7)
    waiting = asyncio.ensure_future(second.seat())
    await asyncio.sleep(0)
    waiting.cancel()
    second.leave()
    second.leave()
    first.leave()
    assert (at.active, at.queued, at.queued_tokens) == (0, 0, 0)
    assert at.place("cy", 1).seated


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.integers(0, 30))))
def test_whatever_comes_and_goes_the_counts_are_true(steps: list[tuple[str, bool, int]]) -> None:
    async def run() -> None:
        at = desk(seats=3, batch=2, queued=5, tokens=60)
        here: list[Place] = []
        for whose, batch, number in steps:
            if number % 3 == 0 and here:
                here.pop(number % len(here)).leave()
            else:
                try:
                    here.append(at.place(whose, number, batch=batch))
                except Overloaded:
                    assert at.queued
            seated = [place for place in here if place.seated]
            waiting = [place for place in here if not place.seated and not place.batch]
            assert at.active == len(seated) <= 3
            assert at.active_batch == sum(place.batch for place in seated) <= 2
            assert at.queued == len(waiting) <= 5
            assert at.queued_tokens == sum(place.tokens for place in waiting)
            assert len(seated) == 3 or not waiting, "nobody waits beside a free seat"
            giving = sum(place.gives_way for place in seated)
            assert giving <= at.active_batch
        for place in here:
            place.leave()
        assert (at.active, at.queued, at.queued_tokens, at._yielding) == (0, 0, 0, 0)
        assert not at._lines
        assert not at._active

    asyncio.run(run())
