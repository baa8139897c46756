"""The session is the one that agents are observed to send, and the same for each server."""

from typing import Any

import pytest

from senryu.benches.agentic.session import (
    SMALL,
    Message,
    Session,
    Turn,
    billing_line,
    body,
    full,
    unread,
    write,
)
from senryu.benches.agentic.text import Pen, pieces


@pytest.fixture(scope="module")
def session() -> Session:
    return write(SMALL, 7)


def asked(session: Session, number: int, **how: Any) -> dict[str, Any]:
    turn = session.turns[number - 1]
    return body(session, turn, {}, billing=billing_line(7, number), **how)


def kinds(message: Message) -> list[str]:
    return [block["type"] for block in message["content"]]


def marked(value: Any) -> list[Any]:
    """All that carries a mark, wherever it stands."""
    if isinstance(value, list):
        return [found for each in value for found in marked(each)]
    if isinstance(value, dict):
        deeper = [found for each in value.values() for found in marked(each)]
        return [value, *deeper] if "cache_control" in value else deeper
    return []


def test_a_seed_always_writes_the_same_session() -> None:
    assert write(SMALL, 7) == write(SMALL, 7)
    assert write(SMALL, 7) != write(SMALL, 8)


def test_two_sessions_differ_in_the_first_words_of_whatever_a_template_puts_first() -> None:
    one, other = write(SMALL, 7), write(SMALL, 8)
    assert one.system[0] != other.system[0]
    assert one.tools[0]["description"][:30] != other.tools[0]["description"][:30]


def test_the_first_system_block_differs_in_each_request_and_is_as_long(session: Session) -> None:
    lines = [billing_line(7, number) for number in range(200)]
    assert len(set(lines)) == 200
    assert len({len(line) for line in lines}) == 1
    assert asked(session, 3)["system"][0] == {"type": "text", "text": lines[3]}


def test_as_a_string_the_system_prompt_begins_with_that_line(session: Session) -> None:
    system = asked(session, 3, as_string=True)["system"]
    assert system == "\n".join([billing_line(7, 3), *session.system])


def test_marks_stand_on_two_system_blocks_and_on_the_last_message(session: Session) -> None:
    for turn in session.turns:
        request = asked(session, turn.number)
        assert [bool(marked(block)) for block in request["system"]] == [False, True, True]
        assert marked(request["tools"]) == []
        assert marked(request["messages"]) == [request["messages"][-1]["content"][-1]]


def test_a_system_message_is_blocks_while_it_is_last_and_a_string_from_then_on(
    session: Session,
) -> None:
    first, second = (asked(session, number)["messages"] for number in (1, 2))
    assert [message["role"] for message in first] == ["user", "system"]
    assert kinds(first[1]) == ["text"]
    assert second[1] == {"role": "system", "content": first[1]["content"][0]["text"]}


def test_reminders_stand_in_the_middle(session: Session) -> None:
    places = [place for place, each in enumerate(asked(session, 10)["messages"]) if notes(each)]
    assert len(places) == 3


def notes(message: Message) -> bool:
    return bool(message["role"] == "system")


@pytest.mark.parametrize("shape", [SMALL, full(60_000)])
def test_every_call_has_its_result_in_the_next_message(shape: Any) -> None:
    session = write(shape, 7)
    tools = {tool["name"] for tool in session.tools}
    most = 0
    for turn in session.turns:
        history = [each for each in asked(session, turn.number)["messages"] if not notes(each)]
        assert [each["role"] for each in history] == ["user", "assistant"] * (len(history) // 2) + [
            "user"
        ]
        for said, answered in zip(history[1::2], history[2::2], strict=True):
            calls = [block for block in said["content"] if block["type"] == "tool_use"]
            results = [b for b in answered["content"] if b["type"] == "tool_result"]
            assert [call["id"] for call in calls] == [each["tool_use_id"] for each in results]
            assert {call["name"] for call in calls} <= tools
            most = max(most, len(calls))
    assert most == 2  # in parallel


def test_one_tool_is_deferred(session: Session) -> None:
    assert [tool["name"] for tool in session.tools if tool.get("defer_loading")] == ["Later"]
    assert len(session.tools) == SMALL.tools
    assert len(write(full(60_000), 7).tools) == 20


def test_each_request_begins_with_the_one_before_but_for_marks(session: Session) -> None:
    before: list[Any] = []
    for turn in session.turns:
        now = [bare(message) for message in asked(session, turn.number)["messages"]]
        if turn.afresh:
            assert now[0]["content"][0]["text"].startswith("This session goes on")
            assert len(now) == 2
        else:
            assert now[: len(before)] == before
        before = now


def bare(message: Message) -> Message:
    """Without marks, and text as a string: what a server renders alike."""
    blocks = message["content"]
    if isinstance(blocks, list):
        blocks = [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]
        if message["role"] == "system":
            blocks = blocks[0]["text"]
    return message | {"content": blocks}


def test_there_is_one_of_each_mishap_and_one_compaction() -> None:
    for shape in (SMALL, full(60_000), full(30_000, 12)):
        turns = write(shape, 7).turns
        assert len(turns) == shape.turns
        assert sorted(str(turn.mishap) for turn in turns if turn.mishap) == ["dropped", "timed out"]
        assert [turn.number for turn in turns if turn.afresh] == [shape.compaction + 1]


def test_signed_thoughts_of_a_server_go_back_where_it_gave_them(session: Session) -> None:
    thought = {"type": "thinking", "thinking": "", "signature": "c2VhbA=="}
    turn = session.turns[2]
    with_it = body(session, turn, {2: [thought]}, billing="")["messages"]
    without = body(session, turn, {}, billing="")["messages"]
    said = [message for message in with_it if message["role"] == "assistant"]
    assert [kinds(message)[0] for message in said] == ["text", "thinking"]
    assert (
        said[1]["content"][1:]
        == [each for each in without if each["role"] == "assistant"][1]["content"]
    )


def test_a_small_session_fits_a_small_window() -> None:
    """By our own count; the tokenizer of the embedded model counts a few in a hundred more."""
    for seed in range(5):
        session = write(SMALL, seed)
        sizes = [size(session, turn) for turn in session.turns]
        assert max(sizes) < 6_000
        grown = [
            later - earlier
            for earlier, later, turn in zip(sizes, sizes[1:], session.turns[1:], strict=False)
            if not turn.afresh
        ]
        assert min(grown) >= 270  # digits and signs count for more there


def size(session: Session, turn: Turn) -> int:
    request = body(session, turn, {}, billing="")
    return sum(pieces(str(text)) for text in texts([request["system"], request["messages"]])) + sum(
        pieces(str(text)) for text in texts(request["tools"])
    )


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("as_string", [False, True])
def test_a_cold_request_differs_at_once_and_is_no_longer(session: Session, as_string: bool) -> None:
    request = asked(session, 4, as_string=as_string)
    cold = unread(request, "7-4")
    assert cold["tools"][0]["description"].startswith("7-4 ")
    named = cold["system"].split("\n")[1] if as_string else cold["system"][1]["text"]
    assert named.startswith("7-4 You are")
    assert cold["messages"] == request["messages"]
    assert request == asked(session, 4, as_string=as_string)  # left as it was


def test_text_is_about_as_long_as_was_wanted() -> None:
    pen = Pen(7)
    for write_text in (pen.prose, pen.code):
        assert 390 <= pieces(write_text(400)) <= 440
