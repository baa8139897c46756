"""POST /v1/messages and /v1/messages/count_tokens: from bytes to a turn, and its answer out."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from senryu.server.conversation.intake import read_conversation, read_sampling
from senryu.server.engine.base import Engine, EngineError, PromptRefused
from senryu.server.identifiers import new_id
from senryu.server.settings import ServerSettings
from senryu.server.turn.blocks import Answer, fold
from senryu.server.turn.prompt import Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn
from senryu.server.wire.errors import ApiError, EngineFailed, InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, Prompted, parse
from senryu.server.wire.responses import Extras, count_body, message_body
from senryu.server.wire.sse import error_frame, frame

from .models import resolve_model
from .reading import CURRENT, api_version, check_credential, read_body
from .replies import json_reply
from .streaming import EventStream, stopping, unless_gone

router = APIRouter()
log = logging.getLogger("senryu.server")

Result = TypeVar("Result")

# Reading a short request costs less than the hop to a thread.
_LONG_REQUEST_BYTES = 16_384


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    settings: ServerSettings = request.app.state.settings
    engine: Engine = request.app.state.engine
    check_credential(request, settings)
    version = api_version(request)
    body = await read_body(request, settings)
    asked, turn = await _understood(body, partial(_read_message, version, settings, engine))
    extras = _extras(asked, diagnostics=asked.diagnostics is not None)
    if not await engine.healthy():
        raise EngineFailed("The engine has stopped; restart the server")
    if asked.stream:
        request_id = request.scope["state"]["request_id"]
        return EventStream(
            _frames(turn, engine, request_id, extras),
            ping_seconds=settings.ping_seconds,
            farewell=error_frame(stopping(), request_id),
        )
    answer = await unless_gone(_answer(turn, engine), request.receive)
    if answer is None:  # nobody is there to read it
        return Response(status_code=499)
    return json_reply(message_body(answer, extras))


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    settings: ServerSettings = request.app.state.settings
    engine: Engine = request.app.state.engine
    check_credential(request, settings)
    api_version(request)
    body = await read_body(request, settings)
    asked, prompt = await _understood(body, partial(_read_count, settings, engine))
    return json_reply(count_body(len(prompt), _extras(asked)))


async def _understood(body: bytes, read: Callable[[bytes], Result]) -> Result:
    """What `read` makes of the body; of a long one in a thread, for others wait for the loop."""
    if len(body) > _LONG_REQUEST_BYTES:
        return await asyncio.to_thread(read, body)
    return read(body)


def _read_message(
    version: str, settings: ServerSettings, engine: Engine, body: bytes
) -> tuple[MessagesRequest, Turn]:
    asked = parse(MessagesRequest, body)
    model = resolve_model(asked.model, settings, engine.card)
    window = engine.card.window
    refuse_knobs = version if version == CURRENT and not settings.lenient_sampling else None
    sampling = read_sampling(asked, model=model, limit=window, refuse_knobs=refuse_knobs)
    prompt = _prompt(asked, model, engine)
    if len(prompt) > window:
        raise InvalidRequest(f"prompt is too long: {len(prompt)} tokens > {window} maximum")
    return asked, Turn(message_id=new_id("msg"), model=model, prompt=prompt, sampling=sampling)


def _read_count(
    settings: ServerSettings, engine: Engine, body: bytes
) -> tuple[CountTokensRequest, Prompt]:
    asked = parse(CountTokensRequest, body)
    model = resolve_model(asked.model, settings, engine.card)
    return asked, _prompt(asked, model, engine)


def _prompt(asked: Prompted, model: str, engine: Engine) -> Prompt:
    conversation = read_conversation(asked, model=model)
    try:
        return build_prompt(conversation, engine.tokenizer)
    except ValueError as error:
        raise InvalidRequest(f"messages: {error}") from error


def _extras(asked: Prompted, *, diagnostics: bool = False) -> Extras:
    edited = asked.context_management is not None
    return Extras(diagnostics=diagnostics, context_management=edited)


def _blamed(error: EngineError) -> ApiError:
    """An engine's failure as the client is told it: a prompt that it refuses is the client's."""
    if isinstance(error, PromptRefused):
        return InvalidRequest(str(error))
    return EngineFailed(str(error))


async def _answer(turn: Turn, engine: Engine) -> Answer:
    try:
        async with aclosing(run_turn(turn, engine)) as events:
            return await fold(events)
    except EngineError as error:
        raise _blamed(error) from error


async def _frames(
    turn: Turn, engine: Engine, request_id: str, extras: Extras
) -> AsyncGenerator[bytes, None]:
    """The answer's frames. Once the status line is out an error can only be an event."""
    try:
        async with aclosing(run_turn(turn, engine)) as events:
            async for event in events:
                yield frame(event, extras)
    except EngineError as error:
        yield error_frame(_blamed(error), request_id)
    except ApiError as error:
        yield error_frame(error, request_id)
    except Exception:
        log.exception("request %s broke in its stream", request_id)
        yield error_frame(EngineFailed("Internal server error"), request_id)
