"""What the route itself adds to an answer's form: schemas that the engine refuses, edits, and the
header that names what had no effect."""

import json
from collections.abc import Callable
from typing import Any

import httpx

from senryu.server.engine.base import EngineError
from senryu.server.engine.scripted import ScriptedEngine

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]

CALL = '<tool_call>\n{"name": "add", "arguments": {"n": %s}}\n</tool_call>'


def tool(name: str, schema: Body) -> Body:
    return {"name": name, "input_schema": schema}


def schema_format(schema: Body) -> Body:
    return {"type": "json_schema", "schema": schema}


TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"n": {}}}}


class Picky(ScriptedEngine):
    """Holds no answer to a form that speaks of patterns, nor to more than `most` tools at once."""

    def __init__(self, *script: str, most: int = 9) -> None:
        super().__init__(*script)
        self.asked: list[str] = []
        self._most = most

    async def refusal(self, grammar: str) -> str | None:
        self.asked.append(grammar)
        if "pattern" in grammar:
            return "the pattern is too much for it"
        return "it is too much" if grammar.count('"integer"') > self._most else None


class Unknowing(ScriptedEngine):
    """Cannot tell what it can hold an answer to."""

    async def refusal(self, grammar: str) -> str | None:
        raise EngineError("It could not be tried; try it again")


PATTERN = {"type": "object", "properties": {"n": {"type": "string", "pattern": "^a+$"}}}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}}
HUGE = {"type": "object", "properties": {"n": {"enum": ["x" * 100_000]}}}
LONG = {"type": "object", "properties": {"n": {"type": "string", "minLength": 1}}}


async def test_a_format_that_the_engine_cannot_hold_is_refused_before_anything_is_written(
    client_for: ClientFor, body: Body
) -> None:
    form = schema_format(PATTERN)
    client = client_for(Picky())
    for stream in (False, True):
        reply = await client.post(
            "/v1/messages", json=body | {"output_config": {"format": form}, "stream": stream}
        )
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == (
            "output_config.format.schema: the pattern is too much for it"
        )


async def test_a_tool_that_insists_on_its_schema_is_refused_and_another_is_loosened_and_named(
    client_for: ClientFor, body: Body
) -> None:
    client = client_for(Picky(CALL % 1))
    heavy = tool("add", PATTERN)
    insists = await client.post("/v1/messages", json=body | {"tools": [heavy | {"strict": True}]})
    assert insists.status_code == 400
    assert "the input_schema of add: the pattern is too much" in insists.json()["error"]["message"]
    loosened = await client.post("/v1/messages", json=body | {"tools": [heavy]})
    assert loosened.headers["senryu-ignored"] == "tools.input_schema"
    assert loosened.json()["content"][0]["input"] == {"n": 1}


async def test_what_can_be_held_is_asked_about_once(client_for: ClientFor, body: Body) -> None:
    engine = Picky(CALL % 1)
    tools = [tool("add", NUMBER), tool("sub", NUMBER)]
    asked = body | {"tools": tools, "output_config": {"format": schema_format(NUMBER)}}
    reply = await client_for(engine).post("/v1/messages", json=asked)
    assert reply.status_code == 200
    assert "senryu-ignored" not in reply.headers
    assert len(engine.asked) == 1


async def test_only_the_tool_that_is_too_much_is_loosened(
    client_for: ClientFor, body: Body
) -> None:
    engine = Picky(CALL % 1)
    tools = [tool("add", NUMBER), tool("sub", PATTERN)]
    reply = await client_for(engine).post("/v1/messages", json=body | {"tools": tools})
    assert reply.headers["senryu-ignored"] == "tools.input_schema"
    *_, last = engine.asked
    assert '"integer"' in last
    assert "pattern" not in last


async def test_tools_that_are_too_much_only_together_are_loosened_unless_they_insist(
    client_for: ClientFor, body: Body
) -> None:
    engine = Picky(CALL % 1, most=1)
    tools = [tool("add", NUMBER) | {"strict": True}, tool("sub", NUMBER), tool("mul", NUMBER)]
    reply = await client_for(engine).post("/v1/messages", json=body | {"tools": tools})
    assert reply.headers["senryu-ignored"] == "tools.input_schema"
    assert engine.asked[-1].count('"integer"') == 1
    insisting = [each | {"strict": True} for each in tools]
    reply = await client_for(engine).post("/v1/messages", json=body | {"tools": insisting})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == (
        "tools: no answer can be held to all of these schemas: it is too much"
    )


async def test_only_the_tool_that_is_to_be_called_has_to_be_held(
    client_for: ClientFor, body: Body
) -> None:
    tools = [tool("add", NUMBER), tool("sub", PATTERN) | {"strict": True}]
    chosen = body | {"tools": tools, "tool_choice": {"type": "tool", "name": "add"}}
    reply = await client_for(Picky(CALL % 1)).post("/v1/messages", json=chosen)
    assert reply.status_code == 200
    assert "senryu-ignored" not in reply.headers


async def test_no_schema_is_tried_for_calls_that_are_not_allowed(
    client_for: ClientFor, body: Body
) -> None:
    engine = Picky()
    for schema in (PATTERN, HUGE):
        tools = [tool("add", schema) | {"strict": True}]
        asked = body | {"tools": tools, "tool_choice": {"type": "none"}}
        reply = await client_for(engine).post("/v1/messages", json=asked)
        assert reply.status_code == 200
        assert "senryu-ignored" not in reply.headers
    assert not engine.asked


async def test_a_schema_beyond_measure_does_not_reach_the_engine(
    client_for: ClientFor, body: Body
) -> None:
    engine = Picky(CALL % 1)
    client = client_for(engine)
    asked = body | {"tools": [tool("add", HUGE)]}
    reply = await client.post("/v1/messages", json=asked)
    assert reply.headers["senryu-ignored"] == "tools.input_schema"
    assert all(len(each) < 1_000 for each in engine.asked)
    asked = body | {"tools": [tool("add", HUGE) | {"strict": True}]}
    reply = await client.post("/v1/messages", json=asked)
    assert reply.status_code == 400
    assert "the input_schema of add: it is longer than" in reply.json()["error"]["message"]
    asked = body | {"output_config": {"format": schema_format(HUGE)}}
    reply = await client.post("/v1/messages", json=asked)
    assert reply.json()["error"]["message"].startswith("output_config.format.schema: it is longer")


async def test_what_an_answer_is_not_held_to_is_named(client_for: ClientFor, body: Body) -> None:
    client = client_for(ScriptedEngine())
    tools = body | {"tools": [tool("add", LONG)]}
    reply = await client.post("/v1/messages", json=tools)
    assert reply.headers["senryu-ignored"] == "tools.input_schema"
    form = body | {"output_config": {"format": schema_format(LONG)}}
    reply = await client.post("/v1/messages", json=form)
    assert reply.headers["senryu-ignored"] == "output_config.format"


async def test_where_nothing_can_be_tried_the_server_is_at_fault_and_not_the_schema(
    client_for: ClientFor, body: Body
) -> None:
    asked = body | {"tools": [tool("add", NUMBER) | {"strict": True}]}
    reply = await client_for(Unknowing()).post("/v1/messages", json=asked)
    assert reply.status_code == 500
    assert reply.json()["error"]["message"] == "It could not be tried; try it again"


async def test_numbers_of_any_length_reach_the_client(client_for: ClientFor, body: Body) -> None:
    digits = "9" * 60
    client = client_for(ScriptedEngine(CALL % digits))
    reply = await client.post("/v1/messages", json=body | {"tools": [TOOL]})
    assert reply.status_code == 200
    assert json.loads(reply.content)["content"][0]["input"] == {"n": int(digits)}


async def test_old_results_are_left_out_of_the_prompt_and_reported(
    client: httpx.AsyncClient, body: Body
) -> None:
    messages: list[Body] = [{"role": "user", "content": "Add."}]
    for number in range(6):
        call = {"type": "tool_use", "id": f"t{number}", "name": "add", "input": {"n": number}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "long " * 200}
        messages += [
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
    edit = {
        "type": "clear_tool_uses_20250919",
        "trigger": {"type": "tool_uses", "value": 4},
        "keep": {"type": "tool_uses", "value": 2},
    }
    asked = {"model": "scripted", "messages": messages, "tools": [TOOL]}
    whole = await client.post("/v1/messages/count_tokens", json=asked)
    asked["context_management"] = {"edits": [edit]}
    count = (await client.post("/v1/messages/count_tokens", json=asked)).json()
    answer = (await client.post("/v1/messages", json=asked | {"max_tokens": 9})).json()
    (applied,) = answer["context_management"]["applied_edits"]
    assert applied["cleared_tool_uses"] == 4
    original = count["context_management"]["original_input_tokens"]
    assert original == whole.json()["input_tokens"]
    assert count["input_tokens"] == original - applied["cleared_input_tokens"]
    assert answer["usage"]["input_tokens"] == count["input_tokens"] < original / 2


async def test_what_was_accepted_without_effect_is_named_streamed_or_not(
    client: httpx.AsyncClient, body: Body
) -> None:
    plain = await client.post("/v1/messages", json=body)
    assert "senryu-ignored" not in plain.headers
    for stream in (False, True):
        reply = await client.post(
            "/v1/messages", json=body | {"inference_geo": "eu", "stream": stream}
        )
        assert reply.headers["senryu-ignored"] == "inference_geo"
