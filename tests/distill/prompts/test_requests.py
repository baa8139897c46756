"""Prompts of a log of requests: only with consent, blanked, and whatever else stands in the log."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.requests import from_requests
from senryu.distill.recipe import RecipeError, RequestsSource

Jsonl = Callable[..., Path]


def source(file: Path, **others: Any) -> RequestsSource:
    return RequestsSource(kind="requests", path=str(file), **{"opt_in": True} | others)


def body(text: str = "Why is the sky blue?", **others: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": text}]
    return {"model": "m", "max_tokens": 100, "messages": said} | others


def test_without_opt_in_nothing_is_read(tmp_path: Path) -> None:
    """Not even whether the file is there."""
    with pytest.raises(RecipeError, match="write `opt_in = true`"):
        next(from_requests(source(tmp_path / "none", opt_in=False), Counter()))


def test_all_of_the_messages_api_is_understood(jsonl: Jsonl) -> None:
    """System, tools and their choice, results, thinking, notes in the middle."""
    tool = {"name": "weather", "input_schema": {"type": "object"}}
    talk = [
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2VhbGVk"},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]},
        {"role": "system", "content": "The user is in Bergen."},
    ]
    file = jsonl(
        body(system="Be short.", stream=True, temperature=0.2, metadata={"user_id": "u"}),
        body("Think!", thinking={"type": "enabled", "budget_tokens": 2048}),
        body(messages=talk, tools=[tool]),
        body("Call!", tools=[tool], tool_choice={"type": "tool", "name": "weather"}),
    )
    tally: Counter[str] = Counter()
    plain, thinking, called, forced = from_requests(source(file), tally)
    assert not tally["unreadable"]
    assert plain.conversation.system_text == "Be short."
    assert [task.kind for task in (plain, thinking, called)] == ["chat", "thinking", "tools"]
    assert len(called.conversation.messages) == 3
    assert forced.tool_choice.name == "weather"


def test_lines_that_are_no_requests_are_counted(jsonl: Jsonl) -> None:
    """A log may be torn, or hold other things: that costs its lines and not the run."""
    file = jsonl(body(), "{", "7", {"prompt": "x"}, body(messages=[]), body("Who was Ada?"))
    tally: Counter[str] = Counter()
    assert len(list(from_requests(source(file), tally))) == 2
    assert tally["unreadable"] == 4


def test_without_one_request_it_stops(jsonl: Jsonl) -> None:
    with pytest.raises(DistillError, match=r"No line of .* is a request"):
        list(from_requests(source(jsonl("{}")), Counter()))


def test_secrets_are_blanked_and_counted(jsonl: Jsonl) -> None:
    file = jsonl(body("Write to ada@lovelace.example from 203.0.113.9."))
    tally: Counter[str] = Counter()
    (task,) = from_requests(source(file), tally)
    assert task.conversation.messages[0].text == "Write to [e-mail] from [IP address]."
    assert tally["redacted"] == 2


def test_the_first_so_many_lines(jsonl: Jsonl) -> None:
    file = jsonl(body("One?"), body("Two?"), body("Three?"))
    assert len(list(from_requests(source(file, count=2), Counter()))) == 2


def test_a_log_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="There is no file"):
        list(from_requests(source(tmp_path / "none"), Counter()))
