"""The outside judge: the official client talks to the server as it would to the hosted one."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic, types

from senryu.server.engine.scripted import POEM, ScriptedEngine

ASK: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Write a senryu."}],
}


# A tool that nobody declared comes to light in what another one gave back.
SURFACED = [
    *ASK["messages"],
    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]},
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "a",
                "content": [{"type": "tool_reference", "tool_name": "none"}],
            }
        ],
    },
]


@pytest.fixture(scope="session")
def judge(server: Any) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="local") as client:
        yield client


def text(message: Any) -> str:
    return "".join(block.text for block in message.content)


def test_a_plain_call_answers(judge: Anthropic) -> None:
    message = judge.messages.create(**ASK)
    assert text(message) == POEM
    assert (message.type, message.role, message.model) == ("message", "assistant", "scripted")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == len(POEM.split())
    assert message._request_id
    assert message._request_id.startswith("req_")


def test_a_streamed_call_adds_up_to_the_plain_one(judge: Anthropic) -> None:
    plain = judge.messages.create(**ASK)
    with judge.messages.stream(**ASK) as stream:
        said = list(stream.text_stream)
        final = stream.get_final_message()
    assert said == [piece for piece in said if piece]
    assert "".join(said) == text(final) == text(plain)
    assert len(said) == plain.usage.output_tokens
    assert final.usage == plain.usage
    assert final.model_dump(exclude={"id"}) == plain.model_dump(exclude={"id"})


def test_raw_events_come_in_the_contracts_order(judge: Anthropic) -> None:
    with judge.messages.create(**ASK, stream=True) as events:
        kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_the_helpers_events_end_with_the_whole_text(judge: Anthropic) -> None:
    with judge.messages.stream(**ASK) as stream:
        texts = [event for event in stream if event.type == "text"]
    assert texts[-1].snapshot == POEM


@pytest.mark.parametrize(
    ("changed", "reason", "sequence", "said"),
    [
        ({"max_tokens": 3}, "max_tokens", None, "The model is "),
        ({"stop_sequences": ["only"]}, "stop_sequence", "only", "The model is small,\nit says "),
        ({"stop_sequences": ["The"]}, "stop_sequence", "The", ""),
    ],
)
def test_an_answer_ends_alike_streamed_or_not(
    changed: dict[str, Any], reason: str, sequence: str | None, said: str, judge: Anthropic
) -> None:
    plain = judge.messages.create(**(ASK | changed))
    with judge.messages.stream(**(ASK | changed)) as stream:
        final = stream.get_final_message()
    for message in (plain, final):
        assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
        assert text(message) == said
    assert plain.usage == final.usage


def test_a_prewarm_is_a_message_without_content(judge: Anthropic) -> None:
    message = judge.messages.create(**(ASK | {"max_tokens": 0}))
    assert (message.content, message.stop_reason) == ([], "max_tokens")
    assert message.usage.output_tokens == 0


def test_a_count_is_the_usage_of_the_same_request(judge: Anthropic) -> None:
    asked = {"model": ASK["model"], "system": "be brief", "messages": ASK["messages"]}
    count = judge.messages.count_tokens(**asked)
    message = judge.messages.create(**asked, max_tokens=1)
    assert count.input_tokens == message.usage.input_tokens
    assert judge.beta.messages.count_tokens(**asked).input_tokens == count.input_tokens


def test_the_beta_resource_answers_too(judge: Anthropic) -> None:
    assert text(judge.beta.messages.create(**ASK, betas=["made-up-2030-01-01"])) == POEM


def test_models_are_listed_and_found(judge: Anthropic) -> None:
    (model,) = judge.models.list()
    assert (model.id, model.max_input_tokens) == ("scripted", 200_000)
    assert judge.models.retrieve("scripted") == model
    assert judge.models.retrieve("claude-haiku-4-5").id == "scripted"


def test_a_model_with_a_slash_is_found(serve: Any) -> None:
    server = serve(ScriptedEngine(model="org/model"))
    with Anthropic(base_url=server.url, api_key="local") as client:
        assert client.models.retrieve("org/model").id == "org/model"
        assert client.messages.create(**(ASK | {"model": "org/model"})).model == "org/model"


async def test_the_async_client_does_the_same(server: Any) -> None:
    async with AsyncAnthropic(base_url=server.url, api_key="local") as client:
        plain = await client.messages.create(**ASK)
        async with client.messages.stream(**ASK) as stream:
            said = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        assert [model.id async for model in client.models.list()] == ["scripted"]
    assert text(plain) == text(final) == "".join(said) == POEM
    assert plain.usage == final.usage


# --- errors ------------------------------------------------------------------------------------


def test_an_unknown_model_is_the_clients_not_found_error(judge: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        judge.messages.create(**(ASK | {"model": "nope"}))
    assert caught.value.status_code == 404
    assert "model: nope" in str(caught.value)
    assert caught.value.request_id
    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]
    with pytest.raises(anthropic.NotFoundError):
        judge.models.retrieve("nope")


def test_a_bad_request_is_the_clients_bad_request_error(judge: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="at least one message is required"):
        judge.messages.create(**(ASK | {"messages": []}))
    with (
        pytest.raises(anthropic.BadRequestError, match="at least one message is required"),
        judge.messages.stream(**(ASK | {"messages": []})),
    ):
        raise AssertionError("the stream was opened")


def test_sampling_is_refused_for_the_version_that_this_client_speaks(judge: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature: not supported"):
        judge.messages.create(**ASK, extra_body={"temperature": 0.5})
    classic = {"anthropic-version": "2023-06-01"}
    message = judge.messages.create(**ASK, extra_body={"temperature": 0.5}, extra_headers=classic)
    assert text(message) == POEM


def test_a_body_that_is_too_large_is_the_clients_error_for_it(serve: Any) -> None:
    server = serve(body_limit_mb=0.01)
    long = [{"role": "user", "content": "x" * 20_000}]
    with Anthropic(base_url=server.url, api_key="local") as client:
        with pytest.raises(anthropic.RequestTooLargeError) as caught:
            client.messages.create(**(ASK | {"messages": long}))
        assert caught.value.status_code == 413
        assert text(client.messages.create(**ASK)) == POEM


class Counting(ScriptedEngine):
    """Counts how often it is asked for its health, which every valid request does once."""

    asked = 0

    async def healthy(self) -> bool:
        self.asked += 1
        return False


def test_a_wrong_key_is_an_authentication_error(serve: Any) -> None:
    server = serve(api_key="right")
    with Anthropic(base_url=server.url, api_key="wrong") as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            client.messages.create(**ASK)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "x-stainless-retry-count" in caught.value.request.headers
        assert caught.value.request.headers["x-stainless-retry-count"] == "0"
    with Anthropic(base_url=server.url, api_key="right") as client:
        assert text(client.messages.create(**ASK)) == POEM
    with Anthropic(base_url=server.url, auth_token="right", api_key=None) as client:
        assert text(client.messages.create(**ASK)) == POEM


def test_a_broken_engine_is_tried_again_and_then_an_internal_error(serve: Any) -> None:
    """Which also shows that the counting above would notice a retry."""
    engine = Counting()
    server = serve(engine)
    with (
        Anthropic(base_url=server.url, api_key="local", max_retries=1) as client,
        pytest.raises(anthropic.InternalServerError, match="The engine has stopped"),
    ):
        client.messages.create(**ASK)
    assert engine.asked == 2


def test_an_engine_that_breaks_in_a_stream_raises_in_the_clients_loop(
    serve: Any, breaking_engine: Any
) -> None:
    server = serve(breaking_engine(POEM, before=2))
    with (
        Anthropic(base_url=server.url, api_key="local") as client,
        client.messages.stream(**ASK) as stream,
    ):
        pieces = iter(stream.text_stream)
        assert [next(pieces), next(pieces)] == ["The ", "model "]
        with pytest.raises(anthropic.APIStatusError, match="try it again"):
            next(pieces)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"extra_body": {"thread": {"type": "create"}}}, types.ThreadUnsupportedRequestError),
        ({"messages": SURFACED}, types.ToolReferenceUnresolvedError),
    ],
)
def test_an_error_code_is_the_clients_own_class(
    more: dict[str, Any], error: type[Exception], judge: Anthropic
) -> None:
    with pytest.raises(error):
        judge.messages.create(**ASK | more)


def test_a_thread_is_refused_with_the_code_that_the_client_knows(judge: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        judge.messages.create(**ASK, extra_body={"thread": {"type": "create"}})
    body: Any = caught.value.body
    assert body["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


def test_leaving_a_stream_early_lets_the_engine_go(serve: Any) -> None:
    engine = ScriptedEngine(tokens=10_000_000)
    server = serve(engine)
    with Anthropic(base_url=server.url, api_key="local") as client:
        with client.messages.stream(**(ASK | {"max_tokens": 200_000})) as stream:
            assert next(iter(stream.text_stream)) == "The "
        assert client.models.retrieve("scripted")
        for _ in range(2000):
            if not engine.active:
                break
            client.models.retrieve("scripted")
    assert not engine.active
