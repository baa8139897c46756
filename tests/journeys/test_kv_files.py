"""Prompts that were marked are found again: after other traffic has filled the KV memory, and after
a restart. On the real engine, with a model of random weights that attends to all it reads.

The KV memory holds two windows, and a few long prompts drive out all that it held.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny_model

from senryu.server.conversation.messages import Sampling
from senryu.server.engine import open_engine, vllm_arguments
from senryu.server.engine.base import Engine
from senryu.server.engine.model_folder import EMBEDDED, find_model
from senryu.server.settings import ServerSettings
from senryu.server.turn.marks import Mark
from senryu.server.turn.prompt import Prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what the engine imports into this process is not ours
]

BLOCK = 32
BYTES_A_TOKEN = 256  # two layers of one head of 32 numbers in 16 bits, keys and values


@dataclass
class Heard:
    """An answer of one token, and what was said with it."""

    token: int
    logprobs: dict[int, float]
    cached: list[int]
    """What each event said was found."""
    tokens: list[int]
    """How many tokens each event had."""

    def is_like(self, other: "Heard") -> bool:
        """Whether they are of the same prompt: the same but for rounding."""
        both = self.logprobs.keys() & other.logprobs.keys()
        near = [abs(self.logprobs[each] - other.logprobs[each]) < 0.15 for each in both]
        return len(both) >= 10 and all(near)


@dataclass
class Serving:
    """An engine, and its folder."""

    model: Path
    folder: Path
    loop: asyncio.Runner
    engine: Engine = field(init=False)
    asked: int = 0

    def open(self) -> None:
        settings = ServerSettings(
            model=str(self.model),
            device="cpu",
            kv_files=str(self.folder),
            kv_memory_gib=2 * 4_096 * BYTES_A_TOKEN / 2**30,
        )
        self.engine = self.loop.run(open_engine(settings))

    def close(self) -> None:
        self.loop.run(self.engine.close())

    def ask(
        self, ids: Sequence[int], *marks: tuple[int, Any], salt: str = "", tells: bool = False
    ) -> Heard:
        prompt = Prompt(
            token_ids=list(ids),
            marks=tuple(Mark(tokens, ttl, "messages") for tokens, ttl in marks),
            salt=salt,
        )
        return self.loop.run(self._heard(prompt, tells))

    def ask_at_once(self, *prompts: Prompt) -> list[Heard]:
        async def all_of_them() -> list[Heard]:
            return await asyncio.gather(*(self._heard(prompt, False) for prompt in prompts))

        return self.loop.run(all_of_them())

    async def _heard(self, prompt: Prompt, tells: bool) -> Heard:
        self.asked += 1
        sampling = Sampling(max_tokens=1, temperature=0.0, top_logprobs=0 if tells else 20)
        heard = Heard(token=-1, logprobs={}, cached=[], tokens=[])
        async for event in self.engine.generate(prompt, sampling, f"r{self.asked}"):
            heard.cached.append(event.cached_tokens)
            heard.tokens.append(len(event.token_ids))
            for token in event.token_ids:
                heard.token = token
            if event.top:
                (ids,), (logprobs,) = event.top.ids, event.top.logprobs
                heard.logprobs = dict(zip(ids, logprobs, strict=True))
        return heard

    def forget(self) -> None:
        """Fill the KV memory with other traffic."""
        for _ in range(3):
            self.ask(text(4_000))

    def kept(self, count: int) -> list[Path]:
        """The files, once there are so many; in the order of the blocks that they hold."""
        deadline = time.monotonic() + 20
        while len(files := list(self.folder.rglob("*.kv"))) < count:
            assert time.monotonic() < deadline, f"{len(files)} files instead of {count}"
            time.sleep(0.05)
        assert len(files) == count
        return sorted(files, key=lambda file: -file.stat().st_mtime)


_random = random.Random(4)


def text(tokens: int) -> list[int]:
    """A prompt that nobody has written before."""
    return [_random.randrange(1_000, 40_000) for _ in range(tokens)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    model = make_tiny_model(tmp_path_factory.mktemp("tiny"), find_model(EMBEDDED))
    _make_attentive(model / "model.safetensors")
    with asyncio.Runner() as loop:
        serving = Serving(model, tmp_path_factory.mktemp("kept"), loop)
        serving.open()
        yield serving
        serving.close()


def _make_attentive(weights: Path) -> None:
    """With weights as small as a new model's the last token alone would decide the answer."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    for name in tensors:
        if "self_attn" in name:
            tensors[name] = tensors[name] * 12
    save_file(tensors, weights, {"format": "pt"})


@pytest.fixture
def serving(served: Serving) -> Serving:
    """With nothing kept yet, and nothing in its memory."""
    served.forget()
    for file in served.folder.rglob("*.kv"):
        file.unlink()
    return served


def test_a_marked_prefix_is_found_after_other_traffic_and_gives_the_same_answer(
    serving: Serving,
) -> None:
    prompt = text(1_000)
    cold = serving.ask(prompt, (500, "5m"), (700, "1h"))
    assert cold.cached == [0]
    lives = [file.stat().st_mtime - time.time() for file in serving.kept(700 // BLOCK)]
    assert all(3_500 < life < 3_601 for life in lives), "the hour holds for what is in front too"
    serving.forget()
    warm = serving.ask(prompt)
    assert warm.cached == [700 // BLOCK * BLOCK]
    assert warm.is_like(cold)
    assert not serving.ask(text(640) + prompt[640:]).is_like(cold), "or this would prove nothing"
    serving.forget()
    assert serving.ask(prompt[:650] + text(400)).cached == [650 // BLOCK * BLOCK]


def test_what_nobody_marked_is_not_found_and_not_kept(serving: Serving) -> None:
    prompt = text(1_000)
    assert serving.ask(prompt).cached == [0]
    assert serving.ask(prompt).cached == [992], "as long as nothing else needs the memory"
    serving.forget()
    assert serving.ask(prompt).cached == [0]
    serving.kept(0)


def test_what_is_marked_only_later_is_kept_from_then_on(serving: Serving) -> None:
    prompt = text(1_000)
    serving.ask(prompt)
    assert serving.ask(prompt, (1_000, "5m")).cached == [992]
    serving.kept(31)
    serving.forget()
    assert serving.ask(prompt).cached == [992]


def test_another_salt_finds_nothing(serving: Serving) -> None:
    prompt = text(1_000)
    serving.ask(prompt, (1_000, "5m"), salt="one")
    serving.kept(31)
    assert serving.ask(prompt, salt="two").cached == [0]
    assert serving.ask(prompt).cached == [0]
    serving.forget()
    assert serving.ask(prompt, salt="two").cached == [0]
    assert serving.ask(prompt, salt="one").cached == [992]


def test_a_damaged_file_is_a_miss_and_gives_the_same_answer(serving: Serving) -> None:
    prompt = text(1_000)
    cold = serving.ask(prompt, (1_000, "5m"))
    damaged = serving.kept(31)[10]
    data, times = bytearray(damaged.read_bytes()), damaged.stat()
    data[5_000] ^= 1
    damaged.write_bytes(data)
    os.utime(damaged, ns=(times.st_atime_ns, times.st_mtime_ns))
    serving.forget()
    warm = serving.ask(prompt, (1_000, "5m"))
    assert warm.cached == [10 * BLOCK]
    assert warm.is_like(cold)
    serving.kept(31)
    serving.forget()
    assert serving.ask(prompt).cached == [992], "and was written anew"


def test_what_has_expired_is_a_miss(serving: Serving) -> None:
    prompt = text(1_000)
    serving.ask(prompt, (1_000, "5m"))
    for file in serving.kept(31):
        os.utime(file, (time.time(), time.time() - 1))
    serving.forget()
    assert serving.ask(prompt).cached == [0]


def test_of_a_long_prompt_is_told_at_once_what_was_found(serving: Serving) -> None:
    prompt = text(4_000)
    first = serving.ask(prompt, (1_000, "5m"), tells=True)
    assert (first.tokens, first.cached) == ([0, 1], [0, 0])
    serving.kept(31)
    serving.forget()
    again = serving.ask(prompt, (1_000, "5m"), tells=True)
    assert (again.tokens, again.cached) == ([0, 1], [992, 992])
    assert again.token == first.token


@pytest.fixture(scope="module")
def restarted(served: Serving) -> tuple[Serving, list[int], Heard]:
    """A second engine on the folder of the first, whose disk can be told to fail; and what the
    first one was asked and said before."""
    prompt = text(1_000)
    for file in served.folder.rglob("*.kv"):
        file.unlink()
    heard = served.ask(prompt, (1_000, "1h"))
    served.kept(31)
    served.close()
    keep_files = vllm_arguments._keep_files

    def forgetful(settings: Any, engine: dict[str, Any], storage: Any) -> Any:
        choice = keep_files(settings, engine, storage)
        engine["kv_transfer_config"]["kv_connector_module_path"] = "forgetful_connector"
        return choice

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vllm_arguments, "_keep_files", forgetful)
        served.open()
    return served, prompt, heard


def test_after_a_restart_the_first_prompt_reads_what_was_kept(
    restarted: tuple[Serving, list[int], Heard],
) -> None:
    serving, prompt, cold = restarted
    warm = serving.ask(prompt)
    assert warm.cached == [992]
    assert warm.is_like(cold)


@pytest.mark.parametrize("left", [0, 7])
def test_what_cannot_be_read_after_all_is_computed_and_not_told_as_found(
    restarted: tuple[Serving, list[int], Heard], left: int
) -> None:
    """Of several who ask at once, too; and nobody who comes later finds what was not read."""
    serving, prompt, cold = restarted
    serving.forget()
    serving.ask(prompt, (1_000, "1h"))
    serving.forget()
    told = serving.folder / "forgetful"
    told.write_text(str(left))
    both = serving.ask_at_once(Prompt(token_ids=prompt), Prompt(token_ids=[*prompt[:990], 5, 6, 7]))
    told.unlink()
    assert both[0].is_like(cold)
    assert both[0].cached[0] <= left * BLOCK
    assert serving.ask(prompt).is_like(cold)
