"""The contract's catalogue of what can be wrong with a request (section 6), row by row.

One table: each row says what is sent, and which status, error type and sentence come back, through
HTTP. What is not about the answer is asked of count_tokens as well. Sentences that clients parse
stand here in full.
"""

import base64
import io
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pypdf
import pytest

from senryu.server.conversation.signing import Signer
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.turn.dialects.hermes import HermesDialect

Body = dict[str, Any]

CURRENT = {"anthropic-version": "2026-10-21"}
CLASSIC = {"anthropic-version": "2023-06-01"}
STRICT = {"strict": True, "signing_key": "the key of these tests"}
TYPES = {400: "invalid_request_error", 404: "not_found_error", 413: "request_too_large"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A request that differs from the smallest good one by `send`."""

    number: int
    send: Body | bytes | Callable[[], Body]
    says: str | None
    """The sentence, as a pattern between `~` signs or else in full; None for a good request."""
    status: int = 400
    without: str | None = None
    """A field that is left out."""
    headers: dict[str, str] = field(default_factory=dict)
    settings: Body = field(default_factory=dict)
    sees: bool = False
    thinks: bool = True
    window: int = 200_000
    counted: bool = True
    """Whether count_tokens says the same."""


def refused(number: int, send: Any, says: str, **more: Any) -> Row:
    return Row(number=number, send=send, says=says, **more)


def accepted(number: int, send: Any, **more: Any) -> Row:
    return Row(number=number, send=send, says=None, status=200, **more)


# --- what requests are made of -----------------------------------------------------------------


def messages(*each: Any) -> Body:
    return {"messages": list(each)}


def user(*blocks: Any) -> Body:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> Body:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str = "hi", **more: Any) -> Body:
    return {"type": "text", "text": words} | more


def system(words: str = "Be brief.") -> Body:
    return {"role": "system", "content": words}


def tool(name: str = "ls", **more: Any) -> Body:
    return {"name": name, "input_schema": {"type": "object"}} | more


def call(name: str = "a", **more: Any) -> Body:
    return {"type": "tool_use", "id": name, "name": "ls", "input": {}} | more


def result(name: str = "a", **more: Any) -> Body:
    return {"type": "tool_result", "tool_use_id": name} | more


def thought(words: str, signature: str) -> Body:
    return {"type": "thinking", "thinking": words, "signature": signature}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes | str, media_type: str = "image/png") -> Body:
    shown = data if isinstance(data, str) else encoded(data)
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": shown}}


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08"


def pdf(data: bytes) -> Body:
    source = {"type": "base64", "media_type": "application/pdf", "data": encoded(data)}
    return {"type": "document", "source": source}


def blank_pdf(pages: int = 1, password: str | None = None) -> Body:
    writer, file = pypdf.PdfWriter(), io.BytesIO()
    for _ in range(pages):
        writer.add_blank_page(width=72, height=72)
    if password is not None:
        writer.encrypt(password, algorithm="AES-256")
    writer.write(file)
    return pdf(file.getvalue())


def output(schema: Body) -> Body:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


USER, ASSISTANT = user(text()), assistant(text("hello"))
OBJECT: Body = {"type": "object"}
CLOSED: Body = {"type": "object", "properties": {}, "additionalProperties": False}
DOCUMENT: Body = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "Be it known."},
}
CITED = DOCUMENT | {"citations": {"enabled": True}}
URL: Body = {"type": "url", "url": "https://elsewhere.example/a"}
MARK: Body = {"type": "ephemeral"}
HOUR: Body = {"type": "ephemeral", "ttl": "1h"}
ANY: Body = {"tools": [tool()], "tool_choice": {"type": "any"}}
ENABLED: Body = {"type": "enabled", "budget_tokens": 1024}
THINKING: Body = {"thinking": ENABLED, "max_tokens": 2000}
SIGNER = Signer(STRICT["signing_key"].encode())  # type: ignore[attr-defined]


def unanswered(index: int, *names: str) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately "
        f"after: {', '.join(names)}. Each `tool_use` block must have a corresponding `tool_result` "
        "block in the next message."
    )


def edited_thought() -> Body:
    signature = SIGNER.sign("hm", model="scripted", shown=True)
    return messages(USER, assistant(thought("hm!", signature), text("yes")), USER)


ROWS = [
    # --- 6.1 Shape
    refused(1, b"{", "~^The request body is not valid JSON: "),
    refused(1, b"", "~^The request body is not valid JSON: "),
    refused(1, b"[]", "The request body is not valid JSON: an object is required"),
    refused(2, {}, "model: Field required", without="model"),
    refused(2, {}, "messages: Field required", without="messages"),
    refused(2, {}, "max_tokens: Field required", without="max_tokens", counted=False),
    refused(
        3,
        {"max_tokens": -1},
        "max_tokens: Input should be greater than or equal to 0",
        counted=False,
    ),
    *(
        refused(3, {"max_tokens": wrong}, "max_tokens: Input should be a valid integer")
        for wrong in ("10", 1.5)
    ),
    refused(
        4,
        {"max_tokens": 513},
        "max_tokens: 513 > 512, which is the maximum allowed number of output tokens for scripted",
        window=512,
        counted=False,
    ),
    *(
        refused(5, {"max_tokens": 0} | with_, f"~^max_tokens: 0 .* {name}$", counted=False)
        for name, with_ in [
            ("stream", {"stream": True}),
            ("thinking", {"thinking": ENABLED}),
            ("output_config.format", output(OBJECT)),
            ("tool_choice", ANY),
            ("tool_choice", ANY | {"tool_choice": {"type": "tool", "name": "ls"}}),
        ]
    ),
    refused(
        6,
        {"temperature": 1.5},
        "temperature: Input should be less than or equal to 1",
        counted=False,
        headers=CLASSIC,
    ),
    refused(
        6,
        {"temperature": -0.1},
        "temperature: Input should be greater than or equal to 0",
        counted=False,
        headers=CLASSIC,
    ),
    *(
        refused(7, knob, f"~^{next(iter(knob))}: .*2026-10-21", headers=CURRENT, counted=False)
        for knob in ({"temperature": 1}, {"top_p": 1}, {"top_k": 0})
    ),
    accepted(8, {"temperature": 0.5, "top_p": 0.5}, counted=False),
    refused(
        8,
        {"temperature": 0.5, "top_p": 0.5},
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        headers=CLASSIC,
        settings=STRICT,
        counted=False,
    ),
    refused(9, {"frob": 1}, "frob: Extra inputs are not permitted"),
    refused(
        9,
        messages(user(text(frob=1))),
        "messages.0.content.0.text.frob: Extra inputs are not permitted",
    ),
    refused(9, messages(USER | {"name": "n"}), "messages.0.name: Extra inputs are not permitted"),
    refused(10, messages(), "messages: at least one message is required"),
    refused(
        10,
        lambda: messages(*[{"role": "user", "content": "x"}] * 100_001),
        "~^messages: List should have at most 100000 items",
    ),
    refused(
        11,
        {"stop_sequences": [""]},
        "stop_sequences: each stop sequence must be non-empty",
        counted=False,
    ),
    refused(
        11,
        {"stop_sequences": ["\n"]},
        "stop_sequences: each stop sequence must contain non-whitespace",
        counted=False,
    ),
    accepted(11, {"stop_sequences": ["a", "b"]}, counted=False),
    accepted(12, {"metadata": {"user_id": "u" * 257}}, counted=False),
    refused(
        12,
        {"metadata": {"user_id": "u" * 257}},
        "metadata.user_id: String should have at most 256 characters",
        settings=STRICT,
        headers=CLASSIC,
        counted=False,
    ),
    refused(
        12,
        {"metadata": {"user_id": "u" * 4097}},
        "metadata.user_id: String should have at most 4096 characters",
        counted=False,
    ),
    refused(
        12, {"metadata": {"x": 1}}, "metadata.x: Extra inputs are not permitted", counted=False
    ),
    refused(
        13,
        {"service_tier": "priority"},
        "service_tier: Input should be 'auto' or 'standard_only'",
        counted=False,
    ),
    refused(14, {"model": "nope"}, "model: nope", status=404),
    refused(
        15,
        messages(user(text("x" * 2**20))),
        "~^Request exceeds the maximum size of 0.5 MB",
        status=413,
        settings={"body_limit_mb": 0.5},
    ),
    # --- 6.2 Roles and content
    refused(16, messages(ASSISTANT, USER), 'messages: first message must use the "user" role'),
    accepted(17, messages(USER, USER, ASSISTANT, ASSISTANT, USER)),
    *(
        refused(
            18,
            messages({"role": role, "content": "hi"}),
            "messages.0.role: Input should be 'user', 'assistant' or 'system'",
        )
        for role in ("tool", "developer")
    ),
    refused(
        19,
        messages(system(), USER),
        "~^messages.0: .*use the top-level 'system' parameter for the initial system prompt$",
    ),
    refused(
        19,
        messages(USER, assistant(call()), system(), user(result())),
        "~^messages.2: role 'system' must follow a ",
    ),
    refused(19, messages(USER, ASSISTANT, system()), "~^messages.2: role 'system' must follow a "),
    refused(19, messages(USER, system(), USER), "~^messages.1: role 'system' must precede an "),
    accepted(19, messages(USER, system(), ASSISTANT, USER, system(), system())),
    *(
        refused(
            20,
            messages({"role": "user", "content": empty}),
            "messages.0: all messages must have non-empty content except for the optional final "
            "assistant message",
        )
        for empty in ("", [])
    ),
    accepted(20, messages(USER, {"role": "assistant", "content": ""})),
    refused(21, messages(user(text(""))), "messages: text content blocks must be non-empty"),
    refused(
        22,
        messages(user(text(" \n"))),
        "messages: text content blocks must contain non-whitespace text",
    ),
    accepted(22, messages(USER, assistant(call()), user(result(content=[text("\n")])))),
    refused(
        23,
        messages(USER, assistant(text("I say: "))),
        "messages: final assistant content cannot end with trailing whitespace",
    ),
    *(
        refused(
            23,
            messages(USER, ASSISTANT) | with_,
            f"messages: a final assistant message (prefill) cannot be combined with {name}",
        )
        for name, with_ in [
            ("thinking", THINKING),
            ("output_config.format", output(OBJECT)),
            ("a tool_choice that forces tool use", ANY),
        ]
    ),
    accepted(23, messages(USER, ASSISTANT)),
    refused(
        24,
        messages(user(call())),
        "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages",
    ),
    *(
        refused(
            24,
            messages(USER, assistant(block), USER),
            f"messages.1.content.0: `{block['type']}` blocks can only be in `user` messages",
        )
        for block in (result(), image(png(1, 1)))
    ),
    refused(
        25,
        messages(USER, assistant(call()), user(result(content=[thought("", "")]))),
        "~^messages.2.content.0.tool_result.content.0: Input tag 'thinking' found using 'type' "
        "does not match any of the expected tags: 'text', 'image', 'document', ",
    ),
    refused(
        26,
        messages(user(text("x" * 600))),
        r"~^prompt is too long: 6\d\d tokens > 512 maximum$",
        window=512,
        counted=False,
    ),
    refused(
        27,
        messages(USER, assistant(DOCUMENT, DOCUMENT), USER),
        "messages.1.content.0.document, messages.1.content.1.document: `document` blocks cannot "
        "be in `assistant` messages with anthropic-version 2026-10-21",
        headers=CURRENT,
    ),
    refused(
        27,
        messages(user(text("a", citations=[{"type": "char_location"}]))),
        "messages.0.content.0.text.citations: text in `user` messages cannot have citations with "
        "anthropic-version 2026-10-21",
        headers=CURRENT,
    ),
    accepted(27, messages(USER, assistant(DOCUMENT), USER), headers=CLASSIC),
    refused(28, rb'{"model":"\udc00"}', "~^The request body is not valid JSON: invalid high surr"),
    refused(28, rb'{"model":"\ud800"}', "~^The request body is not valid JSON: "),
    accepted(28, messages(user(text("a\0b")))),
    # --- 6.3 Tool pairing
    refused(29, messages(USER, assistant(call())), unanswered(1, "a")),
    refused(29, messages(USER, assistant(call()), USER), unanswered(1, "a")),
    refused(30, messages(USER, assistant(call()), user(text(), result())), unanswered(1, "a")),
    accepted(30, messages(USER, assistant(call()), user(result(), text()))),
    refused(
        31,
        messages(USER, assistant(call("a"), call("b")), user(result("a"))),
        unanswered(1, "b"),
    ),
    accepted(
        32,
        messages(USER, assistant(call("a"), call("b")), user(result("a")), user(result("b"))),
    ),
    refused(
        33,
        messages(USER, ASSISTANT, user(result())),
        "messages.2.content.0: unexpected `tool_use_id` found in `tool_result` blocks: a. Each "
        "`tool_result` block must have a corresponding `tool_use` block in the previous message.",
    ),
    refused(
        34,
        messages(USER, assistant(call()), user(result()), assistant(call()), user(result())),
        "messages: `tool_use` ids must be unique",
    ),
    refused(
        35,
        messages(USER, assistant(call()), user(result(), result())),
        "~each tool_use must have a single result",
    ),
    accepted(36, messages(USER, assistant(call()), user(result(content="x")))),
    *(
        refused(
            37,
            messages(USER, assistant(call(input=wrong))),
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
        )
        for wrong in ("{}", [])
    ),
    accepted(38, messages(USER, assistant(call()), user(result()))),
    accepted(38, messages(USER, assistant(call()), user(result(content="no", is_error=True)))),
    refused(39, {"tools": [tool(), tool()]}, "tools: Tool names must be unique."),
    refused(
        39,
        {"tools": [tool("a b")]},
        "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,128}$'",
    ),
    refused(
        39,
        {"tools": [tool("n" * 129)]},
        "tools.0.custom.name: String should have at most 128 characters",
    ),
    refused(39, {"tools": [{"name": "a"}]}, "tools.0.custom.input_schema: Field required"),
    refused(
        39,
        {"tools": [tool(input_schema={})]},
        "tools.0.custom.input_schema.type: Field required",
    ),
    refused(
        39,
        {"tools": [tool(input_schema={"type": "array"})]},
        "tools.0.custom.input_schema.type: Input should be 'object'",
    ),
    refused(
        39,
        {"tools": [tool(input_schema=OBJECT | {"required": 1})]},
        "~^tools.0.custom.input_schema: JSON schema is invalid",
    ),
    refused(
        39,
        {"tools": [{"type": "bash_20250124", "name": "shell"}]},
        "tools.0.bash_20250124.name: Input should be 'bash'",
    ),
    refused(
        39,
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "'scripted' does not support tool types: web_search_20250305.",
    ),
    refused(
        39,
        {"tools": [{"type": "teapot"}]},
        "~^tools.0: Input tag 'teapot' found using 'type' does not match any of the expected tags",
    ),
    refused(39, {"tools": [tool(defer_loading=True)]}, "~^All tools have defer_loading: true"),
    refused(
        40,
        {"tool_choice": {"type": "auto"}},
        "tool_choice may only be specified while providing tools.",
    ),
    refused(
        40,
        ANY | {"tool_choice": {"type": "tool", "name": "x"}},
        "Tool 'x' not found in provided tools",
    ),
    refused(40, ANY | THINKING, "Thinking may not be enabled when tool_choice forces tool use."),
    # --- 6.4 Media
    refused(
        41,
        messages(user(image(png(1, 1), "image/bmp"))),
        "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', "
        "'image/png', 'image/gif' or 'image/webp'",
    ),
    refused(42, messages(user(image(b"no picture"))), "~: Could not process image$", sees=True),
    refused(
        42,
        messages(user(image(png(1, 1), "image/jpeg"))),
        "~: the image was said to be image/jpeg, but it is image/png$",
        sees=True,
    ),
    refused(
        43,
        lambda: messages(user(image("A" * (10 * 2**20 + 4)))),
        "~image exceeds 10 MB maximum: 10485764 bytes > 10485760 bytes$",
        sees=True,
    ),
    refused(
        44,
        messages(user(image(png(8001, 1)))),
        "~: image dimensions exceed max allowed size: 8000 pixels$",
        sees=True,
    ),
    refused(
        44,
        messages(user(*[image(png(2001, 1))] * 21)),
        "~image dimensions exceed max allowed size for many-image requests: 2000 pixels$",
        sees=True,
    ),
    refused(
        45, messages(user(*[image(png(1, 1))] * 601)), "~: Too much media: 601 images", sees=True
    ),
    refused(
        45,
        lambda: messages(user(blank_pdf(101))),
        "~: A maximum of 100 PDF pages may be provided.$",
    ),
    refused(
        46,
        lambda: messages(user(blank_pdf(password="secret"))),
        "~: The PDF specified was password protected$",
    ),
    refused(46, messages(user(pdf(b"no pdf"))), "~: Could not process PDF$"),
    refused(
        47,
        messages(USER, ASSISTANT, user(text(), image(png(1, 1)))),
        "~^messages.2.content.1.image: scripted does not support image input",
    ),
    refused(
        47,
        lambda: messages(user(blank_pdf())),
        "~^messages.0.content.0.document.* scripted does not support PDF input",
    ),
    *(
        refused(
            48,
            messages(user({"type": kind, "source": URL})),
            f"~^messages.0.content.0.{kind}.source.url: url sources are off on this server",
            sees=True,
        )
        for kind in ("image", "document")
    ),
    refused(
        49,
        messages(user(image(png(1600, 1)) | {"transformations": {"oversized_image": "error"}})),
        "~^messages.0.content.0.image.source.base64.data: the image has a side of 1600 pixels",
        sees=True,
    ),
    # --- 6.5 Thinking, output, cache
    refused(
        50,
        {"thinking": {"type": "enabled", "budget_tokens": 1023}},
        "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
    ),
    refused(
        50,
        {"thinking": ENABLED, "max_tokens": 1024},
        "~^`max_tokens` must be greater than `thinking.budget_tokens`.",
        counted=False,
    ),
    refused(
        50, {"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens: Field required"
    ),
    refused(
        50,
        {"thinking": {"type": "adaptive", "budget_tokens": 2000}},
        "thinking.adaptive.budget_tokens: Extra inputs are not permitted",
    ),
    refused(
        50,
        THINKING,
        '~^"thinking.type.enabled" is not supported for this model.',
        thinks=False,
    ),
    refused(
        51,
        {"thinking": {"type": "on"}},
        "~^thinking: Input tag 'on' found using 'type' does not match any of the expected tags: ",
    ),
    refused(
        52,
        {"thinking": {"type": "disabled", "display": "omitted"}},
        "thinking.disabled.display: Extra inputs are not permitted",
    ),
    accepted(53, edited_thought),
    refused(
        53,
        edited_thought,
        "messages.1.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant "
        "message cannot be modified. These blocks must remain as they were in the original "
        "response.",
        settings=STRICT,
        headers=CLASSIC,
    ),
    refused(
        53,
        messages(USER, assistant(thought("hm", "x"), text("yes")), USER),
        "messages.1.content.0: Invalid `signature` in `thinking` block",
        settings=STRICT,
        headers=CLASSIC,
    ),
    refused(
        53,
        messages(USER, assistant({"type": "redacted_thinking", "data": "x"}, text("yes")), USER),
        "messages.1.content.0: Invalid `data` in `redacted_thinking` block",
        settings=STRICT,
        headers=CLASSIC,
    ),
    refused(
        54,
        output(OBJECT),
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be "
        "explicitly set to false",
        settings=STRICT,
        headers=CLASSIC,
    ),
    refused(
        54,
        output(CLOSED | {"properties": {"a": {"type": "integer", "minimum": 1}}}),
        "~^output_config.format.schema: .*'minimum' is not supported",
        settings=STRICT,
        headers=CLASSIC,
    ),
    refused(
        54,
        output(CLOSED | {"properties": {"a": {"$ref": "#"}}}),
        "output_config.format.schema: Recursive schemas are not supported",
        settings=STRICT,
        headers=CLASSIC,
    ),
    accepted(54, output({"type": "object", "properties": {"a": {"minimum": 1}}}), counted=True),
    refused(
        55,
        messages(user(CITED)) | output(OBJECT),
        "output_config.format: cannot be combined with citations",
    ),
    refused(
        55,
        messages(USER, ASSISTANT) | output(OBJECT),
        "~^messages: a final assistant message .* cannot be combined with output_config.format$",
    ),
    refused(
        56,
        {"system": [text(cache_control=MARK)] * 5},
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    refused(
        56,
        {"system": [text(cache_control=MARK)] * 4, "cache_control": MARK},
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    refused(
        56,
        messages(user(text(cache_control=HOUR))) | {"cache_control": MARK},
        "Top-level cache_control has ttl='5m' but the target block already has cache_control with "
        "ttl='1h'",
    ),
    refused(
        56,
        messages(user(text(cache_control=HOUR))) | {"system": [text(cache_control=MARK)]},
        "messages.0.content.0.text.cache_control.ttl: a ttl='1h' cache_control block must not "
        "come after a ttl='5m' cache_control block. Note that blocks are processed in the "
        "following order: tools, system, messages.",
    ),
    refused(
        56,
        messages(user(text("", cache_control=MARK))),
        "messages.0.content.0.text: cache_control cannot be set for empty text blocks",
    ),
    refused(
        56,
        messages(USER, assistant(thought("", "") | {"cache_control": MARK}), USER),
        "messages.1.content.0.thinking.cache_control: Extra inputs are not permitted",
    ),
    refused(
        56,
        {"cache_control": {"type": "ephemeral", "ttl": "2h"}},
        "cache_control.ephemeral.ttl: Input should be '5m' or '1h'",
    ),
    accepted(57, {}, headers={"anthropic-beta": "made-up-2026-01-01"}),
    refused(
        57,
        {},
        "~^Unexpected value\\(s\\) `made-up-2026-01-01` for the `anthropic-beta` header. ",
        headers=CLASSIC | {"anthropic-beta": "made-up-2026-01-01"},
        settings=STRICT,
    ),
    refused(57, {}, "anthropic-version: header is required", settings=STRICT),
]


def named(row: Row) -> str:
    return f"{row.number}: {(row.says or 'accepted')[:60]}"


def asked_with(row: Row, body: Body) -> bytes:
    send = row.send() if callable(row.send) else row.send
    if isinstance(send, bytes):
        return send
    whole = body | send
    return json.dumps(
        {name: value for name, value in whole.items() if name != row.without}
    ).encode()


def client(client_for: Any, row: Row) -> httpx.AsyncClient:
    dialect = {} if row.thinks else {"dialect": HermesDialect()}
    engine = ScriptedEngine(window=row.window, **dialect)  # type: ignore[arg-type]
    engine.card = replace(engine.card, sees=row.sees)
    made: httpx.AsyncClient = client_for(engine, **row.settings)
    return made


def judged(row: Row, reply: httpx.Response) -> None:
    assert reply.status_code == row.status, reply.text
    if row.says is None:
        return
    body = reply.json()
    assert body["type"] == "error"
    assert body["request_id"] == reply.headers["request-id"]
    assert body["error"]["type"] == TYPES[row.status]
    message = body["error"]["message"]
    if row.says.startswith("~"):
        assert re.search(row.says[1:], message), message
    else:
        assert message == row.says


@pytest.mark.parametrize("row", ROWS, ids=named)
async def test_a_message_is_answered_as_the_row_says(client_for: Any, body: Body, row: Row) -> None:
    content = asked_with(row, body)
    reply = await client(client_for, row).post("/v1/messages", content=content, headers=row.headers)
    judged(row, reply)


@pytest.mark.parametrize("row", [row for row in ROWS if row.counted], ids=named)
async def test_a_count_is_answered_alike(client_for: Any, body: Body, row: Row) -> None:
    content = asked_with(row, body)
    reply = await client(client_for, row).post(
        "/v1/messages/count_tokens", content=content, headers=row.headers
    )
    judged(row, reply)


def test_no_row_of_the_catalogue_is_missing() -> None:
    assert sorted({row.number for row in ROWS}) == list(range(1, 58))


async def test_a_picture_that_is_too_large_is_told_with_its_code(
    client_for: Any, body: Body
) -> None:
    """Row 44: what a program needs to make it smaller."""
    row = next(row for row in ROWS if row.number == 44)
    content = asked_with(row, body)
    reply = await client(client_for, row).post("/v1/messages", content=content)
    assert reply.json()["error"]["details"] == {
        "error_code": "image_dimensions_too_large",
        "max_side_length_pixels": 8000,
        "paths": ["messages.0.content.0.image.source.base64"],
    }
