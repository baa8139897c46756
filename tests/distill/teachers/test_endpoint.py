"""A teacher behind an address: our own server is the judge of what it is sent."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import conversation_from_json
from senryu.distill.recipe import TeacherRecipe
from senryu.distill.teachers.base import Answer, Ask, Teacher
from senryu.distill.teachers.endpoint import (
    BUSY_TRIES,
    LEAST_REFUSALS,
    ODD_TRIES,
    TRIES,
    EndpointTeacher,
)
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    NoteBlock,
    Sampling,
    StopReason,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolDefinitionBlock,
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


async def many(teacher: EndpointTeacher, count: int) -> list[Answer]:
    try:
        return [each async for each in teacher.answers(ask() for _ in range(count))]
    finally:
        await teacher.close()


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


async def test_limits_that_last_for_minutes_are_waited_for() -> None:
    """Longer in all than for a connection that fails."""
    endpoint = Endpoint(*[BUSY] * (BUSY_TRIES - 1), YES)
    assert (await one(endpoint.teacher())).message.text == "Yes."
    assert 120 < sum(endpoint.waits) < 600


@pytest.mark.parametrize(("asked", "waits"), [("7", 7.0), ("0.25", 0.25), ("86400", 600.0)])
async def test_the_endpoint_may_say_how_long(asked: str, waits: float) -> None:
    """Up to some minutes: whoever asks for more is asked again."""
    endpoint = Endpoint(httpx.Response(429, headers={"retry-after": asked}), YES)
    await one(endpoint.teacher())
    assert endpoint.waits == [waits]


async def test_the_endpoint_may_say_until_when() -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    endpoint = Endpoint(httpx.Response(503, headers={"retry-after": until}), YES)
    await one(endpoint.teacher())
    assert 80 < endpoint.waits[0] <= 90


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2015 07:28:00 GMT", "nan", "", "0", "-3", "soon"])
async def test_what_is_no_time_to_wait_is_passed_over(asked: str) -> None:
    endpoint = Endpoint(httpx.Response(429, headers={"retry-after": asked}), YES)
    await one(endpoint.teacher())
    assert 0 < endpoint.waits[0] <= 1


@pytest.mark.parametrize(
    ("failure", "streams", "tries", "said"),
    [
        (BUSY, 2, BUSY_TRIES, "status 429, 'Slow down'"),
        (BUSY, 1, BUSY_TRIES, "status 429, 'Slow down'"),
        (httpx.Response(502, text="<html>"), 2, TRIES, "status 502"),
        (httpx.Response(520, content=b"\xff{"), 2, TRIES, "status 520"),
        (httpx.ReadTimeout("timed out"), 2, TRIES, "ReadTimeout: timed out"),
    ],
)
async def test_after_some_tries_it_ends_with_one_sentence(
    failure: Any, streams: int, tries: int, said: str
) -> None:
    """Which advises nothing that cannot be changed, or would not help."""
    endpoint = Endpoint(failure)
    with pytest.raises(DistillError) as caught:
        await one(endpoint.teacher(streams=streams))
    fewer = ", or with fewer teacher.streams" * (failure is BUSY and streams > 1)
    assert str(caught.value) == (
        f"http://teacher.test/v1/messages failed {tries} times in a row ({said}): what was "
        f"answered so far is kept, so run the same command again later{fewer}."
    )
    assert len(endpoint.bodies) == tries
    assert len(endpoint.waits) == tries - 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "its key is not accepted: set the variable that teacher.key_variable names."),
        (403, "it does not allow this: check the key and what it may do."),
        (
            402,
            "it wants to be paid first: what was answered so far is kept, so run again once it is.",
        ),
        (
            404,
            "it has no such address or model: correct teacher.url; another teacher.model wants "
            "another --out.",
        ),
        (307, "what was asked for has moved: give its new address as teacher.url."),
    ],
)
async def test_what_will_not_pass_ends_at_once(status: int, advice: str) -> None:
    refusal = httpx.Response(status, json={"error": {"message": "No,\n no"}})
    endpoint = Endpoint(refusal)
    with pytest.raises(DistillError) as caught:
        await one(endpoint.teacher(key="secret-key"))
    assert str(caught.value) == (
        f"http://teacher.test/v1/messages refuses with status {status}, 'No, no'; {advice}"
    )
    assert len(endpoint.bodies) == 1
    assert "secret" not in str(caught.value)


TOO_LONG = httpx.Response(400, json={"error": {"message": "prompt is too long: 9031 tokens"}})


@pytest.mark.parametrize("streams", [1, 64])
async def test_a_prompt_that_is_refused_is_left_out_though_it_comes_back_first(
    streams: int,
) -> None:
    """A refusal is there long before the first answer; the reason comes with it."""
    endpoint = Endpoint(*[TOO_LONG] * (LEAST_REFUSALS - 1), YES)
    answers = await many(endpoint.teacher(streams=streams), 100)
    refused = [each for each in answers if each.fault]
    assert len(refused) == LEAST_REFUSALS - 1
    assert len(endpoint.bodies) == 100  # none was asked twice
    assert {each.fault for each in refused} == {
        "refused with status 400, 'prompt is too long: 9031 tokens'"
    }
    assert all(each.message.content == () for each in refused)


@pytest.mark.parametrize(("streams", "first"), [(1, LEAST_REFUSALS), (64, 64)])
async def test_where_nothing_but_refusals_comes_it_ends_with_one_sentence(
    streams: int, first: int
) -> None:
    endpoint = Endpoint(TOO_LONG)
    with pytest.raises(DistillError) as caught:
        await many(endpoint.teacher(streams=streams), 1000)
    assert str(caught.value) == (
        f"http://teacher.test/v1/messages answers none of the first {first} requests (refused "
        "with status 400, 'prompt is too long: 9031 tokens'): correct teacher or collect in the "
        "recipe, and give another --out."
    )


@pytest.mark.parametrize("status", [400, 403, 413, 422, 451])
async def test_once_something_was_answered_any_number_may_be_refused(status: int) -> None:
    answers = await many(Endpoint(YES, httpx.Response(status)).teacher(streams=1), 50)
    assert [each.fault for each in answers] == ["", *[f"refused with status {status}"] * 49]


async def test_money_that_ran_out_is_no_fault_of_the_prompts() -> None:
    """Or all that are left would be left out."""
    told = "Your credit balance is too low to access the API."
    spent = httpx.Response(400, json={"error": {"message": told}})
    with pytest.raises(DistillError, match="it wants to be paid first"):
        await many(Endpoint(YES, spent).teacher(streams=1), 50)


ODD = [
    {},
    {"content": "Yes"},
    {"content": [{}]},
    {"content": [{"type": "text", "text": None}], "stop_reason": "end_turn"},
    {"choices": []},
    {"choices": [{"message": None, "finish_reason": "stop"}]},
    {"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]},
    httpx.Response(200, text="<html>Log in</html>"),
    httpx.Response(200, content=b'{"content": "\xff"}'),
    httpx.Response(200, content=b"[" * 100_000),
]


@pytest.mark.parametrize("said", ODD)
@pytest.mark.parametrize("api", ["messages", "openai"])
async def test_an_answer_in_another_form_is_asked_for_again(said: Any, api: str) -> None:
    """And left out when it comes again; where no other ever comes, one sentence."""
    yes = YES if api == "messages" else CHAT
    endpoint = Endpoint(said, yes)
    assert (await one(endpoint.teacher(api=api))).message.text == "Yes."
    answers = await many(Endpoint(yes, said).teacher(api=api, streams=1), 20)
    assert [each.message.text for each in answers] == ["Yes."] + [""] * 19
    assert {each.fault.partition(",")[0] for each in answers[1:]} == {"an answer of another form"}
    endpoint = Endpoint(said)
    name = "Messages API" if api == "messages" else "chat completions API"
    with pytest.raises(DistillError, match=f"does not answer in the form of the {name} ") as caught:
        await many(endpoint.teacher(api=api, streams=1), 20)
    assert "\n" not in str(caught.value)
    assert len(endpoint.bodies) == ODD_TRIES * LEAST_REFUSALS


async def test_bytes_that_cannot_be_unpacked_are_an_answer_of_another_form() -> None:
    broken = httpx.DecodingError("incorrect header check")
    assert (await one(Endpoint(broken, YES).teacher())).message.text == "Yes."


@pytest.mark.parametrize(
    "url", ["http://teacher.test:port", "teacher.test/v1", "ftp://x.test", "http://"]
)
def test_an_address_that_is_none_is_told_at_once(url: str) -> None:
    with pytest.raises(DistillError, match=r"^teacher\.url, .*, is no address"):
        Endpoint(YES).teacher(url=url)


def test_a_key_that_is_none_is_told_at_once_and_not_shown() -> None:
    with pytest.raises(
        DistillError, match=r"^The variable that teacher\.key_variable names"
    ) as told:
        Endpoint(YES).teacher(key="clé secrète")
    assert "secr" not in str(told.value)


@pytest.mark.parametrize("api", ["messages", "openai"])
async def test_halves_of_letters_are_made_whole_or_cleaned_away(api: str) -> None:
    """JSON can spell them and no file can hold them: in texts, thoughts, ids and inputs."""
    bad, good = "a\ud83d \ud83d\ude42\udc00", "a\ufffd \U0001f642\ufffd"
    if api == "messages":
        call = {"type": "tool_use", "id": bad, "name": bad, "input": {bad: [bad]}}
        said = message({"type": "text", "text": bad}, call, reason="tool_use")
    else:
        function = {"name": bad, "arguments": json.dumps({bad: [bad]})}
        told = {"content": bad, "tool_calls": [{"id": bad, "function": function}]}
        said = {"choices": [{"message": told, "finish_reason": "tool_calls"}]}
    content = json.dumps(said).encode()
    answer = await one(Endpoint(httpx.Response(200, content=content)).teacher(api=api))
    assert answer.message.content == (
        TextBlock(text=good),
        ToolUseBlock(id=good, name=good, input={good: [good]}),
    )


async def test_a_prompt_with_half_a_letter_is_sent_without_it() -> None:
    endpoint = Endpoint(YES)
    told = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a\ud83d"}]}]}
    await one(endpoint.teacher(), ask(told))
    assert endpoint.bodies[0]["messages"][0]["content"][0]["text"] == "a\ufffd"


LEARNT = Conversation(
    tools=(replace(TOOL, strict=True),),
    messages=(
        Message(role="user", content=(TextBlock(text="Rome?"), NoteBlock(text="Be kind."))),
        Message(role="assistant", content=(ToolUseBlock(id="t1", name="get_weather", input={}),)),
        Message(
            role="user",
            content=(
                ToolResultBlock(
                    tool_use_id="t1",
                    content=(TextBlock(text="Sunny"), ToolDefinitionBlock(tool=TOOL)),
                ),
                ToolDefinitionBlock(tool=TOOL),
            ),
        ),
    ),
)


async def test_what_only_our_server_knows_is_told_in_what_all_know() -> None:
    """A note is text of the user's turn; a tool that becomes known later stands among the tools."""
    endpoint = Endpoint(YES)
    asked = replace(ask(callable_tools=(TOOL,)), conversation=LEARNT)
    await one(endpoint.teacher(), asked)
    (body,) = endpoint.bodies
    note = {"type": "text", "text": "\n\n<system>\nBe kind.\n</system>"}
    result = {"type": "tool_result", "tool_use_id": "t1"}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Rome?"}, note]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}],
        },
        {
            "role": "user",
            "content": [result | {"content": [{"type": "text", "text": "Sunny"}]}],
        },
    ]
    tool = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
    assert body["tools"] == [tool]
    endpoint = Endpoint(CHAT)
    await one(endpoint.teacher(api="openai"), asked)
    said = [each["content"] for each in endpoint.bodies[0]["messages"]]
    assert said == ["Rome?\n\n<system>\nBe kind.\n</system>", None, "Sunny"]


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
