"""Answers are read as the server reads them, and streams write as much as they are to."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from senryu.quant.calibration import conversations
from senryu.quant.compare.speaker import Speaker
from senryu.quant.compare.spoken import Said, questions
from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import EngineError, FinishReason, TokenEvent
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.prompt import Prompt

CALL = '<tool_call>\n{"name": "look", "arguments": {"deep": true}}\n</tool_call>'


class Silent(ScriptedEngine):
    """Ends every answer before its first token."""

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        yield TokenEvent([], "", FinishReason.STOP)


async def answers(script: str, source: Path) -> dict[str, Said]:
    asked = questions(conversations(source, held_out=True), turns=1, structured=1)
    said = await Speaker(ScriptedEngine(script)).say(asked, max_tokens=50)
    return {key.partition(" ")[2]: each for key, each in said.items()}


async def test_a_good_call_is_valid(source: Path) -> None:
    said = await answers(CALL, source)
    assert said["auto"].called
    assert said["auto"].valid
    assert said["auto"].ended
    assert said["auto"].calls[0].input == {"deep": True}
    assert said["auto"].text.startswith("<tool_call>")


async def test_what_was_begun_for_it_is_part_of_the_answer(source: Path) -> None:
    said = await answers('deep": true}}\n</tool_call>', source)
    assert not said["auto"].called
    assert said["begun"].called
    assert said["begun"].valid
    assert said["begun"].text.startswith('<tool_call>\n{"name": "look", "arguments": {')


@pytest.mark.parametrize(
    "script",
    [
        CALL.replace("look", "listen"),
        CALL.replace("true", '"yes"'),
        CALL.replace("true", "tr"),
        CALL.replace("}}\n</tool_call>", ""),
        "<tool_call>\nlook deep\n</tool_call>",
    ],
    ids=["another tool", "wrong input", "no JSON", "cut", "no call"],
)
async def test_a_bad_call_is_not_valid(source: Path, script: str) -> None:
    said = await answers(script, source)
    assert said["auto"].called
    assert not said["auto"].valid


async def test_text_is_no_call_and_json_is_judged_by_its_schema(source: Path) -> None:
    said = await answers('{"deep": true}', source)
    assert not said["auto"].called
    assert said["json"].valid
    assert not (await answers("{}", source))["json"].valid


async def test_a_question_longer_than_the_window_is_left_out(source: Path) -> None:
    asked = questions(conversations(source, held_out=True), turns=1, structured=0)
    assert await Speaker(ScriptedEngine(window=60)).say(asked, max_tokens=50) == {}


async def test_each_stream_writes_its_tokens_though_answers_are_short() -> None:
    engine = ScriptedEngine("One two three.")
    assert await Speaker(engine).rate(3, 20) > 0


async def test_orders_are_obeyed(source: Path) -> None:
    speaker = Speaker(ScriptedEngine(CALL))
    order = {"do": "say", "source": str(source), "turns": 9, "structured": 0, "max_tokens": 50}
    told = await speaker.obey(order)
    assert told["said"]["c1#1 auto"]["valid"]
    assert (await speaker.obey({"do": "time", "streams": 2, "tokens": 4}))["rate"] > 0


async def test_a_silent_model_is_not_timed() -> None:
    with pytest.raises(EngineError, match="nothing to time"):
        await Speaker(Silent()).rate(1, 4)
