"""A teacher behind an address: our own server is the judge of what it is sent."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import conversation_from_json
from senryu.distill.recipe import TeacherRecipe
from senryu.distill.teachers.base import Answer, Ask, Teacher
from senryu.distill.teachers.endpoint import TRIES, EndpointTeacher
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.engine.scripted import ScriptedEngine

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = Tool(name="get_weather", description="The weather.", input_schema=SCHEMA)
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
PAST = {
    "system": [{"type": "text", "text": "Be brief."}],
    "tools": [{"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Rome?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Hm."},
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "Sunny"}],
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    ],
}


def recipe(
    api: str = "messages", url: str = "http://teacher.test", **changed: Any
) -> TeacherRecipe:
    given: dict[str, Any] = {"licence": "x", "allows_training": True, "terms": "x"}
    return TeacherRecipe(**given | {"api": api, "url": url, "model": "scripted"} | changed)


def ask(told: Any = None, *, sampling: Sampling | None = None, **demands: Any) -> Ask:
    plain = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}
    return Ask(
        key="a-0",
        conversation=conversation_from_json(told or plain),
        sampling=sampling or Sampling(max_tokens=50),
        demands=Demands(**demands),
        seed=17,
    )


class Endpoint:
    """Answers with these responses, one after the other, the last one again and again."""

    def __init__(self, *responses: httpx.Response | Exception | dict[str, Any]) -> None:
        self._responses = list(responses)
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(json.loads(request.content))
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        if isinstance(response, Exception):
            raise response
        if isinstance(response, dict):
            return httpx.Response(200, json=response)
        return httpx.Response(
            response.status_code, headers=response.headers, content=response.content
        )

    def teacher(self, *, key: str | None = None, **changed: Any) -> EndpointTeacher:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        transport = httpx.MockTransport(self.answer)
        return EndpointTeacher(recipe(**changed), key=key, transport=transport, sleep=sleep)


async def one(teacher: EndpointTeacher, asked: Ask | None = None) -> Answer:
    try:
        (answer,) = [each async for each in teacher.answers([asked or ask()])]
    finally:
        await teacher.close()
    return answer


def message(*content: dict[str, Any], reason: str = "end_turn") -> dict[str, Any]:
    return {"type": "message", "content": list(content), "stop_reason": reason}


YES = message({"type": "text", "text": "Yes."})
CHAT = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}


async def test_our_own_server_can_be_the_teacher(serve: Callable[..., Any]) -> None:
    server = serve(ScriptedEngine("Yes, of course."), api_key="secret")
    teacher: Teacher = EndpointTeacher(recipe(url=server.url), key="secret")
    answers = [each async for each in teacher.answers(ask() for _ in range(5))]
    await teacher.close()
    assert [each.message.text for each in answers] == ["Yes, of course."] * 5
    assert {each.stop_reason for each in answers} == {StopReason.END_TURN}
    assert {(each.token_ids, each.prompt_ids, each.top) for each in answers} == {((), (), None)}
    assert not teacher.card.distributions


async def test_our_own_server_takes_tools_results_and_thoughts(serve: Callable[..., Any]) -> None:
    """The requests are such as a server reads strictly. A thought comes back with the history that
    it stands in; behind a call that came without one, none is asked for."""
    server = serve(ScriptedEngine(f"It is easy.</think>\n\n{CALL}"), strict=True)
    begun = {"tools": PAST["tools"], "messages": PAST["messages"][:1]}
    asked = ask(begun, callable_tools=(TOOL,), thinking=Thinking())
    answer = await one(EndpointTeacher(recipe(url=f"{server.url}/v1")), asked)
    thought, call = answer.message.content
    assert isinstance(thought, ThinkingBlock)
    assert thought.thinking == "It is easy."
    assert isinstance(call, ToolUseBlock)
    assert (call.name, call.input) == ("get_weather", {"city": "Rome"})
    assert answer.stop_reason is StopReason.TOOL_USE
    result = ToolResultBlock(tool_use_id=call.id, content=(TextBlock(text="Sunny"),))
    told = (answer.message, Message(role="user", content=(result,)))
    gone_on = replace(asked.conversation, messages=(*asked.conversation.messages, *told))
    again = replace(asked, conversation=gone_on)
    answer = await one(EndpointTeacher(recipe(url=server.url)), again)
    assert isinstance(answer.message.content[0], ThinkingBlock)
    answer = await one(
        EndpointTeacher(recipe(url=server.url)),
        ask(PAST, callable_tools=(TOOL,), thinking=Thinking()),
    )
    assert not any(isinstance(block, ThinkingBlock) for block in answer.message.content)


async def test_our_own_server_is_made_to_call(serve: Callable[..., Any]) -> None:
    server = serve(ScriptedEngine(CALL), strict=True)
    choice = ToolChoice(mode="tool", name="get_weather", parallel=False)
    asked = ask(PAST, callable_tools=(TOOL,), tool_choice=choice)
    answer = await one(EndpointTeacher(recipe(url=server.url)), asked)
    assert answer.stop_reason is StopReason.TOOL_USE


@pytest.mark.parametrize(
    ("base", "api", "address"),
    [
        ("http://t.test", "messages", "http://t.test/v1/messages"),
        ("http://t.test/v1/", "messages", "http://t.test/v1/messages"),
        ("http://t.test/v1/messages", "messages", "http://t.test/v1/messages"),
        ("http://t.test/api", "openai", "http://t.test/api/v1/chat/completions"),
        ("http://t.test/api/v1", "openai", "http://t.test/api/v1/chat/completions"),
    ],
)
async def test_an_address_is_understood_as_people_give_it(
    base: str, api: str, address: str
) -> None:
    endpoint = Endpoint(YES if api == "messages" else CHAT)
    await one(endpoint.teacher(api=api, url=base))
    assert str(endpoint.requests[0].url) == address


async def test_what_is_the_default_everywhere_is_not_sent() -> None:
    endpoint = Endpoint(YES)
    await one(endpoint.teacher(key="k"))
    assert endpoint.bodies == [
        {
            "model": "scripted",
            "max_tokens": 50,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        }
    ]
    assert endpoint.requests[0].headers["x-api-key"] == "k"
    await one(endpoint.teacher(), ask(sampling=Sampling(max_tokens=9, temperature=0.5, top_p=0.9)))
    assert (endpoint.bodies[1]["temperature"], endpoint.bodies[1]["top_p"]) == (0.5, 0.9)


async def test_chat_completions_are_asked_in_their_own_form() -> None:
    endpoint = Endpoint(
        {
            "choices": [
                {
                    "finish_reason": "tool_calls",
                    "message": {
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "c1",
                                "type": "function",
                                "function": {
                                    "name": "get_weather",
                                    "arguments": '{"city": "Rome"}',
                                },
                            }
                        ],
                    },
                }
            ]
        }
    )
    choice = ToolChoice(mode="any", parallel=False)
    asked = ask(PAST, callable_tools=(TOOL,), tool_choice=choice)
    answer = await one(endpoint.teacher(api="openai", key="k"), asked)
    assert answer.message.content == (
        ToolUseBlock(id="c1", name="get_weather", input={"city": "Rome"}),
    )
    assert answer.stop_reason is StopReason.TOOL_USE
    (body,) = endpoint.bodies
    assert endpoint.requests[0].headers["authorization"] == "Bearer k"
    function = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    called = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rome?"},
        {
            "role": "assistant",
            "content": "Hm.",
            "tool_calls": [{"id": "t1", "type": "function", "function": called}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "Sunny"},
        {"role": "user", "content": "Well?"},
    ]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (ToolChoice(), "auto"),
        (ToolChoice(mode="none"), "none"),
        (ToolChoice(mode="tool", name="get_weather"), {"name": "get_weather"}),
    ],
)
async def test_chat_completions_are_told_which_calls_are_wanted(
    choice: ToolChoice, told: Any
) -> None:
    endpoint = Endpoint(CHAT)
    await one(endpoint.teacher(api="openai"), ask(callable_tools=(TOOL,), tool_choice=choice))
    wanted = endpoint.bodies[0]["tool_choice"]
    assert (wanted["function"] if isinstance(wanted, dict) else wanted) == told


@pytest.mark.parametrize(
    ("api", "told", "reason"),
    [
        ("messages", "max_tokens", StopReason.MAX_TOKENS),
        ("messages", "refusal", StopReason.MAX_TOKENS),
        ("messages", None, StopReason.MAX_TOKENS),
        ("openai", "length", StopReason.MAX_TOKENS),
        ("openai", "stop", StopReason.END_TURN),
        ("openai", "content_filter", StopReason.MAX_TOKENS),
    ],
)
async def test_only_an_end_is_taken_for_an_end(api: str, told: Any, reason: StopReason) -> None:
    said = {"choices": [{"message": {"content": "Y"}, "finish_reason": told}]}
    if api == "messages":
        said = YES | {"stop_reason": told}
    answer = await one(Endpoint(said).teacher(api=api))
    assert answer.stop_reason is reason


async def test_what_a_model_wrote_wrong_fits_no_schema() -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Ro'}
    calls = [{"id": "c", "type": "function", "function": function}]
    said = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    answer = await one(Endpoint(said).teacher(api="openai"))
    (call,) = answer.message.content
    assert isinstance(call, ToolUseBlock)
    assert call.input == {"": '{"city": "Ro'}


BUSY = httpx.Response(429, json={"error": {"message": "Slow down"}})


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        httpx.Response(503, text="<html>"),
        httpx.Response(529),
        httpx.ReadTimeout("timed out"),
        httpx.ConnectError("refused"),
    ],
)
async def test_what_may_pass_is_tried_again_after_a_while(failure: Any) -> None:
    endpoint = Endpoint(failure, failure, YES)
    assert (await one(endpoint.teacher())).message.text == "Yes."
    assert len(endpoint.waits) == 2
    assert 0 < endpoint.waits[0] <= 1
    assert endpoint.waits[1] <= 2


@pytest.mark.parametrize(("asked", "waits"), [("7", 7.0), ("0.25", 0.25), ("86400", 60.0)])
async def test_the_endpoint_may_say_how_long(asked: str, waits: float) -> None:
    """Up to a minute: whoever asks for more is asked again."""
    endpoint = Endpoint(httpx.Response(429, headers={"retry-after": asked}), YES)
    await one(endpoint.teacher())
    assert endpoint.waits == [waits]


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2026 07:28:00 GMT", "nan", "", "0", "-3"])
async def test_what_is_no_time_to_wait_is_passed_over(asked: str) -> None:
    endpoint = Endpoint(httpx.Response(429, headers={"retry-after": asked}), YES)
    await one(endpoint.teacher())
    assert 0 < endpoint.waits[0] <= 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (BUSY, "status 429, 'Slow down'"),
        (httpx.Response(502, text="<html>"), "status 502"),
        (httpx.ReadTimeout("timed out"), "ReadTimeout: timed out"),
    ],
)
async def test_after_some_tries_it_ends_with_one_sentence(failure: Any, said: str) -> None:
    endpoint = Endpoint(failure)
    with pytest.raises(DistillError) as caught:
        await one(endpoint.teacher())
    assert str(caught.value) == (
        f"http://teacher.test/v1/messages failed {TRIES} times in a row ({said}): what was "
        "answered so far is kept, so run the same command again later, or with fewer "
        "teacher.streams."
    )
    assert len(endpoint.bodies) == TRIES
    assert len(endpoint.waits) == TRIES - 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "its key is not accepted: set the variable that teacher.key_variable names."),
        (403, "it does not allow this: check the key and what it may do."),
        (404, "it has no such address or model: check teacher.url and teacher.model."),
    ],
)
async def test_what_will_not_pass_ends_at_once(status: int, advice: str) -> None:
    refusal = httpx.Response(status, json={"error": {"message": "No,\n no"}})
    endpoint = Endpoint(refusal)
    with pytest.raises(DistillError) as caught:
        await one(endpoint.teacher(key="secret key"))
    assert str(caught.value) == (
        f"http://teacher.test/v1/messages refuses with status {status}, 'No, no'; {advice}"
    )
    assert len(endpoint.bodies) == 1
    assert "secret" not in str(caught.value)


async def test_a_first_request_that_is_refused_ends_it_a_later_one_is_left_out() -> None:
    """Either all are wrong, and that is seen at the first; or one prompt is."""
    refusal = httpx.Response(400, json={"error": {"message": "max_tokens: too many"}})
    with pytest.raises(DistillError, match=r"refuses the first request with status 400, 'max_tok"):
        await one(Endpoint(refusal).teacher())
    teacher = Endpoint(YES, refusal).teacher(streams=1)
    answers = [each async for each in teacher.answers([ask(), ask()])]
    assert [each.message.text for each in answers] == ["Yes.", ""]
    await teacher.close()


@pytest.mark.parametrize("said", [{}, {"content": "Yes"}, {"content": [{}]}])
async def test_an_answer_in_another_form_is_told(said: Any) -> None:
    with pytest.raises(DistillError, match=r"does not answer in the form of the Messages API"):
        await one(Endpoint(said).teacher())
    with pytest.raises(DistillError, match=r"in the form of the chat completions API"):
        await one(Endpoint(said).teacher(api="openai"))


async def test_it_is_asked_for_a_users_turn_in_words() -> None:
    endpoint = Endpoint(message({"type": "text", "text": ' "What is a senryu?"\n'}))
    teacher = endpoint.teacher()
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=96), "seed": 1}
    assert await teacher.user_turn(None, system="poems", **how) == "What is a senryu?"
    assert "poems" in endpoint.bodies[0]["messages"][0]["content"][0]["text"]
    answered = Message(role="assistant", content=(TextBlock(text="A poem."),))
    before = Conversation(messages=(*ask().conversation.messages, answered))
    assert await teacher.user_turn(before, system="", **how) == "What is a senryu?"
    assert [each["role"] for each in endpoint.bodies[1]["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    await teacher.close()


@pytest.mark.parametrize("said", [message(), YES | {"stop_reason": "max_tokens"}])
async def test_a_users_turn_that_is_empty_or_cut_is_none(said: Any) -> None:
    teacher = Endpoint(said).teacher()
    made = await teacher.user_turn(None, system="", sampling=Sampling(max_tokens=9), seed=1)
    assert made is None
    await teacher.close()
