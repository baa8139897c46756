"""A model of random weights on the real engine: the form of its answers is what was promised.

What it writes means nothing, so whatever holds, holds by the grammar alone. `make fuzz` asks for
ten thousand calls.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from fuzzing import TIMES
from tiny_model import make_tiny_model

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
    Usage,
)
from senryu.server.conversation.signing import Signer
from senryu.server.engine import open_engine
from senryu.server.engine.base import Engine, TokenEvent
from senryu.server.engine.model_folder import EMBEDDED, find_model
from senryu.server.engine.vllm_arguments import VllmArguments
from senryu.server.settings import ServerSettings
from senryu.server.turn.blocks import Answer, fold
from senryu.server.turn.grammar import answer_grammar, form_on_trial
from senryu.server.turn.marks import Mark
from senryu.server.turn.prompt import Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.fuzz,
    pytest.mark.filterwarnings("ignore"),  # what the engine imports into this process is not ours
]

CALLS = 300 if TIMES == 1 else 10_000
THOUGHTS = 60 if TIMES == 1 else 1_000
AT_ONCE = 64
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")

WORD = {"type": "string", "pattern": "^[a-z]{0,12}$"}
COUNT = {"type": "integer", "minimum": -5, "maximum": 500}
POINT = {
    "type": "object",
    "properties": {"x": COUNT, "y": COUNT},
    "required": ["x", "y"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "enums": {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["c", "f", 'k"', "é\n"]},
            "deep": {"const": {"a": [1, None, True]}},
        },
        "required": ["unit"],
    },
    "nested": {
        "type": "object",
        "properties": {"from": POINT, "to": {"type": "object", "properties": {"at": POINT}}},
        "required": ["from", "to"],
    },
    "arrays": {
        "type": "object",
        "properties": {
            "names": {"type": "array", "items": WORD, "minItems": 1, "maxItems": 3},
            "pair": {"type": "array", "prefixItems": [WORD, COUNT], "items": False},
        },
        "required": ["names"],
    },
    "words": {
        "type": "object",
        "properties": {"name": WORD, "id": {"type": "string", "pattern": "^[a-z]{2}-[0-9]{1,4}$"}},
        "required": ["name", "id"],
        "additionalProperties": False,
    },
    "referring": {
        "type": "object",
        "properties": {"point": {"$ref": "#/$defs/point"}},
        "required": ["point"],
        "$defs": {"point": POINT},
    },
    "either": {
        "type": "object",
        "properties": {"value": {"anyOf": [COUNT, {"type": "null"}, {"type": "boolean"}, POINT]}},
        "required": ["value"],
    },
    "one_of_two": {
        "type": "object",
        "properties": {"id": COUNT, "name": WORD},
        "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
        "additionalProperties": False,
    },
    "empty": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = tuple(
    Tool(name=name, description=f"About {name}.", input_schema=schema)
    for name, schema in SCHEMAS.items()
)
ASKED = Conversation(
    messages=(Message(role="user", content=(TextBlock(text="Go."),)),), tools=TOOLS[:2]
)
SIGNER = Signer(b"k" * 32)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(loop: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="the engine is not installed: make setup")
    from senryu.server.engine import vllm_engine

    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"), find_model(EMBEDDED))
    settings = ServerSettings(
        model=str(folder),
        kv_memory_gib=0.5,
        max_streams=AT_ONCE,
        kv_files=str(tmp_path_factory.mktemp("kv")),
    )
    open_vllm = vllm_engine.open_vllm

    async def counting(arguments: VllmArguments, *rest: Any, **more: Any) -> Engine:
        told = {**arguments.engine, "disable_log_stats": False}
        return await open_vllm(replace(arguments, engine=told), *rest, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vllm_engine, "open_vllm", counting)
        engine = loop.run(open_engine(settings))
    yield engine
    loop.run(engine.close())


async def ask(engine: Engine, number: int, demands: Demands, max_tokens: int) -> Answer:
    thinks = demands.thinking is not None
    dialect = engine.card.dialect
    prompt = build_prompt(ASKED, engine.tokenizer, dialect, thinking=thinks)
    grammar = answer_grammar(dialect, demands, allowed=max_tokens)
    turn = Turn(
        message_id=f"msg_{number}",
        model="tiny",
        prompt=prompt,
        sampling=Sampling(max_tokens=max_tokens, grammar=grammar),
        demands=demands,
        signer=SIGNER,
    )
    return await fold(run_turn(turn, engine))


async def answers(engine: Engine, each: list[Demands], *, max_tokens: int) -> list[Answer]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, demands: Demands) -> Answer:
        async with gate:
            return await ask(engine, number, demands, max_tokens)

    return await asyncio.gather(*(one(number, demands) for number, demands in enumerate(each)))


def calls_of(answer: Answer) -> list[ToolUseBlock]:
    return [block for block in answer.blocks if isinstance(block, ToolUseBlock)]


def text_of(answer: Answer) -> str:
    return "".join(block.text for block in answer.blocks if isinstance(block, TextBlock))


def characters(value: Any) -> Any:
    """With what the model wrote of bytes that are no character as one again: the grammar counts it
    as one, and it is shown as several replacement characters. Only random weights write such."""
    return json.loads(re.sub("\ufffd+", "\ufffd", json.dumps(value, ensure_ascii=False)))


def check_calls(answer: Answer) -> None:
    """Whole calls fit their schema, and none shows a mark."""
    whole = calls_of(answer)
    if answer.stop_reason is not StopReason.TOOL_USE:
        whole = whole[:-1]  # `max_tokens` may have cut the last one
    for call in whole:
        jsonschema.validate(characters(call.input), SCHEMAS[call.name])
    assert not any(mark in text_of(answer) for mark in MARKS)


def test_forced_calls_are_calls_and_fit_their_schemas(loop: asyncio.Runner, engine: Engine) -> None:
    choices = [
        ToolChoice(mode="any", parallel=False),
        *(ToolChoice(mode="tool", name=name, parallel=False) for name in SCHEMAS),
    ]
    each = [
        Demands(callable_tools=TOOLS, tool_choice=choices[number % len(choices)])
        for number in range(CALLS)
    ]
    form = form_on_trial(engine.card.dialect, Demands(callable_tools=TOOLS))
    assert form
    assert loop.run(engine.refusal(form)) is None
    given = loop.run(answers(engine, each, max_tokens=200))
    reasons = Counter(answer.stop_reason for answer in given)
    assert reasons[StopReason.TOOL_USE] > 0.95 * CALLS, reasons
    for demands, answer in zip(each, given, strict=True):
        check_calls(answer)
        assert [type(block) for block in answer.blocks] == [ToolUseBlock]
        (call,) = calls_of(answer)
        assert demands.tool_choice.name in (None, call.name)
    assert {call.name for answer in given for call in calls_of(answer)} == set(SCHEMAS)


def test_several_calls_stand_one_after_the_other(loop: asyncio.Runner, engine: Engine) -> None:
    demands = Demands(callable_tools=TOOLS, tool_choice=ToolChoice(mode="any"))
    given = loop.run(answers(engine, [demands] * (CALLS // 10), max_tokens=150))
    for answer in given:
        check_calls(answer)
        assert {type(block) for block in answer.blocks} == {ToolUseBlock}
    assert max(len(calls_of(answer)) for answer in given) > 1


def test_an_answer_is_calls_or_the_form_that_was_asked_for(
    loop: asyncio.Runner, engine: Engine
) -> None:
    schema = SCHEMAS["either"]
    demands = Demands(callable_tools=TOOLS, output_schema=schema)
    given = loop.run(answers(engine, [demands] * (CALLS // 5), max_tokens=300))
    seen: Counter[str] = Counter()
    for answer in given:
        check_calls(answer)
        if answer.stop_reason is StopReason.END_TURN:
            (block,) = answer.blocks
            assert isinstance(block, TextBlock)
            jsonschema.validate(characters(json.loads(block.text)), schema)
            seen["form"] += 1
        elif answer.stop_reason is StopReason.TOOL_USE:
            assert not text_of(answer)
            seen["calls"] += 1
    assert len(seen) == 2, seen


@pytest.mark.parametrize(
    "demands",
    [
        Demands(),
        Demands(callable_tools=TOOLS),
        Demands(callable_tools=TOOLS, tool_choice=ToolChoice(mode="none")),
        Demands(callable_tools=TOOLS, tool_choice=ToolChoice(mode="any", parallel=False)),
        Demands(output_schema=SCHEMAS["either"]),
    ],
    ids=["free", "tools", "no-tools", "forced", "form"],
)
def test_a_thought_keeps_to_its_budget_and_leaves_an_answer(
    loop: asyncio.Runner, engine: Engine, demands: Demands
) -> None:
    budgets = [12, 16, 24, 33]
    each = [
        replace(demands, thinking=Thinking(budget=budgets[number % len(budgets)]))
        for number in range(THOUGHTS)
    ]
    given = loop.run(answers(engine, each, max_tokens=200))
    for asked, answer in zip(each, given, strict=True):
        assert asked.thinking
        budget = asked.thinking.budget
        assert budget
        assert 0 < answer.usage.thinking_tokens <= budget
        thought, *rest = answer.blocks
        assert isinstance(thought, ThinkingBlock)
        assert thought.signature
        # Room for an answer is left; whoever draws at random may still end at once.
        assert rest or answer.stop_reason is StopReason.END_TURN, answer
        check_calls(answer)
        if demands.output_schema and answer.stop_reason is StopReason.END_TURN:
            jsonschema.validate(characters(json.loads(text_of(answer))), demands.output_schema)


def test_a_hostile_schema_is_refused_and_disturbs_nobody(
    loop: asyncio.Runner, engine: Engine
) -> None:
    hostile = {"type": "string", "pattern": "((a+)+)+b(c|d|e){0,5000}"}
    said = {"type": "json_schema", "json_schema": hostile}
    tag = json.dumps({"type": "structural_tag", "format": said})
    why = loop.run(engine.refusal(tag))
    assert why == "it takes more than a second to compile; make it simpler"
    assert loop.run(engine.healthy())


def test_the_dialect_was_read_off_the_chat_template(engine: Engine) -> None:
    (choice,) = [each for each in engine.card.choices if each.name == "dialect"]
    assert (choice.value, engine.card.dialect.name) == ("hermes", "hermes")
    assert engine.card.dialect.thought is not None


def counters() -> Counter[str]:
    """vLLM's own, in tokens: prompts that were looked for in its memory and in files, and how much
    of them was found."""
    from prometheus_client import REGISTRY

    names = ("prefix_cache_queries", "prefix_cache_hits", "external_prefix_cache_hits")
    found: Counter[str] = Counter()
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            for name in names:
                if sample.name == f"vllm:{name}_total":
                    found[name] += int(sample.value)
    return found


def test_what_clients_are_told_of_the_cache_is_what_the_engine_counts(
    loop: asyncio.Runner, engine: Engine
) -> None:
    """Over 1,000 requests of four keys, of which most begin like others of theirs."""
    chance = random.Random(4)

    def tokens(count: int) -> list[int]:
        return [chance.randrange(300, 4000) for _ in range(count)]

    beginnings = [tokens(chance.randrange(40, 200)) for _ in range(12)]
    prompts = []
    for _ in range(1000):
        ids = chance.choice(beginnings) + tokens(chance.randrange(1, 80))
        if chance.random() < 0.2:  # a conversation that goes on
            beginnings[chance.randrange(12)] = ids[:220]
        marks = (Mark(len(ids), chance.choice(("5m", "1h")), "messages"),)
        prompts.append(Prompt(token_ids=ids, salt=chance.choice("abcd"), marks=marks))
    before, gate = counters(), asyncio.Semaphore(16)

    async def usage(number: int, prompt: Prompt) -> Usage:
        sampling = Sampling(max_tokens=1)
        turn = Turn(message_id=f"count_{number}", model="m", prompt=prompt, sampling=sampling)
        async with gate:
            return (await fold(run_turn(turn, engine))).usage

    async def all_of_them() -> list[Usage]:
        return await asyncio.gather(*(usage(*each) for each in enumerate(prompts)))

    told = loop.run(all_of_them())
    counted = counters() - before
    read = sum(each.cache_read_tokens for each in told)
    assert read == counted["prefix_cache_hits"] + counted["external_prefix_cache_hits"]
    assert read > 0.3 * counted["prefix_cache_queries"]
    for prompt, each in zip(prompts, told, strict=True):
        total = each.input_tokens + each.cache_read_tokens + each.cache_creation_tokens
        assert total == len(prompt)
    assert sum(map(len, prompts)) == counted["prefix_cache_queries"]


def test_what_was_read_for_a_client_who_left_serves_the_one_who_asks_again(
    loop: asyncio.Runner, engine: Engine
) -> None:
    """A client that gives up waiting for a long prompt and sends it once more."""
    prompt = Prompt(
        token_ids=[random.Random(7).randrange(300, 4000) for _ in range(1500)],
        salt="left",
        marks=(Mark(1500, "5m", "messages"),),
    )

    async def first_event(request_id: str) -> TokenEvent:
        async with aclosing(engine.generate(prompt, Sampling(max_tokens=1), request_id)) as events:
            return await anext(events)

    async def both() -> tuple[TokenEvent, TokenEvent]:
        return await first_event("left_1"), await first_event("left_2")

    left, again = loop.run(both())
    assert (list(left.token_ids), left.cached_tokens) == ([], 0), "told before it was read"
    assert 256 <= again.cached_tokens < 1500
