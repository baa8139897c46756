"""Reads conversations that somebody wrote down, with the server's own reading of requests.

Comes in: the fields of a row or of a logged request, in the form of the Messages API. Goes out:
what they ask, or `Unreadable` with a reason that begins with the place. It refuses to know files.

An answer at the end is left out, for the teacher gives its own; `system` may stand first among the
messages, as data sets have it. Pictures are refused: what is distilled here is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from senryu.server.conversation.intake import Asked, Terms, read_request
from senryu.server.conversation.media import File, MediaError
from senryu.server.conversation.messages import ImageBlock, Tool
from senryu.server.conversation.signing import Signer
from senryu.server.conversation.tools import CHANGES_BETAS
from senryu.server.wire.errors import ApiError
from senryu.server.wire.requests import CountTokensRequest, parse

# What shapes a prompt; all else in a row or a request is nothing to the teacher.
_FIELDS = ("messages", "system", "tools", "tool_choice", "thinking")
_EMPTY: tuple[Any, ...] = (None, "", [], ())


class Unreadable(Exception):
    """It is no conversation that can be answered. The text is a clause, without a full stop."""


def read_asked(told: Mapping[str, Any]) -> Asked:
    """Raises Unreadable."""
    fields = {name: told[name] for name in _FIELDS if told.get(name) not in _EMPTY}
    if "messages" not in fields:
        raise Unreadable("it has no messages")
    fields = _without_answer(_with_system_on_top(fields))
    try:
        body = json.dumps({"model": _TERMS.model} | fields).encode()
        return read_request(parse(CountTokensRequest, body), _TERMS)
    except ApiError as problem:
        raise Unreadable(problem.message.rstrip(".")) from None
    except (TypeError, ValueError, RecursionError) as problem:
        raise Unreadable(f"it is not JSON: {problem}") from None


def read_row(row: Mapping[str, Any]) -> Asked:
    """A row with `prompt`, or with `messages`; `system` and `tools` beside either. Columns of
    Parquet may hold them as JSON text. Raises Unreadable."""
    told = {name: _from_json_text(name, row.get(name)) for name in ("messages", "tools")}
    told["system"] = row.get("system")
    if told["messages"] in _EMPTY:
        prompt = row.get("prompt")
        if not isinstance(prompt, str):
            raise Unreadable("it has neither messages nor a prompt that is a text")
        if not prompt.strip():
            raise Unreadable("its prompt is empty")
        told["messages"] = [{"role": "user", "content": prompt}]
    return read_asked(told)


def read_tool_list(told: Any) -> tuple[Tool, ...]:
    """Tools in the form of a request's. Raises Unreadable."""
    hello = [{"role": "user", "content": "Hello."}]
    return read_asked({"messages": hello, "tools": told}).conversation.tools


def without_nulls(told: Any) -> Any:
    """As it was before a table gave every row the keys of all the others."""
    if isinstance(told, Mapping):
        return {key: without_nulls(each) for key, each in told.items() if each is not None}
    if isinstance(told, list | tuple):
        return [without_nulls(each) for each in told]
    return told


def _from_json_text(name: str, told: Any) -> Any:
    if not isinstance(told, str) or not told:
        return told
    try:
        return json.loads(told)
    except (ValueError, RecursionError):
        raise Unreadable(f"{name}: it is a text, and not of JSON") from None


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def _with_system_on_top(fields: dict[str, Any]) -> dict[str, Any]:
    messages = fields["messages"]
    if not isinstance(messages, list) or not messages or _role(messages[0]) != "system":
        return fields
    if "system" in fields:
        raise Unreadable("it has a system prompt twice: beside its messages and among them")
    return fields | {"system": messages[0].get("content"), "messages": messages[1:]}


def _without_answer(fields: dict[str, Any]) -> dict[str, Any]:
    messages = fields["messages"]
    if not isinstance(messages, list):
        return fields
    messages = list(messages)
    while messages and _role(messages[-1]) == "assistant":
        messages.pop()
    return fields | {"messages": messages}


class _NoMedia:
    """Text alone."""

    def pdf_pages(self, data: bytes) -> list[str]:
        raise MediaError("a PDF is not read here; leave it out")

    def fetch(self, url: str, kind: str) -> tuple[str, bytes]:
        raise MediaError("nothing is fetched for a prompt; leave it out")

    def file(self, file_id: str) -> File:
        raise MediaError("files are not read here; leave it out")

    def image(self, data: bytes, media_type: str) -> ImageBlock:
        raise MediaError("pictures are not read here; leave them out")


# Whatever was thought in a logged conversation was sealed by another server, and is left out: a
# teacher goes on from its own thoughts.
_TERMS = Terms(
    model="the teacher",
    signer=Signer(b"prompts"),
    media=_NoMedia(),
    thinks=True,
    betas=CHANGES_BETAS,
)
