"""A dead engine is opened again, and meanwhile everybody is told when to come back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine import keeping
from senryu.server.engine.base import EngineError, EngineGone
from senryu.server.engine.keeping import KeptEngine
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.prompt import Prompt

PROMPT = Prompt(token_ids=[1, 2, 3])
GREEDY = Sampling(max_tokens=50, temperature=0.0)


class Mortal(ScriptedEngine):
    """Lives until it is killed."""

    def __init__(self, script: str) -> None:
        super().__init__(script)
        self.dead = self.closed = False

    async def healthy(self) -> bool:
        return not self.dead

    async def generate(self, prompt, sampling, request_id):  # type: ignore[no-untyped-def]
        async with aclosing(super().generate(prompt, sampling, request_id)) as events:
            async for event in events:
                if self.dead:
                    raise EngineGone
                yield event

    async def close(self) -> None:
        self.closed = True


class Opener:
    """Opens the engines that it is given; an error stands for one that does not open."""

    def __init__(self, *next_ones: Mortal | EngineError) -> None:
        self._next = iter(next_ones)
        self.ready = asyncio.Event()
        self.ready.set()

    async def __call__(self) -> Mortal:
        await self.ready.wait()
        one = next(self._next)
        if isinstance(one, EngineError):
            raise one
        return one


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LOOKS", 0.001)


@asynccontextmanager
async def kept(first: Mortal, opener: Opener) -> AsyncIterator[KeptEngine]:
    engine = KeptEngine(first, opener, pauses=(0, 0.001))
    keeper = asyncio.create_task(engine.keep())
    try:
        yield engine
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})


async def said(engine: KeptEngine) -> str:
    async with aclosing(engine.generate(PROMPT, GREEDY, "r")) as events:
        return "".join([event.text async for event in events])


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_what_comes_after_its_death_is_answered_by_the_next() -> None:
    first, second = Mortal("I was here."), Mortal("I am here now.")
    async with kept(first, Opener(second)) as engine:
        assert await said(engine) == "I was here."
        first.dead = True

        async def changed() -> bool:
            return await engine.healthy() and engine.deaths == 1

        await until(changed)
        assert await said(engine) == "I am here now."
        assert first.closed, "what it left is taken away"


async def test_until_then_everybody_is_told_when_to_come_back() -> None:
    first, opener = Mortal("one two three"), Opener(Mortal("again"))
    opener.ready.clear()
    async with kept(first, opener) as engine:
        first.dead = True

        async def gone() -> bool:
            return not await engine.healthy() and engine.deaths == 1

        await until(gone)
        with pytest.raises(EngineGone, match="it starts again; try again shortly") as told:
            await said(engine)
        assert told.value.seconds is not None
        assert told.value.seconds >= 1
        with pytest.raises(EngineGone):
            await engine.refusal("{}")
        with pytest.raises(EngineGone):
            engine.look(PROMPT)
        assert engine.card.model == "scripted", "what it is, is known all the while"
        opener.ready.set()
        await until(engine.healthy)
        assert await said(engine) == "again"


async def test_an_answer_that_it_died_in_breaks_off_and_says_so() -> None:
    first = Mortal("one two three four")
    async with kept(first, Opener(Mortal("again"))) as engine:
        async with aclosing(engine.generate(PROMPT, GREEDY, "r")) as events:
            await anext(events)
            first.dead = True
            with pytest.raises(EngineGone) as told:
                async for _ in events:
                    pass
        assert told.value.seconds is not None


async def test_one_that_does_not_open_is_tried_again() -> None:
    first = Mortal("one")
    opener = Opener(EngineError("no memory"), EngineError("no memory"), Mortal("at last"))
    async with kept(first, opener) as engine:
        first.dead = True

        async def answers() -> bool:
            return engine.deaths == 1 and await engine.healthy()

        await until(answers)
        assert await said(engine) == "at last"


async def test_closing_the_answer_aborts_it_in_the_engine() -> None:
    first = Mortal("one two three four")
    async with kept(first, Opener()) as engine:
        async with aclosing(engine.generate(PROMPT, GREEDY, "r")) as events:
            await anext(events)
            assert first.active == {"r"}
        assert first.active == set()
