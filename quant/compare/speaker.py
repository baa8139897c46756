"""One model behind the real engine, in a process of its own: `python -m ...speaker FD`.

Comes in: commands on stdin, a JSON object a line. Goes out: an answer to each on the file
descriptor FD, a JSON object a line; what the engine prints goes elsewhere. Prompts, grammars and
blocks are the server's own code, so that what holds here holds for clients. It ends when stdin
does, and its memory with it. It refuses to know the other model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    ToolUseBlock,
)
from senryu.server.engine.base import (
    Engine,
    EngineCard,
    EngineError,
    PromptRefused,
    TokenEvent,
)
from senryu.server.settings import ServerSettings
from senryu.server.turn.blocks import BlockEvent, ToolInputAdded, fold
from senryu.server.turn.grammar import answer_grammar, form_on_trial
from senryu.server.turn.holding import too_much
from senryu.server.turn.prompt import ChatTokenizer, Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn

from .spoken import Call, Question, Said, calls_fit, json_fits, questions

STORY = "Write a long story about a ship that sails round the world, in many chapters. Part {}."
_AT_ONCE = 16
"""Questions that are answered side by side."""


def main(argv: Sequence[str]) -> int:
    """0 when told to stop, 1 when the engine did not open."""
    with os.fdopen(int(argv[0]), "w", buffering=1) as out:

        def tell(told: Mapping[str, Any]) -> None:
            out.write(json.dumps(told) + "\n")

        return asyncio.run(_live(tell))


async def _live(tell: Any) -> int:
    from senryu.server.engine import open_engine

    orders = _Orders()
    first = await orders.next()
    settings = ServerSettings(
        model=first["folder"],
        kv_memory_gib=first["kv_memory_gib"],
        max_streams=max(first["streams"], _AT_ONCE),
    )
    try:
        engine = await open_engine(settings)
    except EngineError as error:
        tell({"error": str(error)})
        return 1
    speaker = Speaker(engine)
    tell({"ready": {each.name: each.value for each in engine.card.choices}})
    try:
        while (order := await orders.next()).get("do") != "stop":
            try:
                tell(await speaker.obey(order))
            except EngineError as error:
                tell({"error": str(error)})
    finally:
        await engine.close()
    return 0


class _Orders:
    """Lines of stdin, read beside the event loop. Whoever gave them may die: then this process ends
    at once, in the middle of whatever it does."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(self._lines.put_nowait, line)
            os._exit(1)

        threading.Thread(target=read, daemon=True).start()

    async def next(self) -> dict[str, Any]:
        order: dict[str, Any] = json.loads(await self._lines.get())
        return order


class Speaker:
    """Asks an open engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = count()

    async def obey(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one command."""
        if order["do"] == "say":
            from senryu.quant.calibration import conversations, in_order

            source = order["source"] and Path(order["source"])
            spoken = in_order(conversations(source, held_out=True), 0)
            asked = questions(spoken, turns=order["turns"], structured=order["structured"])
            said = await self.say(asked, max_tokens=order["max_tokens"])
            return {"said": {key: dataclasses.asdict(each) for key, each in said.items()}}
        rate = await self.rate(order["streams"], order["tokens"])
        return {"rate": rate}

    async def say(self, asked: Sequence[Question], *, max_tokens: int) -> dict[str, Said]:
        """The most probable answer to each question that this model can be asked, by its key."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question) -> Said | None:
            async with room:
                return await self._said(question, max_tokens)

        told = await asyncio.gather(*map(one, asked))
        return {each.key: said for each, said in zip(asked, told, strict=True) if said}

    async def rate(self, streams: int, tokens: int) -> float:
        """Tokens a second of so many answers together, each of `tokens` tokens: from the first
        prompt that is sent to the last token that comes."""

        async def one(number: int) -> int:
            prompt = self._story(number)
            written = 0
            while written < tokens:  # one that ends early is asked again
                sampling = Sampling(max_tokens=tokens - written, temperature=0.0)
                before = written
                async for event in self._events(prompt, sampling):
                    written += len(event.token_ids)
                if written == before:
                    raise EngineError("The model writes nothing, so there is nothing to time")
            return written

        begun = time.perf_counter()
        written = await asyncio.gather(*map(one, range(streams)))
        return sum(written) / (time.perf_counter() - begun)

    def _story(self, number: int) -> Prompt:
        asked = Message(role="user", content=(TextBlock(text=STORY.format(number + 1)),))
        tokenizer, dialect = self._engine.tokenizer, self._engine.card.dialect
        return build_prompt(Conversation(messages=(asked,)), tokenizer, dialect)

    async def _events(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[TokenEvent, None]:
        name = f"ask-{next(self._numbers)}"
        async with aclosing(self._engine.generate(prompt, sampling, name)) as events:
            async for event in events:
                yield event

    async def _said(self, question: Question, max_tokens: int) -> Said | None:
        """None where the question is more than this model can be asked."""
        card = self._engine.card
        demands = question.demands
        try:
            prompt = build_prompt(question.conversation, self._engine.tokenizer, card.dialect)
        except ValueError:  # the template refuses it
            return None
        begun = self._opening(question) if question.mode == "begun" else ""
        if begun:
            opened = self._engine.tokenizer.encode(begun)
            prompt = dataclasses.replace(prompt, token_ids=[*prompt.token_ids, *opened])
        if prompt.images or len(prompt) + max_tokens > card.window:
            return None
        grammar = None
        if question.mode in ("forced", "json-held"):
            if not await self._can_hold(demands):
                return None
            grammar = answer_grammar(card.dialect, demands, allowed=max_tokens)
        turn = Turn(
            message_id=f"ask-{next(self._numbers)}",
            model="",
            prompt=prompt,
            sampling=Sampling(max_tokens=max_tokens, temperature=0.0, grammar=grammar),
            demands=demands,
        )
        try:
            return await _read(turn, _Begun(self._engine, begun))
        except PromptRefused:
            return None

    def _opening(self, question: Question) -> str:
        """A call of the recorded tool as far as the first key of its input, which small models else
        copy from the example in their prompt, `{...}`."""
        marks, name = self._engine.card.dialect.calls, question.recorded[0].name
        tool = next(each for each in question.demands.callable_tools if each.name == name)
        # No space at its end: models write one together with what follows.
        head = (marks.opening + marks.head_of(name)).rstrip()
        return head + ' {"' if tool.input_schema.get("required") else head

    async def _can_hold(self, demands: Demands) -> bool:
        schemas = [tool.input_schema for tool in demands.callable_tools]
        schemas += [demands.output_schema] if demands.output_schema else []
        if any(too_much(schema) for schema in schemas):
            return False
        form = form_on_trial(self._engine.card.dialect, demands)
        return form is None or await self._engine.refusal(form) is None


async def _read(turn: Turn, engine: _Begun) -> Said:
    """An answer, read as the server reads it, and as it does no further than behind a call."""
    inputs: dict[int, str] = {}

    async def heard() -> AsyncGenerator[BlockEvent, None]:
        async for event in run_turn(turn, engine):
            if isinstance(event, ToolInputAdded):
                inputs[event.index] = inputs.get(event.index, "") + event.json
            yield event

    answer = await fold(heard())
    text = "".join(engine.written)
    calls = tuple(
        Call(name=block.name, input=block.input)
        for block in answer.blocks
        if isinstance(block, ToolUseBlock)
    )
    schema = turn.demands.output_schema
    if schema is not None:
        valid = json_fits(text, schema)
    else:
        whole = answer.stop_reason is StopReason.TOOL_USE and all(map(_is_object, inputs.values()))
        valid = whole and calls_fit(calls, turn.demands.callable_tools)
    return Said(
        text=text,
        tokens=answer.usage.output_tokens,
        ended=answer.stop_reason in (StopReason.END_TURN, StopReason.TOOL_USE),
        called=schema is None and engine.card.dialect.calls.opening in text,
        valid=valid,
        calls=calls,
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


@dataclasses.dataclass(frozen=True, slots=True)
class _Begun:
    """An engine whose answers begin with a text that the prompt ends with. It keeps what it
    said."""

    engine: Engine
    text: str
    written: list[str] = dataclasses.field(default_factory=list)

    @property
    def card(self) -> EngineCard:
        return self.engine.card

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.engine.tokenizer

    def look(self, prompt: Prompt) -> Prompt:
        return prompt

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        if self.text:
            self.written.append(self.text)
            yield TokenEvent([], self.text)
        async with aclosing(self.engine.generate(prompt, sampling, request_id)) as events:
            async for event in events:
                self.written.append(event.text)
                yield event

    async def refusal(self, grammar: str) -> str | None:
        return None

    async def healthy(self) -> bool:
        return True

    async def close(self) -> None:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
