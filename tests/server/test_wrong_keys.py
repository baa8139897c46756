"""Whoever tries keys learns nothing from it but that they are wrong, and costs no memory.

No clock is read: what takes the same steps takes the same time, whatever else the machine does.
"""

import gc
import json
import secrets
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from starlette.types import ASGIApp, Message

from senryu.server.app import build_app
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller, Callers, digest_of

RIGHT = "sk-senryu-" + "r" * 43
ATTEMPTS = 10_000
# Of the interpreter's own: a cache that grows by an entry, a dictionary that is made larger.
FEW_OBJECTS = 50
FEW_BYTES = 100_000


def settings() -> ServerSettings:
    return ServerSettings(
        engine="scripted", signing_key="the tests' own", api_key=RIGHT, api_keys=("ann=other",)
    )


@pytest.fixture
def app() -> ASGIApp:
    return build_app(settings(), ScriptedEngine())


async def asked(app: ASGIApp, headers: list[tuple[bytes, bytes]]) -> tuple[int, dict[str, Any]]:
    """The status and the error of one attempt."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/messages",
        "raw_path": b"/v1/messages",
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "headers": [(b"host", b"127.0.0.1:2"), *headers],
        "state": {},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        sent.append({"type": "the body was read"})
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert "status" in sent[0], sent[0]["type"]
    told: dict[str, Any] = json.loads(b"".join(each.get("body", b"") for each in sent))
    return sent[0]["status"], told["error"]


def with_key(key: str, *, bearer: bool = False) -> list[tuple[bytes, bytes]]:
    if bearer:
        return [(b"authorization", f"Bearer {key}".encode())]
    return [(b"x-api-key", key.encode())]


@pytest.mark.slow
async def test_ten_thousand_wrong_keys_are_ten_thousand_401s_and_leave_nothing(
    app: ASGIApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="senryu.requests")  # pytest keeps each line that is logged

    async def attempt(number: int) -> None:
        key = f"sk-senryu-{secrets.token_urlsafe(32)}"
        status, error = await asked(app, with_key(key, bearer=number % 2 == 0))
        assert status == 401
        assert error == {"type": "authentication_error", "message": "invalid x-api-key"}

    for number in range(500):  # all that is made once has been made
        await attempt(number)
    gc.collect()
    tracemalloc.start()
    try:
        objects, (before, _) = len(gc.get_objects()), tracemalloc.get_traced_memory()
        for number in range(ATTEMPTS):
            await attempt(number)
        gc.collect()
        (after, _), more = tracemalloc.get_traced_memory(), len(gc.get_objects()) - objects
    finally:
        tracemalloc.stop()
    assert more < FEW_OBJECTS
    assert after - before < FEW_BYTES


def steps(work: Callable[[], object]) -> list[tuple[str, str]]:
    """Every call and return of Python's and C's functions, in their order."""
    seen: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        name = argument.__qualname__ if event.startswith("c_") else frame.f_code.co_qualname
        seen.append((event, name))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


WRONG = {
    "nothing like it": "x" * len(RIGHT),
    "all but the last sign": RIGHT[:-1] + "x",
    "all but the first sign": "x" + RIGHT[1:],
    "the right one and more": RIGHT + "r",
    "its digest": digest_of(RIGHT.encode()).hex(),
}


@pytest.mark.parametrize("stored", [0, 1, 10_000])
def test_however_near_a_key_comes_and_however_many_there_are_the_steps_are_the_same(
    stored: int,
) -> None:
    callers = Callers(settings(), b"s" * 32)
    first = {digest_of(RIGHT[:9].encode()): Caller(name="near", salt="s", key_id="k")}
    more = {
        digest_of(str(number).encode()): Caller(name=str(number), salt="s", key_id=str(number))
        for number in range(stored)
    }
    callers.learn({**first, **more})

    def looked_up(key: str) -> list[tuple[str, str]]:
        return steps(lambda: callers.named([key.encode()]))

    taken = {name: looked_up(key) for name, key in WRONG.items()}
    assert len({tuple(each) for each in taken.values()}) == 1
    assert taken["its digest"] == looked_up(RIGHT)  # even if it is the right one
    assert ("c_call", "openssl_sha256") in taken["its digest"]


def test_a_key_is_kept_nowhere_but_in_the_settings() -> None:
    """What is looked up is a digest: a key is never compared sign by sign."""
    callers = Callers(settings(), b"s" * 32)
    kept = {*callers._settings, *callers._known}
    assert digest_of(RIGHT.encode()) in kept
    assert all(len(each) == 32 for each in kept)
    assert RIGHT not in repr([vars(callers)])


async def test_the_right_key_among_wrong_ones_is_let_in(app: ASGIApp) -> None:
    headers = [*with_key("wrong"), *with_key(RIGHT, bearer=True)]
    with pytest.raises(AssertionError, match="the body was read"):  # as no stranger's is
        await asked(app, headers)
