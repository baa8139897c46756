"""Recorded turns are asked again behind their true history, and answers are judged as served."""

from pathlib import Path
from typing import Any

import pytest

from senryu.quant.calibration import conversations
from senryu.quant.compare.spoken import (
    Call,
    Share,
    Speech,
    calls_fit,
    json_fits,
    paired,
    questions,
)
from senryu.server.conversation.messages import Tool

from .conftest import DEEP, LOOK, said

SCHEMA: Any = LOOK["input_schema"]


def test_every_turn_with_a_call_is_asked_behind_its_history(source: Path) -> None:
    asked = questions(conversations(source, held_out=True), turns=9, structured=9)
    auto = [each for each in asked if each.mode == "auto"]
    assert [each.id for each in auto] == ["c1#1", "c1#3", "c3#1"]
    assert [len(each.conversation.messages) for each in auto] == [1, 3, 1]
    assert auto[1].asked == "[result] It is dark."
    assert auto[1].recorded == (Call(name="look", input={"deep": False}),)
    forced = [each for each in asked if each.mode == "forced"]
    assert all(each.demands.tool_choice.forced for each in forced)
    assert len({each.key for each in asked}) == len(asked)


def test_json_is_asked_for_where_the_user_spoke(source: Path) -> None:
    asked = questions(conversations(source, held_out=True), turns=9, structured=9)
    json = [each for each in asked if each.mode == "json"]
    assert [each.id for each in json] == ["c1#1", "c3#1"]
    assert all(each.demands.output_schema == SCHEMA for each in json)
    assert "JSON Schema" in json[0].asked
    assert "Look into the dark well" in json[0].asked


def test_there_are_no_more_than_wanted_and_none_twice(source: Path) -> None:
    spoken = conversations(source, held_out=True)
    assert len(questions([*spoken, *spoken], turns=2, structured=1)) == 2 * 3 + 2
    assert len(questions([*spoken, *spoken], turns=9, structured=0)) == 3 * 3


@pytest.mark.parametrize(
    ("call", "fit"),
    [
        (DEEP, True),
        (Call(name="look", input={"deep": "yes"}), False),
        (Call(name="look", input={}), False),
        (Call(name="listen", input={"deep": True}), False),
    ],
)
def test_a_call_fits_a_known_tool_and_its_schema(call: Call, fit: bool) -> None:
    tools = [Tool(name="look", input_schema=SCHEMA)]
    assert calls_fit([call], tools) is fit
    assert not calls_fit([], tools)


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ('{"deep": true}', True),
        ('```json\n{"deep": true}\n```', True),
        ('Here: {"deep": true}', False),
        ('{"deep": 1}', False),
        ('{"deep": tr', False),
        ("[]", False),
        ("[" * 100_000, False),
    ],
)
def test_json_fits_its_schema(text: str, fit: bool) -> None:
    assert json_fits(text, SCHEMA) is fit


def test_figures_count_what_was_begun(speech: Speech) -> None:
    assert speech.called("parent", "auto") == Share(2, 2)
    assert speech.called("candidate", "auto") == Share(1, 2)
    assert speech.valid("parent", "auto", "begun") == Share(3, 4)
    assert speech.valid("candidate", "auto", "begun") == Share(2, 3)
    assert speech.kept("candidate", "auto") == Share(1, 2)  # silence is no valid call
    assert speech.tool_validity_drop == 50
    assert speech.as_recorded("parent", "forced", inputs=False) == Share(1, 2)
    assert speech.as_recorded("candidate", "forced", inputs=True) == Share(0, 2)
    assert speech.alike("forced", inputs=False) == Share(2, 2)
    assert speech.alike("forced", inputs=True) == Share(1, 2)
    assert (speech.match, speech.match_drop) == (1.0, 0.0)
    assert speech.structured_drop == 100.0
    assert speech.same_words("begun") == Share(1, 2)


def test_nothing_asked_is_no_figure() -> None:
    nothing = Speech(pairs=())
    assert nothing.tool_validity_drop is None
    assert nothing.match is None
    assert nothing.structured_drop is None


def test_only_what_both_were_asked_is_compared(source: Path) -> None:
    asked = questions(conversations(source, held_out=True), turns=1, structured=0)
    mine = {each.key: said("a") for each in asked}
    its = {each.key: said("b") for each in asked[:2]}
    told = paired(asked, mine, its)
    assert [pair.mode for pair in told.pairs] == ["auto", "begun"]
    assert told.left_out == ("forced",)
