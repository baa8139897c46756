"""POST /v1/messages and /v1/messages/count_tokens: from bytes to a turn, and its answer out."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response

from senryu.server.conversation.intake import read_conversation, read_sampling
from senryu.server.engine.base import Engine, EngineError
from senryu.server.identifiers import new_id
from senryu.server.settings import ServerSettings
from senryu.server.turn.blocks import Answer, fold
from senryu.server.turn.prompt import Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn
from senryu.server.wire.errors import ApiError, EngineFailed, InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, Prompted, parse
from senryu.server.wire.responses import message_body
from senryu.server.wire.sse import error_frame, frame

from .models import resolve_model
from .reading import CURRENT, api_version, check_credential, read_body
from .replies import json_reply
from .streaming import EventStream, stopping, unless_gone

router = APIRouter()
log = logging.getLogger("senryu.server")

# Encoding a short prompt costs less than the hop to a thread.
_LONG_REQUEST_BYTES = 16_384


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    settings: ServerSettings = request.app.state.settings
    engine: Engine = request.app.state.engine
    check_credential(request, settings)
    version = api_version(request)
    body = await read_body(request, settings)
    asked = parse(MessagesRequest, body)
    model = resolve_model(asked.model, settings, engine.card)
    refuse_knobs = version if version == CURRENT and not settings.lenient_sampling else None
    sampling = read_sampling(
        asked, model=model, limit=engine.card.window, refuse_knobs=refuse_knobs
    )
    prompt = await _prompt(asked, model, engine, len(body))
    turn = Turn(message_id=new_id("msg"), model=model, prompt=prompt, sampling=sampling)
    diagnostics = asked.diagnostics is not None
    if not await engine.healthy():
        raise EngineFailed("The engine has stopped; restart the server")
    if asked.stream:
        request_id = request.scope["state"]["request_id"]
        return EventStream(
            _frames(turn, engine, request_id, diagnostics),
            ping_seconds=settings.ping_seconds,
            farewell=error_frame(stopping(), request_id),
        )
    answer = await unless_gone(_answer(turn, engine), request.receive)
    if answer is None:  # nobody is there to read it
        return Response(status_code=499)
    return json_reply(message_body(answer, diagnostics=diagnostics))


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    settings: ServerSettings = request.app.state.settings
    engine: Engine = request.app.state.engine
    check_credential(request, settings)
    api_version(request)
    body = await read_body(request, settings)
    asked = parse(CountTokensRequest, body)
    model = resolve_model(asked.model, settings, engine.card)
    prompt = await _prompt(asked, model, engine, len(body), fits=False)
    return json_reply({"input_tokens": len(prompt)})


async def _prompt(
    asked: Prompted, model: str, engine: Engine, size: int, *, fits: bool = True
) -> Prompt:
    conversation = read_conversation(asked, model=model)
    try:
        if size > _LONG_REQUEST_BYTES:
            prompt = await asyncio.to_thread(build_prompt, conversation, engine.tokenizer)
        else:
            prompt = build_prompt(conversation, engine.tokenizer)
    except ValueError as error:
        raise InvalidRequest(f"messages: {error}") from error
    window = engine.card.window
    if fits and len(prompt) > window:
        raise InvalidRequest(f"prompt is too long: {len(prompt)} tokens > {window} maximum")
    return prompt


async def _answer(turn: Turn, engine: Engine) -> Answer:
    try:
        async with aclosing(run_turn(turn, engine)) as events:
            return await fold(events)
    except EngineError as error:
        raise EngineFailed(str(error)) from error


async def _frames(
    turn: Turn, engine: Engine, request_id: str, diagnostics: bool
) -> AsyncGenerator[bytes, None]:
    """The answer's frames. Once the status line is out an error can only be an event."""
    try:
        async with aclosing(run_turn(turn, engine)) as events:
            async for event in events:
                yield frame(event, diagnostics=diagnostics)
    except EngineError as error:
        yield error_frame(EngineFailed(str(error)), request_id)
    except ApiError as error:
        yield error_frame(error, request_id)
    except Exception:
        log.exception("request %s broke in its stream", request_id)
        yield error_frame(EngineFailed("Internal server error"), request_id)
