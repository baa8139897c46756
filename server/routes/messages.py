"""POST /v1/messages and /v1/messages/count_tokens: what is read off a request, and how its answer
goes out."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from senryu.server.answering import Spoken, count, frames, make_ready, whole
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.visit import Rules
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.responses import count_body
from senryu.server.wire.sse import error_frame

from .reading import api_version, betas, check_credential, read_body, require_role
from .replies import ignored_header, json_reply
from .streaming import EventStream, stopping, unless_gone

router = APIRouter()

TASK = "senryu-task"
_LONGEST_TASK = 64


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    body, spoken = await receive(request)
    return await answer(request, body, spoken)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    body, spoken = await receive(request)
    return await counted(request, body, spoken)


async def receive(request: Request) -> tuple[bytes, Spoken]:
    """What came with the request, its headers checked in the contract's order (4.1)."""
    settings: ServerSettings = request.app.state.settings
    caller = check_credential(request)
    spoken = Spoken(
        version=api_version(request, settings),
        betas=betas(request, settings),
        caller=caller,
        request_id=request.scope["state"]["request_id"],
        task=task(request),
    )
    return await read_body(request, settings), spoken


def task(request: Request) -> str | None:
    """What a client calls its work. Raises InvalidRequest."""
    name = request.headers.get(TASK, "").strip()
    if len(name) > _LONGEST_TASK:
        raise InvalidRequest(f"{TASK}: String should have at most {_LONGEST_TASK} characters")
    return name or None


async def answer(request: Request, body: bytes, spoken: Spoken) -> Response:
    """The model's answer to a Messages body, at once or as a stream."""
    state = request.app.state
    settings: ServerSettings = state.settings
    rules: Rules = state.rules
    require_role(spoken.caller, "admin", "user")
    request.scope["state"]["limited"] = spoken.caller
    # Whoever would be turned away is so before a prompt is made, which costs more than all else.
    rules.desk.check()
    rules.limiter.check(spoken.caller)
    ready = await make_ready(state, body, spoken)
    headers = ignored_header((*ready.asked.ignored, *ready.form.unheld))
    if ready.wanted.stream:
        return EventStream(
            frames(state, ready),
            ping_seconds=settings.ping_seconds,
            farewell=error_frame(stopping(), spoken.request_id),
            headers=headers,
        )
    message = await unless_gone(whole(state, ready), request.receive)
    if message is None:  # nobody is there to read it
        return Response(status_code=499)
    return json_reply(message, headers=headers)


async def counted(request: Request, body: bytes, spoken: Spoken) -> Response:
    """How many tokens the same body would be as a message."""
    read = await count(request.app.state, body, spoken)
    body_ = count_body(len(read.prompt), read.extras)
    return json_reply(body_, headers=ignored_header(read.asked.ignored))
