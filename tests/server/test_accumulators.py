"""A stream adds up, in the official client's own accumulator, to the answer sent at once."""

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import orjson
from anthropic.lib.streaming._messages import accumulate_event
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.conversation.messages import Demands, Sampling, Thinking, Tool
from senryu.server.conversation.signing import Signer
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.blocks import BlockEvent, fold
from senryu.server.turn.prompt import Prompt
from senryu.server.turn.turn import Turn, run_turn
from senryu.server.wire.responses import message_body
from senryu.server.wire.sse import frame

DEMANDS = Demands(
    callable_tools=(Tool(name="ls", input_schema={"type": "object"}),), thinking=Thinking()
)

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
calls = st.dictionaries(st.text(max_size=3), values, max_size=3).map(
    lambda call: (
        '<tool_call>\n{"name": "ls", "arguments": '
        + orjson.dumps(call).decode()
        + "}\n</tool_call>"
    )
)
broken = st.text(st.sampled_from('{}[]:,"\\ud 12.-trf\n\x01'), max_size=20).map(
    '<tool_call>{"name": "ls", "arguments": {"a": '.__add__
)
answers = st.lists(
    st.sampled_from(["Hm. ", "\n", "</think>\n\n", "<tool_call>"]) | calls | broken, max_size=4
).map("".join)


@st.composite
def spoken(draw: st.DrawFn) -> list[str]:
    """An answer in tokens."""
    text = draw(answers)
    bounds = [0, *sorted(draw(st.lists(st.integers(0, len(text)), max_size=20))), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


@given(spoken(), st.integers(1, 25))
async def test_any_answer_adds_up_to_itself(tokens: list[str], max_tokens: int) -> None:
    """Cut by `max_tokens` at any place, and with inputs that are no JSON: nothing raises."""
    turn = Turn(
        message_id="msg_1",
        model="m",
        prompt=Prompt(token_ids=[1, 2, 3]),
        sampling=Sampling(max_tokens=max_tokens),
        demands=DEMANDS,
        signer=Signer(b"key"),
    )
    events = [event async for event in run_turn(turn, ScriptedEngine(tokens))]

    async def again() -> AsyncIterator[BlockEvent]:
        for event in events:
            yield event

    message = None
    buffers: dict[int, bytes] = {}
    for line in b"".join(map(frame, events)).split(b"\n"):
        if line.startswith(b"data: ") and b'"message_stop"' not in line:
            message = accumulate_event(
                event=orjson.loads(line.removeprefix(b"data: ")),
                current_snapshot=message,
                json_bufs=buffers,
            )
    assert message is not None
    whole = message_body(await fold(again()))
    added_up = message.to_dict()
    content = [
        {name: value for name, value in block.items() if name != "parsed_output"}
        for block in added_up["content"]  # type: ignore[attr-defined]
    ]
    assert content == orjson.loads(orjson.dumps(whole["content"]))
    for name in ("stop_reason", "stop_sequence", "usage"):
        assert added_up[name] == whole[name]
