"""From the body of a request to its answer: what the routes and the batches share.

In: bytes, and who sent them on what terms. Out: frames, or a whole message. A batch is many turns
without a socket.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.datastructures import State

from senryu.server.conversation.editing import apply_edits
from senryu.server.conversation.intake import Asked, Terms, read_request, read_sampling
from senryu.server.conversation.messages import Conversation
from senryu.server.engine.base import Engine, EngineError, EngineGone, PromptRefused
from senryu.server.forms import Form, form_of, tried
from senryu.server.identifiers import new_id
from senryu.server.naming import resolve_model
from senryu.server.past_prompts import PastPrompts
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.account import Opened
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.presence import now_ms
from senryu.server.tenancy.visit import Rules, Visit
from senryu.server.traffic import Traffic
from senryu.server.turn import diagnosis
from senryu.server.turn.blocks import Answer, TurnEnded, fold
from senryu.server.turn.prompt import Prompt, build_prompt
from senryu.server.turn.turn import Turn, run_turn
from senryu.server.warm_up import Beginnings
from senryu.server.wire.encoding import encoded
from senryu.server.wire.errors import ApiError, EngineFailed, InvalidRequest, NotReady
from senryu.server.wire.requests import CountTokensRequest, MessagesRequest, Prompted, parse
from senryu.server.wire.responses import Extras, message_body
from senryu.server.wire.sse import error_frame, frame

log = logging.getLogger("senryu.server")

Result = TypeVar("Result")
Work = Callable[[AsyncConnection], Awaitable[None]]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """Which version of the API a client speaks, which betas of it, who it is, and what it calls its
    work."""

    version: str
    betas: frozenset[str]
    caller: Caller
    request_id: str
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Understood:
    """A request whose prompt is made."""

    asked: Asked
    conversation: Conversation
    """What of it the model is shown."""
    prompt: Prompt
    extras: Extras


@dataclass(frozen=True, slots=True)
class Ready:
    """A request that can be answered, or be told that it may not."""

    wanted: MessagesRequest
    asked: Asked
    form: Form
    extras: Extras
    spoken: Spoken
    began_at: int


@dataclass(frozen=True, slots=True)
class Batched:
    """A request of a batch."""

    batch_id: str
    task: str | None
    keep: Callable[[bytes], Work]
    """Writes the message, given as JSON."""


async def make_ready(state: State, body: bytes, spoken: Spoken) -> Ready:
    """Reads the request and makes its prompt. Raises ApiError."""
    began_at = now_ms()
    read: tuple[MessagesRequest, Asked, Form, Extras] = await understood(
        body, partial(_read_message, state, spoken)
    )
    wanted, asked, form, extras = read
    engine: Engine = state.engine
    if not await engine.healthy():
        raise blamed(EngineGone(engine.back_in()))
    try:
        form = await tried(form, engine)
    except EngineError as error:
        raise blamed(error) from error
    beginnings: Beginnings | None = state.beginnings
    if beginnings is not None and form.turn.prompt.marks:  # nobody waits for the disk
        asyncio.get_running_loop().run_in_executor(None, beginnings.note, form.turn.prompt)
    return Ready(wanted, asked, form, extras, spoken, began_at)


async def whole(state: State, ready: Ready) -> dict[str, Any]:
    """The message. Raises ApiError."""
    visit = _visit(state, ready)
    return message_body(await _folded(state, ready, visit), ready.extras)


async def frames(state: State, ready: Ready) -> AsyncGenerator[bytes, None]:
    """The answer's frames. Once the first is out an error can only be an event; before that it is
    raised."""
    request_id, extras = ready.spoken.request_id, ready.extras
    traffic: Traffic = state.traffic
    begun = False
    try:
        async with _visit(state, ready) as visit:
            with blaming(), traffic.answer():
                async with aclosing(run_turn(ready.form.turn, visit)) as events:
                    async for event in events:
                        if isinstance(event, TurnEnded):
                            await visit.done(event.usage, event.stop_reason)
                        yield frame(event, extras)
                        begun = True
    except ApiError as error:
        if not begun:
            raise
        yield error_frame(error, request_id)
    except Exception:
        if not begun:
            raise
        log.exception("request %s broke in its stream", request_id)
        yield error_frame(EngineFailed("Internal server error"), request_id)


async def answer_item(state: State, params: bytes, spoken: Spoken, batched: Batched) -> None:
    """Answers one request of a batch, and has its message kept in the transaction in which the
    ledger counts it. Raises ApiError; NotReady where it is to be tried again."""
    ready = await make_ready(state, params, spoken)
    if ready.wanted.stream:
        raise InvalidRequest("stream: requests of a batch cannot be streamed")
    if ready.wanted.max_tokens == 0:
        raise InvalidRequest("max_tokens: Input should be greater than or equal to 1 in a batch")
    visit = _visit(state, ready, batched)
    await _folded(state, ready, visit, batched)


async def _folded(
    state: State, ready: Ready, visit: Visit, batched: Batched | None = None
) -> Answer:
    traffic: Traffic = state.traffic
    async with visit:
        with blaming(), traffic.answer():
            async with aclosing(run_turn(ready.form.turn, visit)) as events:
                answer = await fold(events)
        if batched is None:
            await visit.done(answer.usage, answer.stop_reason)
        else:
            message = encoded(message_body(answer, ready.extras, tier="batch"))
            if not await visit.kept(answer.usage, answer.stop_reason, batched.keep(message)):
                raise NotReady("The ledger does not know this request any longer")
        return answer


def _visit(state: State, ready: Ready, batched: Batched | None = None) -> Visit:
    turn, wanted, spoken = ready.form.turn, ready.wanted, ready.spoken
    user = wanted.metadata.user_id if wanted.metadata else None
    task = wanted.metadata.task if wanted.metadata else None
    opened = Opened(
        id=turn.message_id,
        request_id=spoken.request_id,
        caller=spoken.caller,
        model=turn.model,
        task=task or spoken.task or (batched.task if batched else None),
        user_hash=hashlib.sha256(user.encode()).hexdigest()[:16] if user else None,
        tier="batch" if batched else "standard",
        batch_id=batched.batch_id if batched else None,
        started_at=ready.began_at,
        prompt_tokens=len(turn.prompt),
        max_tokens=turn.sampling.max_tokens,
        stream=bool(wanted.stream),
    )
    rules: Rules = state.rules
    return Visit(opened, turn, state.engine, rules)


async def count(state: State, body: bytes, spoken: Spoken) -> Understood:
    """What the same body would be as a message. Raises ApiError."""
    return await understood(body, partial(_read_count, state, spoken))


async def understood(body: bytes, read: Callable[[bytes], Result]) -> Result:
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
        media=state.open_media(files=state.files and state.files.seen_by(spoken.caller)),
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
            raise blamed(error) from error

    whole = prompt(asked.conversation)
    if asked.edits is None:
        return Understood(asked, asked.conversation, whole, Extras())

    def length(conversation: Conversation) -> int:
        return len(whole if conversation is asked.conversation else prompt(conversation))

    edited, applied = apply_edits(asked.conversation, asked.edits, length)
    shown = prompt(edited) if applied else whole
    extras = Extras(context_management=applied, original_tokens=len(whole))
    return Understood(asked, edited, shown, extras)


def blamed(error: EngineError) -> ApiError:
    """An engine's failure as the client is told it: a prompt that it refuses is the client's."""
    if isinstance(error, PromptRefused):
        return InvalidRequest(str(error))
    if isinstance(error, EngineGone) and error.seconds is not None:
        return NotReady(str(error), retry_after=error.seconds)
    return EngineFailed(str(error))


@contextmanager
def blaming() -> Iterator[None]:
    """Turns an engine's failure into what the client is told, so that all who hear of it hear the
    same."""
    try:
        yield
    except EngineError as error:
        raise blamed(error) from error
