"""POST /v1/messages and /v1/messages/count_tokens: from bytes to a turn, and its answer out."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.datastructures import State
from starlette.responses import Response

from senryu.server.conversation.editing import apply_edits
from senryu.server.conversation.intake import Asked, Terms, read_request, read_sampling
from senryu.server.conversation.messages import Conversation
from senryu.server.engine.base import Engine, EngineError, PromptRefused
from senryu.server.identifiers import new_id
from senryu.server.past_prompts import PastPrompts
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller
from senryu.server.traffic import Traffic
from senryu.server.turn import diagnosis
from senryu.server.turn.blocks import Answer, fold
from senryu.server.turn.prompt import Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn
from senryu.server.warm_up import Beginnings
from senryu.server.wire.errors import ApiError, EngineFailed, InvalidRequest
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, Prompted, parse
from senryu.server.wire.responses import Extras, count_body, message_body
from senryu.server.wire.sse import error_frame, frame

from .forms import Form, form_of, tried
from .models import resolve_model
from .reading import api_version, betas, check_credential, read_body
from .replies import ignored_header, json_reply
from .streaming import EventStream, stopping, unless_gone

router = APIRouter()
log = logging.getLogger("senryu.server")

Result = TypeVar("Result")

# Reading a short request costs less than the hop to a thread.
_LONG_REQUEST_BYTES = 16_384
# One with media may take a minute, for a PDF is read by a process of its own. They have threads of
# their own, so that requests of text alone never wait for them, and few, for each may hold a large
# picture or have such a process.
_MEDIA_THREADS = ThreadPoolExecutor(4, thread_name_prefix="media")
# The key of their data, each letter of which may be escaped.
_KEY_OF_MEDIA = re.compile(
    b'"%b"' % b"".join(rb"(?:%c|\\u00%02x)" % (letter, letter) for letter in b"source"),
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """Which version of the API a client speaks, which betas of it, and who it is."""

    version: str
    betas: frozenset[str]
    caller: Caller


@dataclass(frozen=True, slots=True)
class Understood:
    """A request whose prompt is made."""

    asked: Asked
    conversation: Conversation
    """What of it the model is shown."""
    prompt: Prompt
    extras: Extras


@router.post("/v1/messages")
async def create_message(request: Request) -> Response:
    body, spoken = await receive(request)
    return await answer(request, body, spoken)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    body, spoken = await receive(request)
    return await count(request, body, spoken)


async def receive(request: Request) -> tuple[bytes, Spoken]:
    """What came with the request, its headers checked in the contract's order (4.1)."""
    settings: ServerSettings = request.app.state.settings
    caller = check_credential(request)
    spoken = Spoken(api_version(request, settings), betas(request, settings), caller)
    return await read_body(request, settings), spoken


async def answer(request: Request, body: bytes, spoken: Spoken) -> Response:
    """The model's answer to a Messages body, at once or as a stream."""
    settings: ServerSettings = request.app.state.settings
    engine: Engine = request.app.state.engine
    wanted, asked, form, extras = await _understood(
        body, partial(_read_message, request.app.state, spoken)
    )
    try:
        form = await tried(form, engine)
    except EngineError as error:
        raise _blamed(error) from error
    turn = form.turn
    headers = ignored_header((*asked.ignored, *form.unheld))
    if not await engine.healthy():
        raise EngineFailed("The engine has stopped; restart the server")
    beginnings: Beginnings | None = request.app.state.beginnings
    if beginnings is not None and turn.prompt.marks:  # nobody waits for the disk
        asyncio.get_running_loop().run_in_executor(None, beginnings.note, turn.prompt)
    if wanted.stream:
        request_id = request.scope["state"]["request_id"]
        return EventStream(
            _frames(turn, engine, request_id, extras, request.app.state.traffic),
            ping_seconds=settings.ping_seconds,
            farewell=error_frame(stopping(), request_id),
            headers=headers,
        )
    whole = await unless_gone(_answer(turn, engine, request.app.state.traffic), request.receive)
    if whole is None:  # nobody is there to read it
        return Response(status_code=499)
    return json_reply(message_body(whole, extras), headers=headers)


async def count(request: Request, body: bytes, spoken: Spoken) -> Response:
    """How many tokens the same body would be as a message."""
    read = await _understood(body, partial(_read_count, request.app.state, spoken))
    counted = count_body(len(read.prompt), read.extras)
    return json_reply(counted, headers=ignored_header(read.asked.ignored))


async def _understood(body: bytes, read: Callable[[bytes], Result]) -> Result:
    """What `read` makes of the body; of a long one, or one with media, in a thread, for others wait
    for the loop."""
    if b'"source"' in body or (b"\\u" in body and _KEY_OF_MEDIA.search(body)):
        return await asyncio.get_running_loop().run_in_executor(_MEDIA_THREADS, read, body)
    if len(body) > _LONG_REQUEST_BYTES:
        return await asyncio.to_thread(read, body)
    return read(body)


def _read_message(
    state: State, spoken: Spoken, body: bytes
) -> tuple[MessagesRequest, Asked, Form, Extras]:
    wanted = parse(MessagesRequest, body)
    engine: Engine = state.engine
    window = engine.card.window
    terms = _terms(wanted, state, spoken)
    read = _read(wanted, terms, engine, spoken.caller.salt)
    asked, prompt, extras = read.asked, read.prompt, read.extras
    sampling = read_sampling(wanted, terms, limit=window)
    if len(prompt) > window:
        raise InvalidRequest(f"prompt is too long: {len(prompt)} tokens > {window} maximum")
    turn = Turn(
        message_id=new_id("msg"),
        model=terms.model,
        prompt=prompt,
        sampling=sampling,
        demands=asked.demands,
        signer=terms.signer,
        cache_minimum=state.settings.cache_minimum,
    )
    if wanted.diagnostics is not None:
        told = _diagnosis(wanted.diagnostics.previous_message_id, turn, read, state.past_prompts)
        extras = replace(extras, asked_why=True, diagnosis=told)
    return wanted, asked, form_of(turn, engine), extras


def _diagnosis(
    previous_id: str | None, turn: Turn, read: Understood, past: PastPrompts
) -> Mapping[str, Any] | None:
    """What is not as in the message before, if there was one; this one is remembered."""
    now = diagnosis.asked(turn.model, read.conversation, read.prompt)
    past.put(turn.message_id, now)
    if previous_id is None:
        return None
    before = past.get(previous_id, read.prompt.salt)
    return diagnosis.NOT_FOUND if before is None else diagnosis.diagnosis(before, now)


def _read_count(state: State, spoken: Spoken, body: bytes) -> Understood:
    wanted = parse(CountTokensRequest, body)
    return _read(wanted, _terms(wanted, state, spoken), state.engine, spoken.caller.salt)


def _terms(wanted: Prompted, state: State, spoken: Spoken) -> Terms:
    """On what terms this server and this client speak about a request."""
    settings: ServerSettings = state.settings
    engine: Engine = state.engine
    return Terms(
        model=resolve_model(wanted.model, settings, engine.card),
        signer=state.signer,
        media=state.open_media(),
        thinks=engine.card.dialect.thought is not None,
        sees=engine.card.sees,
        window=engine.card.window,
        version=spoken.version,
        betas=spoken.betas,
        strict=settings.strict,
        lenient_sampling=settings.lenient_sampling,
    )


def _read(wanted: Prompted, terms: Terms, engine: Engine, salt: str) -> Understood:
    """What is asked, and the prompt that it makes once old parts are edited out."""
    asked = read_request(wanted, terms)
    thinking = asked.demands.thinking is not None

    def prompt(conversation: Conversation) -> Prompt:
        try:
            built = build_prompt(
                conversation, engine.tokenizer, engine.card.dialect, thinking=thinking, salt=salt
            )
            return engine.look(built) if built.images else built
        except ValueError as error:
            raise InvalidRequest(f"messages: {error}") from error
        except EngineError as error:
            raise _blamed(error) from error

    whole = prompt(asked.conversation)
    if asked.edits is None:
        return Understood(asked, asked.conversation, whole, Extras())

    def length(conversation: Conversation) -> int:
        return len(whole if conversation is asked.conversation else prompt(conversation))

    edited, applied = apply_edits(asked.conversation, asked.edits, length)
    shown = prompt(edited) if applied else whole
    extras = Extras(context_management=applied, original_tokens=len(whole))
    return Understood(asked, edited, shown, extras)


def _blamed(error: EngineError) -> ApiError:
    """An engine's failure as the client is told it: a prompt that it refuses is the client's."""
    if isinstance(error, PromptRefused):
        return InvalidRequest(str(error))
    return EngineFailed(str(error))


async def _answer(turn: Turn, engine: Engine, traffic: Traffic) -> Answer:
    try:
        with traffic.answer():
            async with aclosing(run_turn(turn, engine)) as events:
                return await fold(events)
    except EngineError as error:
        raise _blamed(error) from error


async def _frames(
    turn: Turn, engine: Engine, request_id: str, extras: Extras, traffic: Traffic
) -> AsyncGenerator[bytes, None]:
    """The answer's frames. Once the first is out an error can only be an event; before that it is
    raised."""
    begun = False
    try:
        with traffic.answer():
            async with aclosing(run_turn(turn, engine)) as events:
                async for event in events:
                    yield frame(event, extras)
                    begun = True
    except EngineError as error:
        if not begun:
            raise _blamed(error) from error
        yield error_frame(_blamed(error), request_id)
    except ApiError as error:
        if not begun:
            raise
        yield error_frame(error, request_id)
    except Exception:
        if not begun:
            raise
        log.exception("request %s broke in its stream", request_id)
        yield error_frame(EngineFailed("Internal server error"), request_id)
