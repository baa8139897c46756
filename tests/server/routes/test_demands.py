"""What the route itself adds to an answer's form: schemas that the engine refuses, edits, and the
header that names what had no effect."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from senryu.server.engine.scripted import ScriptedEngine

ClientFor = Callable[..., httpx.AsyncClient]
Body = dict[str, Any]

CALL = '<tool_call>\n{"name": "add", "arguments": {"n": %s}}\n</tool_call>'
TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"n": {}}}}


class Picky(ScriptedEngine):
    """Holds no answer to a schema that speaks of patterns."""

    async def refusal(self, schema: Mapping[str, Any]) -> str | None:
        return "the pattern is too much for it" if "pattern" in json.dumps(schema) else None


PATTERN = {"type": "object", "properties": {"n": {"type": "string", "pattern": "a+"}}}


async def test_a_format_that_the_engine_cannot_hold_is_refused_before_anything_is_written(
    client_for: ClientFor, body: Body
) -> None:
    form = {"type": "json_schema", "schema": PATTERN}
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
    tool = TOOL | {"input_schema": PATTERN}
    insists = await client.post("/v1/messages", json=body | {"tools": [tool | {"strict": True}]})
    assert insists.status_code == 400
    assert "the input_schema of add: the pattern is too much" in insists.json()["error"]["message"]
    loosened = await client.post("/v1/messages", json=body | {"tools": [tool]})
    assert loosened.headers["senryu-ignored"] == "tools.input_schema"
    assert loosened.json()["content"][0]["input"] == {"n": 1}


async def test_no_schema_is_tried_for_calls_that_are_not_allowed(
    client_for: ClientFor, body: Body
) -> None:
    tool = TOOL | {"input_schema": PATTERN, "strict": True}
    asked = body | {"tools": [tool], "tool_choice": {"type": "none"}}
    reply = await client_for(Picky()).post("/v1/messages", json=asked)
    assert reply.status_code == 200
    assert "senryu-ignored" not in reply.headers


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
