"""A teacher on the real engine: random weights, real distributions."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tiny_model import make_tiny_model

from senryu.distill.teachers.base import Answer, Ask
from senryu.distill.teachers.engine import EngineTeacher
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolUseBlock,
)
from senryu.server.engine import open_engine
from senryu.server.engine.model_folder import EMBEDDED, find_model
from senryu.server.settings import ServerSettings
from senryu.server.turn.prompt import build_prompt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what the engine imports into this process is not ours
]

K = 24  # more than vLLM gives by itself
TOOL = Tool(
    name="look",
    input_schema={
        "type": "object",
        "properties": {"deep": {"type": "boolean"}},
        "required": ["deep"],
        "additionalProperties": False,
    },
)
ASK = Ask(
    key="a-0",
    conversation=Conversation(
        messages=(Message(role="user", content=(TextBlock(text="Go."),)),), tools=(TOOL,)
    ),
    sampling=Sampling(max_tokens=24),
    demands=Demands(),
    seed=5,
)


def _asked(text: str) -> Conversation:
    return Conversation(messages=(Message(role="user", content=(TextBlock(text=text),)),))


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def teacher(
    loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineTeacher]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"), find_model(EMBEDDED))
    settings = ServerSettings(model=str(folder), kv_memory_gib=0.5, max_streams=16)
    engine = loop.run(open_engine(settings))
    teacher = EngineTeacher(engine, folder=folder, top_k=K, streams=16)
    yield teacher
    loop.run(teacher.close())


def answers(loop: asyncio.Runner, teacher: EngineTeacher, *asks: Ask) -> list[Answer]:
    async def all_of_them() -> list[Answer]:
        return [answer async for answer in teacher.answers(asks)]

    return sorted(loop.run(all_of_them()), key=lambda answer: answer.key)


def test_each_token_comes_with_the_most_probable_ones(
    loop: asyncio.Runner, teacher: EngineTeacher
) -> None:
    """They are the model's own: those of a forward pass through transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    (answer,) = answers(loop, teacher, ASK)
    assert answer.top is not None
    assert answer.top.ids.shape == answer.top.logprobs.shape == (len(answer.token_ids), K)
    assert (np.diff(answer.top.logprobs) <= 0).all()
    assert (np.exp(answer.top.logprobs).sum(axis=1) < 1).all()
    model = AutoModelForCausalLM.from_pretrained(teacher.card.folder, dtype=torch.bfloat16)
    whole = torch.tensor([[*answer.prompt_ids, *answer.token_ids]])
    with torch.no_grad():
        logits = model(whole).logits[0, len(answer.prompt_ids) - 1 : -1]
    wanted = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(answer.top.ids).long())
    assert np.abs(wanted.numpy() - answer.top.logprobs).max() < 0.05


def test_temperature_and_cuts_change_nothing_in_them(
    loop: asyncio.Runner, teacher: EngineTeacher
) -> None:
    greedy = replace(ASK, sampling=replace(ASK.sampling, temperature=0.0, top_p=0.1))
    (answer,) = answers(loop, teacher, greedy)
    assert answer.top is not None
    assert answer.top.ids[:, 0].tolist() == list(answer.token_ids)
    assert (answer.top.logprobs[:, 0] < -1).all(), "random weights are sure of nothing"


def test_the_text_is_the_one_that_the_server_would_have_sent(
    loop: asyncio.Runner, teacher: EngineTeacher
) -> None:
    """Its tokens are spelt by us here, and by vLLM there."""
    greedy = replace(ASK.sampling, temperature=0.0)
    drawn = [
        replace(ASK, key=f"a-{number}", sampling=greedy, conversation=_asked(f"Go {number}."))
        for number in range(8)
    ]
    engine = teacher._engine

    async def served(ask: Ask) -> str:
        prompt = build_prompt(ask.conversation, engine.tokenizer, engine.card.dialect)
        events = engine.generate(prompt, ask.sampling, f"served {ask.key}")
        return "".join([event.text async for event in events])

    for ask, answer in zip(drawn, answers(loop, teacher, *drawn), strict=True):
        assert answer.message.text in (loop.run(served(ask)), loop.run(served(ask)).strip())


def test_where_a_grammar_leaves_no_choice_one_token_is_certain(
    loop: asyncio.Runner, teacher: EngineTeacher
) -> None:
    """And what it forbids has no probability: the student learns what was asked of the teacher."""
    choice = ToolChoice(mode="any", parallel=False)
    forced = replace(
        ASK,
        sampling=Sampling(max_tokens=80),
        demands=Demands(callable_tools=(TOOL,), tool_choice=choice),
    )
    (answer,) = answers(loop, teacher, forced)
    assert answer.stop_reason is StopReason.TOOL_USE
    (call,) = answer.message.content
    assert isinstance(call, ToolUseBlock)
    assert isinstance(call.input["deep"], bool)
    assert answer.top is not None
    engine = teacher._engine
    end = engine.tokenizer.encode("<|im_end|>")
    assert list(answer.token_ids[-1:]) == end, "a call is followed by the end of the turn"
    certain = np.isneginf(answer.top.logprobs[:, 1:]).all(axis=1)
    assert certain[-1]
    assert np.allclose(answer.top.logprobs[certain, 0], 0.0)
    assert answer.top.ids[certain, 0].tolist() == [
        token for token, sure in zip(answer.token_ids, certain, strict=True) if sure
    ]
    assert not np.isnan(answer.top.logprobs).any()


def test_a_thought_comes_with_its_tokens(loop: asyncio.Runner, teacher: EngineTeacher) -> None:
    asked = replace(ASK, demands=Demands(thinking=Thinking(budget=12)))
    (answer,) = answers(loop, teacher, asked)
    assert isinstance(answer.message.content[0], ThinkingBlock)
    assert answer.top is not None
    assert len(answer.top.ids) == len(answer.token_ids)


def test_it_makes_up_a_users_turn(loop: asyncio.Runner, teacher: EngineTeacher) -> None:
    """Random weights hardly end one, so it is cut: that is none."""
    sampling = Sampling(max_tokens=8)
    assert loop.run(teacher.user_turn(None, system="", sampling=sampling, seed=1)) is None
