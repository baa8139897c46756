"""What is read off the events of one request."""

import json
from typing import Any

import pytest

from senryu.benches.agentic.client import read_counters
from senryu.benches.agentic.stream import (
    Attempt,
    Calls,
    Counters,
    Event,
    EventReader,
    Usage,
    calls,
    final_usage,
    first_token_seconds,
    known_usage,
    longest_silence,
    same_input,
    signed_thoughts,
    start_seconds,
    started_usage,
)

TOOLS = frozenset({"Read", "Bash"})


def event(at: float, kind: str, **data: Any) -> Event:
    return Event(at=at, type=kind, data={"type": kind, **data})


def start(at: float = 1.0, **usage: Any) -> Event:
    return event(at, "message_start", message={"usage": usage})


def delta(at: float, index: int = 0, **of: Any) -> Event:
    return event(at, "content_block_delta", index=index, delta=of)


def opened(index: int, **block: Any) -> Event:
    return event(2.0, "content_block_start", index=index, content_block=block)


def closed(index: int) -> Event:
    return event(3.0, "content_block_stop", index=index)


def end(at: float = 9.0, reason: str = "end_turn", **usage: Any) -> Event:
    return event(at, "message_delta", delta={"stop_reason": reason}, usage=usage)


def attempt(*events: Event, ending: Any = "whole", left: float = 10.0) -> Attempt:
    return Attempt(sent=0.0, left=left, ending=ending, events=events)


FRAMES = (
    b'event: message_start\r\ndata: {"type": "message_start", "message": {}}\r\n\r\n'
    b": a comment\n\n"
    b'event: ping\ndata: {"type": "ping"}\n\n'
    b'event: message_stop\ndata: {"type":\ndata: "message_stop"}\n\n'
)


def test_events_are_the_same_wherever_the_network_cut_them() -> None:
    for cut in range(len(FRAMES)):
        reader = EventReader()
        found = [*reader.feed(FRAMES[:cut], 1.0), *reader.feed(FRAMES[cut:], 2.0)]
        assert [each.type for each in found] == ["message_start", "ping", "message_stop"]
        assert found[-1].at == 2.0


def test_a_token_is_a_delta_that_holds_something() -> None:
    ping, empty = event(2.0, "ping"), delta(3.0, text="")
    assert first_token_seconds(attempt(start(), ping, empty, delta(4.0, text="a"))) == 4.0
    assert first_token_seconds(attempt(start(), delta(5.0, partial_json="{"))) == 5.0
    assert first_token_seconds(attempt(start(), delta(6.0, signature="c2U="))) == 6.0
    assert first_token_seconds(attempt(start(), end(7.0))) == 7.0
    assert first_token_seconds(attempt(start(), ping, empty)) is None


def test_silence_is_between_any_two_events_with_sending_and_leaving() -> None:
    heard = attempt(start(1.0), event(4.0, "ping"), delta(7.0, text="a"), left=8.0)
    assert longest_silence(heard, pings=True) == 3.0
    assert longest_silence(heard, pings=False) == 6.0
    assert longest_silence(attempt(left=5.0), pings=True) == 5.0
    assert longest_silence(attempt(start(1.0), left=6.0), pings=True) == 5.0
    assert start_seconds(heard) == 1.0
    assert start_seconds(attempt()) is None


def test_the_end_says_what_holds_and_null_keeps_what_was_said_before() -> None:
    said = attempt(
        start(input_tokens=5, cache_read_input_tokens=90, cache_creation_input_tokens=5),
        end(input_tokens=None, output_tokens=7),
    )
    assert final_usage(said) == Usage(input=5, output=7, creation=5, read=90)
    assert started_usage(said) == Usage(input=5, output=0, creation=5, read=90)


def test_a_server_that_reports_no_cache_has_computed_nobody_knows_what() -> None:
    usage = known_usage(attempt(start(input_tokens=100, output_tokens=0)))
    assert usage == Usage(input=100, output=0, creation=None, read=None)
    assert usage.computed is None
    assert usage.prompt == 100
    assert known_usage(attempt(start())) is None
    assert known_usage(attempt()) is None


def test_start_and_end_are_the_same_or_not() -> None:
    silent = Usage(input=100, output=1, creation=None, read=None)
    zero = Usage(input=100, output=9, creation=0, read=0)
    found = Usage(input=10, output=9, creation=None, read=90)
    assert same_input(silent, zero)
    assert not same_input(silent, found)


def called(name: str, text: str, index: int = 0) -> tuple[Event, ...]:
    half = len(text) // 2
    return (
        opened(index, type="tool_use", name=name),
        delta(2.0, index, partial_json=text[:half]),
        delta(2.0, index, partial_json=text[half:]),
    )


@pytest.mark.parametrize(
    ("name", "text", "reason", "expected"),
    [
        ("Read", '{"file_path": "a"}', "tool_use", (1, 0, 0)),
        ("Read", "", "tool_use", (1, 0, 0)),
        ("Read", "[]", "tool_use", (1, 1, 0)),
        ("Read", '{"file_path": ', "tool_use", (1, 1, 0)),
        ("Read", '{"file_path": ', "max_tokens", (1, 0, 1)),
        ("Nobody", "{}", "tool_use", (1, 1, 0)),
    ],
)
def test_a_call_names_a_tool_and_brings_an_object(
    name: str, text: str, reason: str, expected: tuple[int, int, int]
) -> None:
    made, unparsable, cut = expected
    answer = attempt(start(), *called(name, text), end(reason=reason))
    assert calls(answer, TOOLS) == Calls(made=made, unparsable=unparsable, cut=cut)


def test_only_the_last_call_can_have_been_cut() -> None:
    answer = attempt(
        start(), *called("Read", "{", 0), *called("Bash", "{", 1), end(reason="max_tokens")
    )
    assert calls(answer, TOOLS) == Calls(made=2, unparsable=1, cut=1)


def test_only_whole_and_signed_thoughts_go_back() -> None:
    answer = attempt(
        opened(0, type="thinking", thinking="", signature=""),
        delta(2.0, 0, thinking="so "),
        delta(2.0, 0, thinking="far"),
        delta(2.0, 0, signature="c2U="),
        closed(0),
        opened(1, type="thinking", thinking="unsigned", signature=""),
        closed(1),
        opened(2, type="thinking", thinking="", signature="bm8="),
    )
    thought = {"type": "thinking", "thinking": "so far", "signature": "c2U="}
    assert signed_thoughts(answer) == [thought]


PAGE = """# HELP vllm:prefix_cache_queries_total asked
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1200.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 800.0
vllm:external_prefix_cache_queries_total{engine="0",model_name="m"} 400.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="m"} 64.0
vllm:mm_cache_hits_total{engine="0",model_name="m"} 5.0
"""


def test_the_engine_is_taken_at_its_own_counters() -> None:
    assert read_counters(PAGE) == Counters(asked=1200, had=864)
    two = PAGE + PAGE.replace('engine="0"', 'engine="1"')
    assert read_counters(two) == Counters(asked=2400, had=1728)
    assert read_counters("process_cpu_seconds_total 3\n") is None
    assert Counters(asked=9, had=5).since(Counters(asked=4, had=4)) == Counters(asked=5, had=1)


def test_frames_are_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        list(EventReader().feed(b"data: nothing\n\n", 0.0))
