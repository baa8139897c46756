"""One answer: it ends for the right reason, counts what was written, and lets the engine go."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from senryu.server.conversation.messages import (
    Demands,
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
from senryu.server.engine.base import EngineError, FinishReason, TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.blocks import (
    Answer,
    BlockEnded,
    BlockEvent,
    TextAdded,
    TextStarted,
    TurnEnded,
    TurnStarted,
    fold,
)
from senryu.server.turn.prompt import Prompt
from senryu.server.turn.turn import Turn, run_turn

TOKENS = ["One", " two", " three", " four"]


SIGNER = Signer(b"key")
LS = Tool(name="ls", input_schema={"type": "object"})
CALLING = Demands(callable_tools=(LS,))
THINKING = Demands(callable_tools=(LS,), thinking=Thinking())
CALL = ["<tool_", 'call>\n{"name": "ls", "argu', 'ments": {"path"', ': "/"}', "}\n</tool_call>"]
INPUT = {"path": "/"}


def turn(*, prompt: int = 3, demands: Demands | None = None, **sampling: Any) -> Turn:
    return Turn(
        message_id="msg_1",
        model="m",
        prompt=Prompt(token_ids=list(range(prompt))),
        sampling=Sampling(**{"max_tokens": 100, **sampling}),
        demands=demands or Demands(),
        signer=SIGNER,
    )


async def events(asked: Turn, engine: ScriptedEngine) -> list[BlockEvent]:
    return [event async for event in run_turn(asked, engine)]


async def answer(engine: ScriptedEngine, **asked: Any) -> Answer:
    return await fold(run_turn(turn(**asked), engine))


def text(answer: Answer) -> str:
    (block,) = answer.blocks
    assert isinstance(block, TextBlock)
    return block.text


async def test_an_answer_is_told_token_by_token() -> None:
    usage = Usage(input_tokens=3, output_tokens=0)
    assert await events(turn(), ScriptedEngine(TOKENS)) == [
        TurnStarted(message_id="msg_1", model="m", usage=usage),
        TextStarted(0),
        *(TextAdded(0, token) for token in TOKENS),
        BlockEnded(0),
        TurnEnded(
            stop_reason=StopReason.END_TURN,
            stop_sequence=None,
            usage=Usage(input_tokens=3, output_tokens=4),
        ),
    ]


async def test_the_opening_is_told_before_the_engine_is_asked() -> None:
    engine = ScriptedEngine(TOKENS)
    async with aclosing(run_turn(turn(), engine)) as stream:
        assert isinstance(await anext(stream), TurnStarted)
        assert not engine.active


async def test_an_answer_that_hits_max_tokens_says_so() -> None:
    said = await answer(ScriptedEngine(TOKENS), max_tokens=2)
    assert (text(said), said.stop_reason) == ("One two", StopReason.MAX_TOKENS)
    assert said.usage.output_tokens == 2


async def test_an_answer_that_ends_with_the_last_allowed_token_has_ended() -> None:
    said = await answer(ScriptedEngine(TOKENS), max_tokens=4)
    assert said.stop_reason == StopReason.END_TURN


@pytest.mark.parametrize(
    ("tokens", "sequence", "shown", "count"),
    [
        (TOKENS, " thr", "One two", 3),
        (TOKENS, "e tw", "On", 2),
        (["a", "b", "c", "d"], "bcd", "a", 4),
        (["a", "b", "c", "d"], "d", "abc", 4),
    ],
)
async def test_a_stop_sequence_is_found_across_tokens_and_not_shown(
    tokens: list[str], sequence: str, shown: str, count: int
) -> None:
    engine = ScriptedEngine(tokens)
    said = await answer(engine, stop_sequences=("nowhere", sequence))
    assert text(said) == shown
    assert (said.stop_reason, said.stop_sequence) == (StopReason.STOP_SEQUENCE, sequence)
    assert said.usage.output_tokens == count
    assert not engine.active


async def test_a_stop_sequence_at_the_very_start_leaves_no_block() -> None:
    said = await answer(ScriptedEngine(TOKENS), stop_sequences=("One",))
    assert (said.blocks, said.stop_sequence) == ((), "One")


@pytest.mark.parametrize("allowed", [100, 3])
async def test_what_was_held_back_for_a_sequence_is_shown_in_the_end(allowed: int) -> None:
    engine = ScriptedEngine(["x", "EN", "EN"])
    said = await answer(engine, stop_sequences=("END",), max_tokens=allowed)
    assert text(said) == "xENEN"
    assert said.stop_sequence is None


async def test_a_full_window_ends_the_answer_and_is_called_so() -> None:
    said = await answer(ScriptedEngine(TOKENS, window=5), prompt=3, max_tokens=100)
    assert text(said) == "One two"
    assert said.stop_reason == StopReason.CONTEXT_WINDOW_EXCEEDED
    assert said.usage == Usage(input_tokens=3, output_tokens=2)


async def test_max_tokens_that_just_fit_the_window_are_max_tokens() -> None:
    said = await answer(ScriptedEngine(TOKENS, window=5), prompt=3, max_tokens=2)
    assert said.stop_reason == StopReason.MAX_TOKENS


async def test_a_prompt_that_fills_the_window_leaves_no_room_for_an_answer() -> None:
    said = await answer(ScriptedEngine(TOKENS, window=3), prompt=3)
    assert (said.blocks, said.stop_reason) == ((), StopReason.CONTEXT_WINDOW_EXCEEDED)
    assert said.usage == Usage(input_tokens=3, output_tokens=0)


@pytest.mark.parametrize(
    ("tokens", "window", "stops"),
    [(TOKENS, 100, ()), (["."], 100, ()), (["x"], 100, ("x",)), (TOKENS, 3, ())],
)
async def test_a_prewarm_writes_nothing_and_always_ends_by_max_tokens(
    tokens: list[str], window: int, stops: tuple[str, ...]
) -> None:
    """Contract 5.6, also where the one hidden token ends the turn, stops, or finds no room."""
    engine = ScriptedEngine(tokens, window=window)
    said = await answer(engine, prompt=3, max_tokens=0, stop_sequences=stops)
    assert said.blocks == ()
    assert (said.stop_reason, said.stop_sequence) == (StopReason.MAX_TOKENS, None)
    assert said.usage == Usage(input_tokens=3, output_tokens=0)


async def test_an_empty_answer_has_no_block_and_an_end() -> None:
    said = await answer(ScriptedEngine([""]))
    assert (said.blocks, said.stop_reason) == ((), StopReason.END_TURN)
    assert said.usage.output_tokens == 1


async def test_a_token_without_text_yet_is_counted_and_not_shown() -> None:
    asked = await events(turn(), ScriptedEngine(["", "é", "", ""]))
    assert [event.text for event in asked if isinstance(event, TextAdded)] == ["é"]
    last = asked[-1]
    assert isinstance(last, TurnEnded)
    assert last.usage.output_tokens == 4


async def test_closing_the_events_aborts_the_engines_request() -> None:
    engine = ScriptedEngine(TOKENS)
    stream = run_turn(turn(), engine)
    async for event in stream:
        if isinstance(event, TextAdded):
            break
    assert engine.active == {"msg_1"}
    await stream.aclose()
    assert not engine.active


@pytest.mark.parametrize("before", [0, 2])
async def test_an_engines_failure_passes_through_and_is_no_end(
    before: int, breaking_engine: Callable[..., ScriptedEngine]
) -> None:
    engine = breaking_engine(TOKENS, before=before)
    stream = run_turn(turn(), engine)
    opening = 1 + bool(before)  # the turn's, and the block's when there is one
    seen = [await anext(stream) for _ in range(opening + before)]
    with pytest.raises(EngineError, match="try it again"):
        await anext(stream)
    assert sum(isinstance(event, TextAdded) for event in seen) == before
    assert not engine.active


async def test_an_engine_that_stops_without_a_reason_has_failed() -> None:
    class Mute(ScriptedEngine):
        async def generate(
            self, prompt: Prompt, sampling: Sampling, request_id: str
        ) -> AsyncGenerator[TokenEvent, None]:
            yield TokenEvent((1,), "half an ans")

    with pytest.raises(EngineError, match="broke off"):
        await answer(Mute())


class Listening(ScriptedEngine):
    """Keeps what it is asked for."""

    def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        self.asked = sampling
        return super().generate(prompt, sampling, request_id)


async def test_the_engine_is_told_how_much_room_there_is() -> None:
    engine = Listening(TOKENS, window=10)
    await answer(engine, prompt=4, max_tokens=100, temperature=0.5)
    assert engine.asked == Sampling(max_tokens=6, temperature=0.5)


async def test_the_answer_as_a_whole_is_the_answer_as_told() -> None:
    said = await answer(ScriptedEngine(TOKENS))
    assert said.blocks == (TextBlock(text="".join(TOKENS)),)
    assert (said.message_id, said.model) == ("msg_1", "m")


# --- calls -------------------------------------------------------------------------------------


def call_of(block: object) -> Any:
    assert isinstance(block, ToolUseBlock)
    return block.name, block.input


async def test_an_answer_that_calls_ends_for_that() -> None:
    said = await answer(ScriptedEngine(["Look:\n", *CALL]), demands=CALLING)
    before, call = said.blocks
    assert before == TextBlock(text="Look:")
    assert call_of(call) == ("ls", INPUT)
    assert (said.stop_reason, said.usage.output_tokens) == (StopReason.TOOL_USE, 6)


async def test_several_calls_stand_in_their_order_with_ids_of_their_own() -> None:
    said = await answer(ScriptedEngine([*CALL, "\n", *CALL]), demands=CALLING)
    assert [call_of(block) for block in said.blocks] == [("ls", INPUT)] * 2
    first, second = said.blocks
    assert first != second


@pytest.mark.parametrize("behind", [[" and", " so on"] * 50, ["<tool_call>", "no", " call"] * 50])
async def test_behind_a_call_the_answer_ends_and_the_engine_is_let_go(behind: list[str]) -> None:
    engine = ScriptedEngine([*CALL, *behind])
    said = await answer(engine, demands=CALLING, max_tokens=1000)
    assert [call_of(block) for block in said.blocks] == [("ls", INPUT)]
    assert said.stop_reason == StopReason.TOOL_USE
    assert said.usage.output_tokens < 100
    assert not engine.active


async def test_where_one_call_is_wanted_one_is_written() -> None:
    demands = Demands(callable_tools=(LS,), tool_choice=ToolChoice(parallel=False))
    engine = ScriptedEngine([*CALL, "\n", *CALL])
    said = await answer(engine, demands=demands)
    assert len(said.blocks) == 1
    assert (said.stop_reason, said.usage.output_tokens) == (StopReason.TOOL_USE, 4)
    assert not engine.active


async def test_a_call_that_is_cut_off_ends_with_what_came_of_it() -> None:
    for count, blocks in [(1, 0), (2, 0), (3, 1), (4, 1)]:
        said = await answer(ScriptedEngine(CALL), demands=CALLING, max_tokens=count)
        assert (len(said.blocks), said.stop_reason) == (blocks, StopReason.MAX_TOKENS)
    cut = await answer(ScriptedEngine(CALL), demands=CALLING, max_tokens=3)
    assert call_of(cut.blocks[0]) == ("ls", {})


async def test_a_call_whose_input_goes_wrong_ends_the_answer() -> None:
    engine = ScriptedEngine([*CALL[:-2], ": oops,", CALL[-1], "And so on."])
    said = await answer(engine, demands=CALLING)
    (called,) = said.blocks
    assert call_of(called) == ("ls", {})
    assert (said.stop_reason, said.usage.output_tokens) == (StopReason.TOOL_USE, 4)
    assert not engine.active


async def test_a_call_that_is_none_is_text_and_calls_nothing() -> None:
    said = await answer(ScriptedEngine(["<tool_call>", "oh", "</tool_call>"]), demands=CALLING)
    assert (text(said), said.stop_reason) == ("oh", StopReason.END_TURN)


@pytest.mark.parametrize(
    "demands", [None, Demands(callable_tools=(LS,), tool_choice=ToolChoice(mode="none"))]
)
async def test_without_tools_to_call_a_call_is_text(demands: Demands | None) -> None:
    said = await answer(ScriptedEngine(CALL), demands=demands)
    assert (text(said), said.stop_reason) == ("".join(CALL), StopReason.END_TURN)


# --- thoughts ----------------------------------------------------------------------------------

THOUGHT = ["They ", "ask.\n", "</thi", "nk>\n\n"]


async def test_a_thought_stands_before_the_answer_signed_and_counted() -> None:
    said = await answer(ScriptedEngine([*THOUGHT, "Hi", "."]), demands=THINKING)
    thought, spoken = said.blocks
    assert isinstance(thought, ThinkingBlock)
    assert (thought.thinking, spoken) == ("They ask.\n", TextBlock(text="Hi."))
    assert SIGNER.read("They ask.\n", thought.signature, model="m") == "They ask.\n"
    assert (said.usage.thinking_tokens, said.usage.output_tokens) == (4, 6)
    assert said.stop_reason == StopReason.END_TURN


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        (["Hm.</think>"], 8),
        (["Hm.</think>\n\n"], 8),
        (["Hm.</think>\n\nAnd a long answer"], 4),
        (["Hm.</think>", "\n\nAnd a long answer"], 8),
        (["Hm.", "</think>A"], 16),
        (["</think>" + "long " * 100], 1),
    ],
)
async def test_of_the_tokens_with_which_a_thought_ends_it_has_its_share(
    texts: list[str], tokens: int
) -> None:
    """An engine may tell several tokens at once, of the thought and of the answer."""

    class Hasty(ScriptedEngine):
        async def generate(
            self, prompt: Prompt, sampling: Sampling, request_id: str
        ) -> AsyncGenerator[TokenEvent, None]:
            for text in texts:
                last = FinishReason.STOP if text is texts[-1] else None
                yield TokenEvent(tuple(range(8)), text, last)

    said = await answer(Hasty(), demands=THINKING)
    assert said.usage.thinking_tokens == tokens


async def test_a_hidden_thought_is_sealed_in_its_signature() -> None:
    demands = Demands(thinking=Thinking(shown=False))
    said = await answer(ScriptedEngine([*THOUGHT, "Hi"]), demands=demands)
    thought = said.blocks[0]
    assert isinstance(thought, ThinkingBlock)
    assert thought.thinking == ""
    assert SIGNER.read("", thought.signature, model="m") == "They ask.\n"
    assert said.usage.thinking_tokens == 4


async def test_a_thought_that_max_tokens_cut_off_is_signed() -> None:
    said = await answer(ScriptedEngine([*THOUGHT, "Hi"]), demands=THINKING, max_tokens=2)
    (thought,) = said.blocks
    assert isinstance(thought, ThinkingBlock)
    assert SIGNER.read(thought.thinking, thought.signature, model="m") == "They ask.\n"
    assert (said.stop_reason, said.usage.thinking_tokens) == (StopReason.MAX_TOKENS, 2)


async def test_a_thought_may_be_followed_by_a_call_at_once() -> None:
    said = await answer(ScriptedEngine([*THOUGHT, *CALL]), demands=THINKING)
    assert [type(block) for block in said.blocks] == [ThinkingBlock, ToolUseBlock]
    assert said.stop_reason == StopReason.TOOL_USE


# --- what the engine is held to ----------------------------------------------------------------


async def test_the_engine_is_given_the_grammar_that_came_with_the_turn() -> None:
    engine = Listening(TOKENS)
    await answer(engine, grammar="{}")
    assert engine.asked.grammar == "{}"


async def test_a_prewarm_writes_one_token_that_nobody_sees() -> None:
    engine = Listening(TOKENS)
    said = await answer(engine, demands=THINKING, max_tokens=0)
    assert engine.asked.max_tokens == 1
    assert said.blocks == ()
    assert said.usage == Usage(input_tokens=3, output_tokens=0)
