"""The official client asks for answers of a given shape, through `parse()` and the beta methods,
and for what the model may read besides text."""

import base64
import json
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from pydantic import BaseModel

FORECAST = '{"city": "Paris", "days": [{"sky": "clear", "degrees": 21}]}'
THOUGHT = "Paris, then.\n</think>\n\n"
ASK: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 3000,
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
}
ADAPTIVE = {"type": "adaptive"}
TOOL = {"name": "get_weather", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Day(BaseModel):
    sky: str
    degrees: int


class Forecast(BaseModel):
    city: str
    days: list[Day]


SUNNY = Forecast(city="Paris", days=[Day(sky="clear", degrees=21)])


def test_parse_gives_the_clients_own_type(client_of: Any) -> None:
    message = client_of(FORECAST).messages.parse(**ASK, output_format=Forecast)
    assert message.parsed_output == SUNNY


def test_a_parsed_answer_can_be_streamed(client_of: Any) -> None:
    with client_of(FORECAST).messages.stream(**ASK, output_format=Forecast) as stream:
        assert stream.get_final_message().parsed_output == SUNNY


def test_a_thought_before_a_parsed_answer_is_not_held_to_the_shape(client_of: Any) -> None:
    client = client_of(THOUGHT + FORECAST)
    message = client.messages.parse(**ASK, output_format=Forecast, thinking=ADAPTIVE)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.parsed_output == SUNNY


def test_the_beta_methods_parse_too(client_of: Any) -> None:
    client = client_of(FORECAST)
    assert client.beta.messages.parse(**ASK, output_format=Forecast).parsed_output == SUNNY
    with client.beta.messages.stream(**ASK, output_format=Forecast) as stream:
        assert stream.get_final_message().parsed_output == SUNNY


def test_the_old_name_of_the_format_is_understood(client_of: Any) -> None:
    shape = {"type": "json_schema", "schema": Forecast.model_json_schema()}
    message = client_of(FORECAST).messages.create(
        **ASK,
        extra_body={"output_format": shape},
        extra_headers={"anthropic-beta": "structured-outputs-2025-11-13"},
    )
    assert json.loads(message.content[0].text) == SUNNY.model_dump()


def test_a_schema_that_is_none_is_the_clients_bad_request(client_of: Any) -> None:
    broken = {"format": {"type": "json_schema", "schema": {"type": "objekt"}}}
    with pytest.raises(anthropic.BadRequestError, match="schema"):
        client_of(FORECAST).messages.create(**ASK, output_config=broken)


def test_the_beta_methods_answer_like_the_plain_ones(client_of: Any) -> None:
    ask = ASK | {"tools": [TOOL], "thinking": ADAPTIVE}
    client = client_of(f"{THOUGHT}{CALL}")
    plain = client.messages.create(**ask)
    beta = client.beta.messages.create(
        **ask,
        betas=["interleaved-thinking-2025-05-14", "context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )
    with client.beta.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    for message in (beta, streamed):
        assert [block.type for block in message.content] == ["thinking", "tool_use"]
        assert message.content[0].thinking == plain.content[0].thinking
        assert message.content[1].input == plain.content[1].input
        assert message.usage.model_dump().items() >= plain.usage.model_dump().items()
    assert beta.context_management.applied_edits is not None


def document(source: dict[str, Any]) -> dict[str, Any]:
    return {"type": "document", "title": "The atlas", "context": "An old one.", "source": source}


TEXT = document({"type": "text", "media_type": "text/plain", "data": "Paris lies on the Seine."})
PARTS = document({"type": "content", "content": [{"type": "text", "text": "Page 1: the Seine."}]})
FOUND = {
    "type": "search_result",
    "source": "atlas.example",
    "title": "Rivers",
    "content": [{"type": "text", "text": "The Seine is a river."}],
}


def read_by(serve: Any, engine: Any, **ask: Any) -> Any:
    with Anthropic(base_url=serve(engine).url, api_key="local") as client:
        return client.messages.create(**ASK | ask)


@pytest.mark.parametrize("block", [TEXT, PARTS, FOUND])
def test_documents_are_read_wherever_they_may_stand(
    serve: Any, talking_engine: Any, block: Any
) -> None:
    engine = talking_engine("I see.")
    question = {"type": "text", "text": "Where does Paris lie?"}
    read_by(serve, engine, messages=[{"role": "user", "content": [block, question]}])
    call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [block]}
    history = [
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    read_by(serve, talked := talking_engine("I see."), messages=history)
    assert "Seine" in engine.read[0]
    assert "Seine" in talked.read[0]


def test_an_image_for_a_model_that_does_not_see_is_refused_where_it_stands(client_of: Any) -> None:
    pixel = base64.b64encode(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0"
        b"\0\2\0\1H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82"
    ).decode()
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": pixel},
    }
    with pytest.raises(anthropic.BadRequestError) as caught:
        client_of("").messages.create(**ASK | {"messages": [{"role": "user", "content": [image]}]})
    assert "messages.0.content.0" in caught.value.message
    assert "does not support image input" in caught.value.message


def test_a_count_is_the_usage_whatever_the_request_holds(client_of: Any) -> None:
    asked: dict[str, Any] = {
        "model": ASK["model"],
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "thinking": ADAPTIVE,
        "output_config": {"effort": "low"},
        "messages": [
            {"role": "user", "content": [TEXT, FOUND, {"type": "text", "text": "Well?"}]},
            {"role": "system", "content": "The user is a child."},
        ],
    }
    client = client_of(f"{THOUGHT}{CALL}")
    count = client.messages.count_tokens(**asked).input_tokens
    message = client.messages.create(**asked, max_tokens=2000)
    assert count == message.usage.input_tokens
    assert client.beta.messages.count_tokens(**asked).input_tokens == count
