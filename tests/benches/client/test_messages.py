"""The Messages API is read as it is meant, from whichever server, wherever its bytes were cut."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.benches.asks import Ask, Form
from senryu.benches.client.messages import MESSAGES, MessagesReading
from senryu.benches.client.sample import Failure, Usage


def event(kind: str, **data: Any) -> bytes:
    written = json.dumps({"type": kind, **data}, separators=(",", ":"))
    return f"event: {kind}\ndata: {written}\n\n".encode()


def start(**usage: Any) -> bytes:
    return event("message_start", message={"id": "msg_1", "content": [], "usage": usage})


def opened(index: int, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int = 0, **of: Any) -> bytes:
    return event("content_block_delta", index=index, delta=of)


def text(words: str) -> bytes:
    return delta(type="text_delta", text=words)


def end(reason: str | None = "end_turn", **usage: Any) -> bytes:
    said = {"stop_reason": reason, "stop_sequence": None}
    return event("message_delta", delta=said, usage=usage)


PING, STOP = event("ping"), event("message_stop")
BEGUN = start(input_tokens=5, output_tokens=1) + opened(0, type="text", text="")
ENDED = event("content_block_stop", index=0) + end(output_tokens=4) + STOP

OFFICIAL = (
    start(
        input_tokens=5, cache_creation_input_tokens=2, cache_read_input_tokens=90, output_tokens=1
    ),
    PING,
    opened(0, type="thinking", thinking="", signature=""),
    delta(type="thinking_delta", thinking=""),
    delta(type="thinking_delta", thinking="so"),
    delta(type="thinking_delta", thinking=" far"),
    delta(type="signature_delta", signature="c2U="),
    event("content_block_stop", index=0),
    opened(1, type="text", text=""),
    delta(1, type="text_delta", text='He said: "null"'),
    delta(1, type="text_delta", text=""),
    delta(1, type="text_delta", text="\n\n"),
    event("content_block_stop", index=1),
    opened(2, type="tool_use", id="toolu_1", name="find", input={}),
    delta(2, type="input_json_delta", partial_json=""),
    delta(2, type="input_json_delta", partial_json='{"a":'),
    delta(2, type="input_json_delta", partial_json='"ü"}'),
    event("content_block_stop", index=2),
    end("tool_use", output_tokens=12),
    STOP,
)

# vLLM's own route: numbers that are missing, an index behind what it is the index of, no
# stop_details; and a mark of the other API at the end, as older ones sent it.
VLLM = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"chatcmpl-1","type":'
    b'"message","role":"assistant","content":[],"model":"m","stop_reason":null,"stop_sequence":'
    b'null,"usage":{"output_tokens":0,"input_tokens":7}}}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","content_block":{"type":'
    b'"text","text":""},"index":0}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta"'
    b',"text":"Four"},"index":0}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta"'
    b',"text":" score"},"index":0}\n\n',
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"max_tokens",'
    b'"stop_sequence":null},"usage":{"output_tokens":2,"input_tokens":3,'
    b'"cache_read_input_tokens":4}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b"data: [DONE]\n\n",
)

# All that the format of event streams allows, and spaces in the JSON.
ODD = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 5,\r\n'
    b'data:  "output_tokens": null, "cache_read_input_tokens": null}}}\r\n\r\n'
    b'id: 7\rretry: 10\rdata: {"type": "content_block_delta", "index": 0,\r'
    b'data: "delta": {"type": "text_delta", "text": "a"}}\r\r'
    b"event: content_block_delta\r\n"
    b'data: {"type": "content_block_delta", "index": 0, "delta": {"text": ""}}\r\n\r\n'
    b"event: content_block_delta\r\n"
    b'data: {"type": "content_block_delta", "index": 0, "delta": {"text": "b"}}\r\n\r\n\r\n'
    b"event: nothing\r\n\r\n"
    b'event: something_new\ndata: {"type": "something_new"}\n\n'
    b'event:message_delta\ndata:{"delta": {"stop_reason": "end_turn"},\ndata:"usage": '
    b'{"input_tokens": null, "output_tokens": 2}}\n\n'
    b"event: message_stop\ndata: {}\n\n"
)


def read(*pieces: bytes, form: Form | None = None) -> MessagesReading:
    """Each piece comes a second after the one before it."""
    reading = MessagesReading(form)
    for at, piece in enumerate(pieces, 1):
        reading.feed(piece, float(at))
    return reading


def what(reading: MessagesReading) -> tuple[Any, ...]:
    """All that is read, but the times."""
    pieces = 0 if reading.first_token is None else len(reading.gaps) + 1
    return pieces, reading.usage, reading.stop_reason, reading.failure, reading.over


def failure(*pieces: bytes, form: Form | None = None) -> Failure:
    found = read(*pieces, form=form).failure
    assert found is not None
    return found


def test_an_answer_is_read_with_its_times() -> None:
    reading = read(*OFFICIAL)
    assert reading.first_token == 5.0
    assert reading.last_token == 17.0
    assert list(reading.gaps) == [1.0, 4.0, 2.0, 4.0, 1.0]
    assert reading.usage == Usage(input=5, output=12, cache_read=90, cache_creation=2)
    assert reading.stop_reason == "tool_use"
    assert reading.failure is None
    assert (reading.over, reading.ended) == (True, 20.0)


def test_pieces_of_one_read_have_no_time_between_them() -> None:
    reading = read(BEGUN, text("a") + text("b"), text("c") + text("d") + text("e") + ENDED)
    assert list(reading.gaps) == [0.0, 1.0, 0.0, 0.0]
    assert (reading.first_token, reading.last_token) == (2.0, 3.0)


def test_vllms_own_route_is_understood() -> None:
    reading = read(*VLLM)
    assert what(reading) == (
        2,
        Usage(input=3, output=2, cache_read=4),
        "max_tokens",
        None,
        True,
    )
    assert reading.ended == 7.0


def test_whatever_an_event_stream_may_be_is_understood() -> None:
    assert what(read(ODD)) == (2, Usage(input=5, output=2), "end_turn", None, True)


BROKEN = BEGUN + text("a") + text("b") + b"event: content_block_delta\ndata: {not\n\n" + ENDED
FAILED = BEGUN + text("a") + event("error", error={"type": "overloaded_error", "message": "Full"})


@pytest.mark.parametrize(
    "stream", [b"".join(OFFICIAL), b"".join(VLLM), ODD, BROKEN, FAILED, BEGUN + text("a")]
)
@pytest.mark.parametrize("form", [None, "call", "json"])
def test_one_cut_changes_nothing_wherever_it_is(stream: bytes, form: Form | None) -> None:
    whole = what(read(stream, form=form))
    for cut in range(len(stream)):
        assert what(read(stream[:cut], stream[cut:], form=form)) == whole


@given(
    stream=st.sampled_from([b"".join(OFFICIAL), b"".join(VLLM), ODD, BROKEN]),
    cuts=st.lists(st.integers(0, 2500)),
)
def test_no_number_of_cuts_changes_anything(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert what(read(*pieces)) == what(read(stream))


HELD = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["", "null", '"', '""'])
DELTAS = st.one_of(
    st.builds(lambda said: {"type": "text_delta", "text": said}, HELD),
    st.builds(lambda said: {"type": "thinking_delta", "thinking": said}, HELD),
    st.builds(lambda said: {"type": "input_json_delta", "partial_json": said}, HELD),
    st.builds(lambda said: {"type": "signature_delta", "signature": said}, HELD),
    st.just({"type": "text_delta", "text": None}),
)


@given(deltas=st.lists(DELTAS, max_size=12), spaces=st.booleans(), plain=st.booleans())
def test_the_quick_way_sees_what_the_careful_one_sees(
    deltas: list[dict[str, Any]], spaces: bool, plain: bool
) -> None:
    """A form that matters makes it parse each frame."""
    separators = (", ", ": ") if spaces else (",", ":")
    stream = BEGUN
    for each in deltas:
        data = {"type": "content_block_delta", "index": 0, "delta": each}
        written = json.dumps(data, separators=separators, ensure_ascii=plain)
        stream += f"event: content_block_delta\ndata: {written}\n\n".encode()
    quick, careful = read(stream), read(stream, form="json")
    assert what(quick) == what(careful)


def test_what_holds_nothing_is_no_token() -> None:
    empty = delta(type="text_delta", text="")
    assert read(BEGUN, PING, empty, text("a")).first_token == 4.0
    assert read(BEGUN, PING, empty, ENDED).first_token is None
    assert read(BEGUN, text("a"), empty, text("b")).gaps.tolist() == [2.0]
    assert read(BEGUN, delta(type="text_delta", text=None)).first_token is None


def test_a_signature_is_a_token_only_where_nothing_was_shown_before() -> None:
    """Else a stream would have more pieces than tokens, and its usage would look false."""
    signed = delta(type="signature_delta", signature="c2U=")
    assert read(BEGUN, signed, text("a")).first_token == 2.0
    assert read(BEGUN, text("a"), signed).gaps.tolist() == []


def test_usage_is_what_the_end_says() -> None:
    """Of an answer that did not come to its end nobody knows how long it was to be."""
    assert read(BEGUN, text("a")).usage is None
    assert read(BEGUN, text("a"), end()).usage is None
    assert read(start(), text("a"), end(output_tokens=2)).usage is None
    odd = end(input_tokens="7", output_tokens=2, cache_read_input_tokens=-1)
    assert read(BEGUN, odd).usage == Usage(input=5, output=2)


def test_an_error_in_the_stream_is_told_in_its_own_words() -> None:
    assert failure(FAILED) == Failure(kind="failed", text="overloaded_error: Full")
    assert failure(BEGUN, event("error")).kind == "failed"
    reading = read(FAILED, text("more"))
    assert reading.gaps.tolist() == []
    assert reading.first_token == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        b"data: nothing\n\n",
        b"data: [1]\n\n",
        b"data: [DONE]\n\n",
        b"event: message_stop\ndata: \xff\n\n",
        STOP,
        b"data: " + b"x" * 2**23,
    ],
)
def test_what_is_no_stream_of_this_api_is_garbled(wrong: bytes) -> None:
    assert failure(wrong).kind == "garbled"


def test_members_of_other_types_than_they_should_be_break_nothing() -> None:
    odd: list[Any] = [None, 7, "a", [], {}, True]
    for value in odd:
        read(
            event("message_start", message=value),
            event("message_start", message={"usage": value}),
            event("content_block_start", index=value, content_block=value),
            event("content_block_start", index=value, content_block={"type": "tool_use"}),
            event("content_block_delta", index=value, delta=value),
            event("content_block_delta", index=value, delta={"partial_json": value}),
            event("content_block_delta", delta={"text": value}),
            event("message_delta", delta=value, usage=value),
            b'event: odd\ndata: {"type": ' + json.dumps(value).encode() + b"}\n\n",
            event("error", error=value),
            form="call",
        )


def test_a_stream_that_just_ends_is_cut_off() -> None:
    reading = read(BEGUN, text("a"), end(output_tokens=4))
    reading.close(7.0)
    assert reading.failure is not None
    assert reading.failure.kind == "cut off"
    assert reading.ended == 7.0
    assert reading.usage == Usage(input=5, output=4)


def called(*parts: str, index: int = 0) -> bytes:
    pieces = [delta(index, type="input_json_delta", partial_json=part) for part in parts]
    return opened(index, type="tool_use", name="find", input={}) + b"".join(pieces)


@pytest.mark.parametrize(
    "parts", [("{}",), (), ("",), ('{"a"', ": 1}"), ('{"a": "\\ud83d', '\\ude00"}')]
)
def test_a_call_is_one_whose_input_is_an_object(parts: tuple[str, ...]) -> None:
    reading = read(start(), called(*parts), ENDED, form="call")
    assert (reading.over, reading.failure) == (True, None)


@pytest.mark.parametrize("wrong", [text("No."), called("[]"), called('{"a": '), called("{}{}")])
def test_what_is_no_call_is_malformed_and_keeps_its_times(wrong: bytes) -> None:
    reading = read(start(input_tokens=1), wrong, text("a"), ENDED, form="call")
    assert reading.failure is not None
    assert reading.failure.kind == "malformed"
    assert reading.first_token == 2.0
    assert reading.usage == Usage(input=1, output=4)


def test_each_of_several_calls_has_to_be_one() -> None:
    bad = read(start(), called("{}"), called("{", index=1), ENDED, form="call")
    assert bad.failure is not None
    assert bad.failure.kind == "malformed"


def test_an_answer_in_json_is_one_value() -> None:
    good = read(start(), text(' {"a":'), text(" 1}\n"), ENDED, form="json")
    assert (good.over, good.failure) == (True, None)
    thought = delta(1, type="thinking_delta", thinking="hm")
    assert read(start(), thought, text("7"), ENDED, form="json").failure is None
    assert failure(start(), text("Here: {}"), ENDED, form="json").kind == "malformed"
    assert failure(start(), ENDED, form="json").kind == "malformed"
    cut = failure(start(), text('{"a":'), end("max_tokens") + STOP, form="json")
    assert "max_tokens" in cut.text


def test_an_ask_is_sent_as_it_is(ask: Callable[..., Ask]) -> None:
    sent = json.loads(MESSAGES.body(ask(temperature=0), "m"))
    assert sent == {**ask(temperature=0).body, "model": "m", "stream": True}
    assert isinstance(MESSAGES.reader(ask()), MessagesReading)


def test_a_key_is_shown_where_servers_look_for_it() -> None:
    headers = dict(MESSAGES.headers("k"))
    assert (headers["x-api-key"], headers["authorization"]) == ("k", "Bearer k")
    assert headers["anthropic-version"] == "2023-06-01"
    assert not {"x-api-key", "authorization"} & dict(MESSAGES.headers("")).keys()
