"""The student answers by itself, and its answers are read as the server would read them.

Comes in: conversations, a student with its tokenizer and dialect. Goes out: what it said, as
tokens, text and blocks, and what is right and wrong about that. Prompts come from the server's
`build_prompt`, blocks from its `run_turn`: what holds here holds for clients. It refuses to know
where questions come from.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.conversation.schemas import check_schema
from senryu.server.conversation.signing import Signer
from senryu.server.engine.base import EngineCard, FinishReason, TokenEvent
from senryu.server.turn.blocks import Answer, BlockEvent, ToolInputAdded, fold
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.dialects.spelling import as_json
from senryu.server.turn.prompt import ChatTokenizer, Prompt, build_prompt
from senryu.server.turn.tokenizer import HuggingFaceTokenizer
from senryu.server.turn.turn import Turn, run_turn
from senryu.server.wire.errors import InvalidRequest

from .errors import DistillError
from .evaluation import Spoken
from .samples import Sample

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be answered, and in which form."""

    conversation: Conversation
    demands: Demands

    @classmethod
    def of(cls, conversation: Conversation, *, thinking: bool) -> Question:
        """As a client would ask it: any of the tools may be called, or none."""
        return cls(
            conversation=conversation,
            demands=Demands(
                callable_tools=conversation.tools, thinking=Thinking() if thinking else None
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """What was written, the end of the turn included where it came."""
    text: str
    """The same as text, marks of thoughts and calls included."""
    message: Message
    stop_reason: StopReason
    called: bool
    """Whether a call was begun."""
    calls_whole: bool
    """Whether there is a call, each of them one JSON object to its end."""

    @property
    def calls(self) -> list[ToolUseBlock]:
        return [block for block in self.message.content if isinstance(block, ToolUseBlock)]

    @property
    def ended(self) -> bool:
        return self.stop_reason in (StopReason.END_TURN, StopReason.TOOL_USE)


class Speaker:
    """A student that can be asked. `tokenizer` is transformers' own."""

    def __init__(self, model: Any, tokenizer: Any, dialect: Dialect) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._dialect = dialect
        self._chat: ChatTokenizer = HuggingFaceTokenizer(tokenizer)
        self._stops = _stops(model, tokenizer)
        self._window = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)

    @property
    def marks(self) -> tuple[str, ...]:
        """What an answer must not show: control tokens, and the marks of the dialect."""
        added = self._tokenizer.added_tokens_decoder.values()
        calls, thought = self._dialect.calls, self._dialect.thought
        marks = [str(each) for each in added if each.special]
        marks += [calls.opening, calls.tail.lstrip("]} \n")]
        marks += [thought.opening.strip(), thought.closing.strip()] if thought else []
        return tuple(dict.fromkeys(filter(None, marks)))

    def prompt(self, question: Question) -> Prompt:
        """The tokens that the server would have it read. Raises DistillError."""
        thinking = question.demands.thinking is not None
        if thinking and self._dialect.thought is None:
            raise DistillError(
                "There are samples with thoughts, and the student's chat template knows none: take "
                "a student that thinks, or set collect.thinking to 0."
            )
        try:
            return build_prompt(question.conversation, self._chat, self._dialect, thinking=thinking)
        except ValueError as refused:
            raise DistillError(
                f"The student cannot be asked a held-out question: {refused}."
            ) from (refused)

    def fits(self, question: Question, max_tokens: int) -> bool:
        """Whether the question leaves room for so long an answer."""
        return len(self.prompt(question)) + max_tokens <= self._window

    def say(
        self, questions: Sequence[Question], *, max_tokens: int, batch: int = 8
    ) -> Iterator[Said]:
        """The most probable answer to each, in order."""
        prompts = [self.prompt(question) for question in questions]
        for start in range(0, len(questions), batch):
            part = slice(start, start + batch)
            written = self._write([each.token_ids for each in prompts[part]], max_tokens)
            for question, prompt, ids in zip(questions[part], prompts[part], written, strict=True):
                yield self._read(question, prompt, ids)

    def vary(
        self, question: Question, *, count: int, max_tokens: int, temperature: float, seed: int
    ) -> list[Said]:
        """So many answers to one question, drawn at random; the same for the same seed."""
        import torch

        prompt = self.prompt(question)
        drawn = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        with torch.random.fork_rng(devices=_gpus(self._model)):
            torch.manual_seed(seed)
            written = self._write([prompt.token_ids] * count, max_tokens, **drawn)
        return [self._read(question, prompt, ids) for ids in written]

    def _write(self, prompts: list[list[int]], max_tokens: int, **drawn: Any) -> list[list[int]]:
        """What the model writes behind each prompt, its end included. Shorter prompts stand behind
        padding that the model does not see."""
        import torch
        from transformers import GenerationConfig

        longest = max(map(len, prompts))
        device, pad = self._model.lm_head.weight.device, self._stops[0]
        ids = [[pad] * (longest - len(each)) + each for each in prompts]
        seen = [[0] * (longest - len(each)) + [1] * len(each) for each in prompts]
        config = GenerationConfig(
            max_new_tokens=max_tokens,
            eos_token_id=list(self._stops),
            pad_token_id=pad,
            **(drawn or {"do_sample": False}),
        )
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode():
                told = self._model.generate(
                    input_ids=torch.tensor(ids, device=device),
                    attention_mask=torch.tensor(seen, device=device),
                    generation_config=config,
                )
        finally:
            self._model.train(training)
        return [self._to_its_end(each) for each in told[:, longest:].tolist()]

    def _to_its_end(self, ids: list[int]) -> list[int]:
        ends = (place for place, token in enumerate(ids) if token in self._stops)
        return ids[: next(ends, len(ids)) + 1]

    def _read(self, question: Question, prompt: Prompt, ids: list[int]) -> Said:
        ended = bool(ids) and ids[-1] in self._stops
        written = self._tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        engine = _Recital(written, ids, self._dialect, ended=ended)
        answer, events = _at_once(_folded(question, prompt, engine, max_tokens=len(ids)))
        calls: dict[int, str] = {}
        for event in events:
            if isinstance(event, ToolInputAdded):
                calls[event.index] = calls.get(event.index, "") + event.json
        opening = self._dialect.calls.opening
        begun = bool(question.demands.callable_tools) and opening in written
        blocks = [
            ThinkingBlock(thinking=block.thinking) if isinstance(block, ThinkingBlock) else block
            for block in answer.blocks
        ]
        return Said(
            prompt_ids=tuple(prompt.token_ids),
            token_ids=tuple(ids),
            text=written,
            message=Message(role="assistant", content=tuple(blocks)),
            stop_reason=answer.stop_reason,
            called=begun,
            calls_whole=bool(calls) and all(map(_is_object, calls.values())),
        )


class _Recital:
    """An engine that has written its answer already."""

    tokenizer: Any = None

    def __init__(self, text: str, ids: list[int], dialect: Dialect, *, ended: bool) -> None:
        self._event = TokenEvent(ids, text, FinishReason.STOP if ended else FinishReason.LENGTH)
        self.card = EngineCard(model="", window=2**31, created_at="", dialect=dialect)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        yield self._event

    def look(self, prompt: Prompt) -> Prompt:
        return prompt

    async def refusal(self, grammar: str) -> str | None:
        return None

    async def healthy(self) -> bool:
        return True

    async def close(self) -> None:
        return None


_SIGNER = Signer(b"nobody is shown these signatures")


async def _folded(
    question: Question, prompt: Prompt, engine: _Recital, *, max_tokens: int
) -> tuple[Answer, list[BlockEvent]]:
    turn = Turn(
        message_id="",
        model="",
        prompt=prompt,
        sampling=Sampling(max_tokens=max_tokens),
        demands=question.demands,
        signer=_SIGNER,
    )
    events: list[BlockEvent] = []

    async def heard() -> AsyncGenerator[BlockEvent, None]:
        async for event in run_turn(turn, engine):
            events.append(event)
            yield event

    return await fold(heard()), events


def _at_once(work: Coroutine[Any, Any, Value]) -> Value:
    """The result of a coroutine that waits for nothing, wherever it is asked for: an event loop may
    be running already."""
    try:
        work.send(None)
    except StopIteration as done:
        value: Value = done.value
        return value
    raise asyncio.InvalidStateError("an answer that is written already was waited for")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _stops(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a turn: the tokenizer's and those of the model's own config."""
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    told = told if isinstance(told, list | tuple) else [told]
    stops = [each for each in (tokenizer.eos_token_id, *told) if each is not None]
    if not stops:
        raise DistillError(
            "The student's tokenizer names no token that ends a turn (eos_token), so its answers "
            "would never end: add one to tokenizer_config.json."
        )
    return tuple(dict.fromkeys(stops))


def _gpus(model: Any) -> list[Any]:
    device = model.lm_head.weight.device
    return [device] if device.type == "cuda" else []


def calls_fit(said: Said, tools: Sequence[Tool]) -> bool:
    """Whether there are calls, whole, of known tools, with inputs that fit as far as the server
    judges schemas."""
    known = {tool.name: tool for tool in tools}
    if not said.calls_whole or said.stop_reason is not StopReason.TOOL_USE:
        return False
    return all(call.name in known and _fits(call, known[call.name]) for call in said.calls)


def _fits(call: ToolUseBlock, tool: Tool) -> bool:
    try:
        check_schema(tool.input_schema, "", examples=(call.input,))
    except InvalidRequest:
        return False
    return True


def thought_is_whole(said: Said, marks: Sequence[str]) -> bool:
    """Whether there is a thought, an answer behind it, and no mark in either. (The server opens the
    thought, at the end of the prompt; one that is not closed has no answer behind it.)"""
    blocks = said.message.content
    if len(blocks) < 2 or not isinstance(blocks[0], ThinkingBlock):
        return False
    return not any(mark in blocks[0].thinking + said.message.text for mark in marks)


def spoken(speaker: Speaker, samples: Sequence[Sample], *, max_tokens: int) -> Iterator[Spoken]:
    """Held-out samples, answered by the student beside the teacher; those that leave it no room for
    an answer are left out."""
    asked = [
        (each, Question.of(each.conversation, thinking=each.kind == "thinking")) for each in samples
    ]
    asked = [each for each in asked if speaker.fits(each[1], max_tokens)]
    answers = speaker.say([question for _, question in asked], max_tokens=max_tokens)
    for (sample, question), said in zip(asked, answers, strict=True):
        yield compared(sample, question, said, speaker.marks)


def compared(sample: Sample, question: Question, said: Said, marks: Sequence[str]) -> Spoken:
    """One answer of the student, beside the teacher's."""
    wanted = [block for block in sample.answer.content if isinstance(block, ToolUseBlock)]
    names = [call.name for call in wanted] == [call.name for call in said.calls]
    inputs = [call.input for call in wanted] == [call.input for call in said.calls]
    thinks = question.demands.thinking is not None
    whole = said.calls_whole and bool(wanted)
    return Spoken(
        id=sample.id,
        kind=sample.kind,
        source=sample.source,
        asked=last_words(sample.conversation),
        teacher=as_text(sample.answer),
        student=said.text,
        tokens=len(said.token_ids),
        ended=said.ended,
        should_call=bool(wanted),
        called=said.called,
        call_valid=calls_fit(said, question.demands.callable_tools),
        same_names=whole and names,
        same_calls=whole and names and inputs,
        thought_valid=thought_is_whole(said, marks) if thinks else None,
    )


def last_words(conversation: Conversation) -> str:
    """The turn that is to be answered."""
    return as_text(conversation.messages[-1])


def as_text(message: Message) -> str:
    """A turn for people: thoughts, calls and results each named."""
    lines = []
    for block in message.content:
        match block:
            case TextBlock():
                lines.append(block.text)
            case ThinkingBlock():
                lines.append(f"[thinks] {block.thinking}")
            case ToolUseBlock():
                lines.append(f"[calls] {block.name}({as_json(block.input)})")
            case ToolResultBlock():
                told = as_text(Message(role="user", content=block.content))
                lines.append(f"[{'error' if block.is_error else 'result'}] {told}")
            case _:
                lines.append(f"[{type(block).__name__}]")
    return "\n".join(lines)
