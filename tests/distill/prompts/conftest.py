"""What the tests of prompts share: a teacher that makes turns up by rule, and who listens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from senryu.distill.recipe import EvaluateRecipe, PromptSource, Recipe, TeacherRecipe
from senryu.distill.teachers.base import Answer, Ask, Teacher, TeacherCard
from senryu.server.conversation.messages import Conversation, Sampling


@dataclass
class Talker(Teacher):
    """Says `turn(seed)` as the user, after some waiting."""

    turn: Callable[[int], str | None]
    seeds: list[int] = field(default_factory=list)
    systems: set[str] = field(default_factory=set)
    running: int = 0
    most: int = 0
    closed: bool = False

    @property
    def card(self) -> TeacherCard:
        return TeacherCard(name="talker", folder=None, distributions=False)

    def answers(self, asks: Iterable[Ask]) -> AsyncIterator[Answer]:
        raise AssertionError("nobody asks it for an answer here")

    async def user_turn(
        self, conversation: Conversation | None, *, system: str, sampling: Sampling, seed: int
    ) -> str | None:
        assert conversation is None
        self.seeds.append(seed)
        self.systems.add(system)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(seed % 3):  # they finish in another order than they began
                await asyncio.sleep(0)
            return self.turn(seed)
        finally:
            self.running -= 1

    async def close(self) -> None:
        self.closed = True


@dataclass
class Listener:
    """A Progress that remembers."""

    units: int = 0
    finished: int = 0
    said: list[str] = field(default_factory=list)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def begin(self, units: int) -> None:
        self.units = units

    def stage(self, name: str) -> None: ...

    def done(self, detail: str = "") -> None:
        self.finished += 1


@pytest.fixture
def talker() -> type[Talker]:
    return Talker


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    def make(*prompts: PromptSource, held_out: float = 0.0, **others: Any) -> Recipe:
        return Recipe(
            teacher=TeacherRecipe(
                licence="Apache-2.0", allows_training=True, terms="it says so", streams=4
            ),
            prompts=prompts,
            evaluate=EvaluateRecipe(held_out=held_out),
            **others,
        )

    return make


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as a file of lines; a text is a line as it stands."""

    def write(*rows: Any, name: str = "prompts.jsonl") -> Path:
        texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        file = tmp_path / name
        file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return file

    return write
