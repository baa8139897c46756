"""How prompts begin is remembered for a day, and read when the server starts."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import EngineError, PromptRefused, TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.traffic import Traffic
from senryu.server.turn.marks import Mark
from senryu.server.turn.prompt import Prompt
from senryu.server.warm_up import LATE, MOST, Beginnings, beginning, warm_up


def prompt(
    first: int = 0, *, salt: str = "s", marked: int = 300, part: str = "system", more: int = 0
) -> Prompt:
    marks = (Mark(marked, "5m", part), Mark(400 + more, "5m", "messages"))  # type: ignore[arg-type]
    return Prompt(token_ids=[first] * 400 + [7] * more, marks=marks, salt=salt)


@pytest.fixture
def beginnings(tmp_path: Path) -> Beginnings:
    return Beginnings(tmp_path / "beginnings", "m 1")


def test_what_is_remembered_is_the_part_that_other_conversations_share() -> None:
    begun = beginning(prompt(more=50))
    assert begun is not None
    assert (begun.token_ids, begun.salt, begun.priority) == ([0] * 300, "s", LATE)
    assert beginning(prompt(part="tools")) is not None
    assert beginning(prompt(part="messages")) is None
    assert beginning(prompt(marked=100)) is None, "too short to be worth it"


def test_a_beginning_is_noted_once_for_each_salt_and_model(beginnings: Beginnings) -> None:
    for more in (0, 50, 100):
        beginnings.note(prompt(more=more))
    beginnings.note(prompt(salt="t"))
    Beginnings(beginnings.folder, "m 2").note(prompt())
    assert len(list(beginnings.folder.iterdir())) == 3
    assert sorted(known.salt for known in beginnings.known()) == ["s", "t"]


def test_notes_are_their_owners_alone(beginnings: Beginnings) -> None:
    beginnings.note(prompt())
    (file,) = beginnings.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(beginnings.folder.stat().st_mode) == 0o700


def test_after_a_day_without_use_it_is_forgotten(beginnings: Beginnings) -> None:
    beginnings.note(prompt(1))
    (file,) = beginnings.folder.iterdir()
    used = time.time() - 86_000
    os.utime(file, (used, used))
    beginnings.note(prompt(1))  # which is a use
    assert [known.token_ids[0] for known in beginnings.known()] == [1]
    used = time.time() - 90_000
    os.utime(file, (used, used))
    assert list(beginnings.known()) == []
    assert not file.exists()


def test_only_so_many_are_remembered(beginnings: Beginnings) -> None:
    for number in range(MOST + 5):
        beginnings.note(prompt(number))
    assert len(list(beginnings.folder.iterdir())) == MOST


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"model": "m 1"}',
        b'{"model": "m 1", "salt": "s", "token_ids": [-1]}',
        b'{"model": "m 1", "salt": "s", "token_ids": []}',
        b"[" * 100_000,
    ],
    ids=len,
)
def test_a_damaged_note_is_none_and_goes(beginnings: Beginnings, content: bytes) -> None:
    beginnings.note(prompt())
    damaged = beginnings.folder / "damaged.json"
    damaged.write_bytes(content)
    assert len(list(beginnings.known())) == 1
    assert not damaged.exists()


def test_where_nothing_can_be_written_nothing_is_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    beginnings = Beginnings(tmp_path / "file", "m")
    beginnings.note(prompt())
    assert "not remembered" in caplog.text
    assert list(beginnings.known()) == []


class Reading(ScriptedEngine):
    def __init__(self, *, broken: EngineError | None = None) -> None:
        super().__init__(window=350)
        self.read: list[Prompt] = []
        self._broken = broken

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        self.read.append(prompt)
        if self._broken:
            raise self._broken
        async for event in super().generate(prompt, sampling, request_id):
            yield event


async def test_at_start_all_are_read_behind_everybody_elses(beginnings: Beginnings) -> None:
    for age, salt in enumerate(("s", "t", "gone")):
        beginnings.note(prompt(salt=salt))
        (file,) = (each for each in beginnings.folder.iterdir() if f'"{salt}"' in each.read_text())
        os.utime(file, (time.time() - age, time.time() - age))
    beginnings.note(prompt(marked=360))  # more than the window has room for
    engine = Reading()
    assert await warm_up(beginnings, engine, {"s", "t"}, Traffic()) == 2
    assert [each.salt for each in engine.read] == ["t", "s"], "the latest last"
    assert {each.priority for each in engine.read} == {LATE}


async def test_an_engine_that_fails_is_not_asked_again(
    beginnings: Beginnings, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        beginnings.note(prompt(number))
    engine = Reading(broken=EngineError("gone"))
    assert await warm_up(beginnings, engine, {"s"}, Traffic()) == 0
    assert len(engine.read) == 1
    assert "has stopped: gone" in caplog.text


async def test_a_beginning_that_the_engine_refuses_keeps_no_other_from_being_read(
    beginnings: Beginnings,
) -> None:
    for number in range(3):
        beginnings.note(prompt(number))
    engine = Reading(broken=PromptRefused("no"))
    assert await warm_up(beginnings, engine, {"s"}, Traffic()) == 0
    assert len(engine.read) == 3


async def test_who_waits_for_an_answer_waits_for_no_reading_ahead(beginnings: Beginnings) -> None:
    """It is interrupted, begins anew when nobody waits any longer, and loses none."""
    traffic, started, ended = Traffic(), asyncio.Event(), asyncio.Event()

    class Slow(Reading):
        async def generate(
            self, prompt: Prompt, sampling: Sampling, request_id: str
        ) -> AsyncGenerator[TokenEvent, None]:
            self.read.append(prompt)
            started.set()
            try:
                await asyncio.sleep(60 if len(self.read) == 1 else 0)
                yield TokenEvent([1], "")
            finally:
                ended.set()

    beginnings.note(prompt())
    engine = Slow()
    with traffic.answer():
        reading = asyncio.create_task(warm_up(beginnings, engine, {"s"}, traffic))
        await asyncio.sleep(0.1)
        assert engine.read == []
    await asyncio.wait_for(started.wait(), 10)
    with traffic.answer():
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0.05)
        assert len(engine.read) == 1
    assert await asyncio.wait_for(reading, 10) == 1
    assert len(engine.read) == 2
