"""What was accepted and has no effect is named in a header, however the answer is sent."""

from typing import Any

import httpx
import pytest

from senryu.server.routes.replies import ignored_header, json_reply
from senryu.server.wire.errors import AuthenticationFailed


def test_the_header_is_there_only_if_something_was_ignored() -> None:
    assert ignored_header([]) == {}
    assert ignored_header(["cache_control", "inference_geo", "cache_control"]) == {
        "senryu-ignored": "cache_control, inference_geo"
    }


def test_a_reply_carries_the_headers_that_it_is_given() -> None:
    error = AuthenticationFailed("no")
    reply = json_reply({"a": 1}, status=401, headers=error.headers())
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["content-type"] == "application/json"
    assert reply.body == b'{"a":1}'


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_answer_and_a_stream_name_what_was_ignored(
    stream: bool, client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    asked = body | {"stream": stream, "inference_geo": "eu"}
    reply = await client.post("/v1/messages", json=asked)
    assert "inference_geo" in reply.headers["senryu-ignored"].split(", ")
    plain = await client.post("/v1/messages", json=body | {"stream": stream})
    assert "senryu-ignored" not in plain.headers
