"""What both models say when they are served: which questions are asked, and what answers show.

Comes in: held-out conversations, answers of both models. Goes out: `Question`s, and `Speech` with
its figures. Every recorded turn that calls a tool is asked again behind its true history, so that a
wrong call does not spoil the turns after it. It refuses to know the engine (`speaker.py` asks it)
and where conversations lie.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    TextBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.conversation.schemas import check_schema
from senryu.server.wire.errors import InvalidRequest

Mode = Literal["auto", "begun", "forced", "json", "json-held"]
"""`auto`: tools may be called, nothing holds the answer. `begun`: a call of the recorded tool is
begun for the model, up to its first key, and nothing holds the rest. `forced`: a grammar holds the
answer to a call. `json`: the prompt asks for JSON of a schema; `json-held`: and a grammar holds the
answer to it."""
CALLS: tuple[Mode, ...] = ("auto", "begun", "forced")
FREE: tuple[Mode, ...] = ("auto", "begun")
Who = Literal["parent", "candidate"]


class Recorded(Protocol):
    """A held-out conversation, as `calibration.conversations` gives it."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def conversation(self) -> Conversation: ...
    @property
    def answer(self) -> Message: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One tool call."""

    name: str
    input: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({json.dumps(self.input, ensure_ascii=False)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and what was once answered."""

    id: str
    """Of the conversation and the turn in it, as `3fb1-0#2`."""
    mode: Mode
    language: str
    conversation: Conversation
    demands: Demands
    recorded: tuple[Call, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.id} {self.mode}"

    @property
    def asked(self) -> str:
        """The turn that is to be answered, for people."""
        return "\n".join(_words(self.conversation.messages[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One model's answer."""

    text: str
    """As it was written, marks and all."""
    tokens: int
    ended: bool
    """Whether it ended by itself, and not by the limit of tokens."""
    called: bool = False
    """Whether a call was begun."""
    valid: bool = False
    """Of calls: whole, of known tools, with inputs that fit their schemas. Of JSON: it fits."""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One question and both answers."""

    id: str
    mode: Mode
    language: str
    asked: str
    recorded: tuple[Call, ...]
    parent: Said
    candidate: Said

    def of(self, who: Who) -> Said:
        return self.parent if who == "parent" else self.candidate


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    part: int
    whole: int

    def __str__(self) -> str:
        return f"{self.part} of {self.whole}"

    @property
    def value(self) -> float | None:
        """From 0 to 1; None of nothing."""
        return self.part / self.whole if self.whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What both said."""

    pairs: tuple[Pair, ...]
    left_out: tuple[Mode, ...] = ()
    """Of each question that only one of them could be asked."""

    def called(self, who: Who, mode: Mode) -> Share:
        """Answers that begin a call, of the turns where one was recorded."""
        return self._share((mode,), lambda pair: pair.of(who).called)

    def valid(self, who: Who, *modes: Mode) -> Share:
        """Valid answers; of calls, among those begun."""
        return self._share(
            modes,
            lambda pair: pair.of(who).valid,
            lambda pair: pair.mode.startswith("json") or pair.of(who).called,
        )

    def as_recorded(self, who: Who, mode: Mode, *, inputs: bool) -> Share:
        """Turns with the tools that were recorded, in their order; with their inputs, too."""
        return self._share((mode,), lambda pair: _same(pair.of(who).calls, pair.recorded, inputs))

    def alike(self, mode: Mode, *, inputs: bool) -> Share:
        """Turns where both call the same."""
        return self._share(
            (mode,), lambda pair: _same(pair.candidate.calls, pair.parent.calls, inputs)
        )

    def same_words(self, mode: Mode) -> Share:
        """Answers that are equal to the letter."""
        return self._share((mode,), lambda pair: pair.candidate.text == pair.parent.text)

    def kept(self, who: Who, mode: Mode) -> Share:
        """Valid calls, of the turns where the parent calls: whoever is silent there has none."""
        return self._share(
            (mode,), lambda pair: pair.of(who).valid, lambda pair: pair.parent.called
        )

    @property
    def worse_calls(self) -> Mode:
        """The mode without a grammar that loses more valid calls."""
        return max(FREE, key=lambda mode: _or_least(self._calls_lost(mode)))

    @property
    def tool_validity_drop(self) -> float | None:
        """Points: valid calls of 100 of the parent's, made without a grammar, less than the
        parent's; the worse of both ways to ask."""
        return self._calls_lost(self.worse_calls)

    def _calls_lost(self, mode: Mode) -> float | None:
        return _drop(self.kept("parent", mode), self.kept("candidate", mode))

    @property
    def match(self) -> float | None:
        """The share of turns where both, held to a call as the server holds them, call the same
        tools."""
        return self.alike("forced", inputs=False).value

    @property
    def match_drop(self) -> float | None:
        """Points: turns of 100 with the recorded tools, held likewise, less than the parent's."""
        told = [self.as_recorded(who, "forced", inputs=False) for who in ("parent", "candidate")]
        return _drop(*told)

    @property
    def structured_drop(self) -> float | None:
        """Points: JSON answers of 100 that fit their schema without a grammar, less than the
        parent's."""
        return _drop(self.valid("parent", "json"), self.valid("candidate", "json"))

    def _share(
        self,
        modes: Sequence[Mode],
        holds: Callable[[Pair], bool],
        counts: Callable[[Pair], bool] = lambda pair: True,
    ) -> Share:
        judged = [pair for pair in self.pairs if pair.mode in modes and counts(pair)]
        return Share(sum(holds(pair) for pair in judged), len(judged))


def _same(some: Sequence[Call], others: Sequence[Call], inputs: bool) -> bool:
    if inputs:
        return bool(some) and list(some) == list(others)
    return bool(some) and [each.name for each in some] == [each.name for each in others]


def _or_least(drop: float | None) -> float:
    return -math.inf if drop is None else drop


def _drop(parent: Share, candidate: Share) -> float | None:
    """None where the parent shows nothing; a candidate that begins no call has lost them all."""
    if parent.value is None:
        return None
    return 100 * (parent.value - (candidate.value or 0.0))


def questions(spoken: Sequence[Recorded], *, turns: int, structured: int) -> tuple[Question, ...]:
    """At most so many recorded turns, each in every mode; and so many questions for JSON, each
    twice. Always the same for the same conversations."""
    found: list[Question] = []
    seen: set[str] = set()
    for turn in _turns(spoken):
        told = repr(turn.conversation)  # samples of one conversation begin alike
        if told not in seen and len(found) < turns:
            seen.add(told)
            found.append(turn)
    calls = [_as(turn, mode) for turn in found for mode in CALLS]
    asks = [each for turn in found if (each := _in_json(turn)) is not None][:structured]
    modes: tuple[Mode, ...] = ("json", "json-held")
    return (*calls, *(replace(each, mode=mode) for each in asks for mode in modes))


def _turns(spoken: Sequence[Recorded]) -> Iterator[Question]:
    """Every turn in which a tool was called, behind its true history."""
    for each in spoken:
        messages = (*each.conversation.messages, each.answer)
        for place, message in enumerate(messages):
            calls = _calls(message)
            before = replace(each.conversation, messages=messages[:place])
            known = {tool.name for tool in before.tools}
            asked = bool(place and calls and message.role == "assistant")
            if asked and all(call.name in known for call in calls):
                yield Question(
                    id=f"{each.id}#{place}",
                    mode="auto",
                    language=each.language,
                    conversation=before,
                    demands=Demands(callable_tools=before.tools),
                    recorded=calls,
                )


def _calls(message: Message) -> tuple[Call, ...]:
    blocks = (block for block in message.content if isinstance(block, ToolUseBlock))
    return tuple(Call(name=block.name, input=block.input) for block in blocks)


def _as(turn: Question, mode: Mode) -> Question:
    forced = ToolChoice(mode="any") if mode == "forced" else ToolChoice()
    return replace(turn, mode=mode, demands=replace(turn.demands, tool_choice=forced))


_WANTED = "Answer with one JSON object that fits this JSON Schema, and with nothing else:"


def _in_json(turn: Question) -> Question | None:
    """The same wish, to be answered with the input of the recorded tool as JSON; None where the
    turn is no wish of the user's."""
    last = turn.conversation.messages[-1]
    tool = next(each for each in turn.conversation.tools if each.name == turn.recorded[0].name)
    if last.role != "user" or not last.text.strip():
        return None
    schema = json.dumps(dict(tool.input_schema), ensure_ascii=False)
    asked = TextBlock(text=f"{last.text.strip()}\n\n{_WANTED}\n{schema}")
    return Question(
        id=turn.id,
        mode="json",
        language=turn.language,
        conversation=Conversation(messages=(Message(role="user", content=(asked,)),)),
        demands=Demands(output_schema=dict(tool.input_schema)),
    )


def calls_fit(calls: Sequence[Call], tools: Sequence[Tool]) -> bool:
    """Whether there are calls, of known tools, with inputs that fit as far as the server judges
    schemas."""
    known = {tool.name: tool for tool in tools}
    return bool(calls) and all(
        call.name in known and fits(call.input, known[call.name].input_schema) for call in calls
    )


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    try:
        check_schema(schema, "", examples=(value,))
    except InvalidRequest:
        return False
    return True


def json_fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether the answer is JSON that fits, in a code fence or not."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") : -3]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and fits(value, schema)


def _words(message: Message) -> Iterator[str]:
    for block in message.content:
        match block:
            case TextBlock():
                yield block.text
            case ToolResultBlock():
                told = [each.text for each in block.content if isinstance(each, TextBlock)]
                yield f"[{'error' if block.is_error else 'result'}] {' '.join(told)}"
            case _:
                yield f"[{type(block).__name__}]"


def paired(
    asked: Sequence[Question], parent: Mapping[str, Said], candidate: Mapping[str, Said]
) -> Speech:
    """Both models' answers, by the questions' keys; what one could not be asked is left out
    and counted."""
    return Speech(
        left_out=tuple(
            each.mode for each in asked if (each.key in parent) != (each.key in candidate)
        ),
        pairs=tuple(
            Pair(
                id=each.id,
                mode=each.mode,
                language=each.language,
                asked=each.asked,
                recorded=each.recorded,
                parent=parent[each.key],
                candidate=candidate[each.key],
            )
            for each in asked
            if each.key in parent and each.key in candidate
        ),
    )
