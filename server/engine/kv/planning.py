"""The scheduler's half: which blocks come from files, and which are to become files.

Knows a request of vLLM by a few of its attributes and its KV memory by numbers of blocks, and no
tensor. A block's name is vLLM's own hash of it, which is chained over all that stands before the
block and holds the salt and the images: two prompts have a name in common exactly as far as they
may share their KV.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .files import KeptBlocks
from .work import Load, Save, Work

KEEP = "senryu_keep"
"""Key in a request's kv_transfer_params: `[[tokens, seconds], ...]`, each the wish that the whole
blocks of so many of the prompt's first tokens be kept for so long."""

TELL = "senryu_tell"
"""Key in a request's extra_args: the wish to be told at once how much of the prompt was found."""

# Of blocks that expire in the same second those in front go last: without them the others are
# of no use.
_BEFORE = 0.001


class Request(Protocol):
    """What we need of vLLM's."""

    request_id: str
    block_hashes: Sequence[bytes]
    num_tokens: int
    num_prompt_tokens: int
    num_computed_tokens: int
    num_preemptions: int
    kv_transfer_params: Mapping[str, Any] | None
    prefill_stats: Any


@dataclass(slots=True)
class _Keeping:
    """A request whose blocks are to be kept, as they come to be computed."""

    request: Request
    wishes: list[tuple[int, float]]
    """Blocks and seconds."""
    next: int = 0

    @property
    def end(self) -> int:
        return max(blocks for blocks, _ in self.wishes)

    def seconds(self, block: int) -> float:
        return max(seconds for blocks, seconds in self.wishes if block < blocks)


@dataclass(slots=True)
class _Found:
    """What was found for a request that waits to be admitted, or whose blocks are being read."""

    start: int
    names: list[str] = field(default_factory=list)
    admitted: int = 0
    """Blocks that are being read."""
    failed: bool = False
    """They could not be read, not even the first."""


class Planner:
    """One for each engine. `block` is how many tokens a block has, `size` how many bytes."""

    def __init__(
        self,
        files: KeptBlocks,
        *,
        block: int,
        size: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._block = block
        self._size = size
        self._clock = clock
        self._keeping: dict[str, _Keeping] = {}
        self._found: dict[str, _Found] = {}
        self._loads: list[Load] = []

    def came(self, request: Request) -> None:
        """A request is new."""
        wishes = [
            (blocks, seconds)
            for tokens, seconds in (request.kv_transfer_params or {}).get(KEEP, ())
            if (blocks := int(tokens) // self._block) > 0
        ]
        if wishes:
            self._keeping[request.request_id] = _Keeping(request, wishes)

    def matched(self, request: Request, computed: int) -> int:
        """How many tokens behind the first `computed`, which the engine has, can be read from
        files. Never the last token: it has to be computed for the answer to begin."""
        start, end = computed // self._block, (request.num_tokens - 1) // self._block
        # Asked again at every step as long as there is no memory for the request.
        before = self._found.get(request.request_id)
        if before and (before.admitted or before.failed):
            # It comes back only when nothing could be read, and would for ever where a disk shows
            # us what it does not show the worker.
            self._found[request.request_id] = _Found(start, failed=True)
            return 0
        found = _Found(start)
        for hashed in request.block_hashes[start:end]:
            name = hashed.hex()
            # Only looked for: others wait for this step, and whoever reads it sees if it is whole.
            if not self._files.extend(name, self._size, 0.0):
                break
            found.names.append(name)
        self._found[request.request_id] = found
        return len(found.names) * self._block

    def admitted(self, request: Request, blocks: Sequence[int], tokens: int) -> None:
        """The request has its blocks, of which `tokens` are to be read from files. Comes a second
        time, with 0 of them, when they have been read as far as possible."""
        found = self._found.get(request.request_id)
        if found is None:
            return
        if tokens:
            found.admitted = tokens // self._block
            names = found.names[: found.admitted]
            places = blocks[found.start : found.start + found.admitted]
            self._loads.append(
                Load(request.request_id, tuple(zip(places, names, strict=True))),
            )
            return
        del self._found[request.request_id]
        if found.admitted:
            self._correct(request, found)

    def work(self, scheduled: Mapping[str, int], blocks_of: Callable[[str], Sequence[int]]) -> Work:
        """What to do in a step that computes so many tokens of these requests."""
        loads, self._loads = self._loads, []
        saves: list[Save] = []
        for request_id, tokens in scheduled.items():
            keeping = self._keeping.get(request_id)
            if keeping is None:
                continue
            computed = keeping.request.num_computed_tokens + tokens
            saves += self._saves(keeping, computed // self._block, blocks_of(request_id))
            if keeping.next == keeping.end:
                del self._keeping[request_id]
        return Work(loads, saves)

    def ended(self, request_id: str) -> None:
        """A request has its answer, or was given up."""
        self._keeping.pop(request_id, None)
        self._found.pop(request_id, None)

    def _saves(self, keeping: _Keeping, computed: int, blocks: Sequence[int]) -> list[Save]:
        """Those of the blocks up to `computed` that are no files yet; the others live on."""
        now = self._clock()
        saves = []
        hashes = keeping.request.block_hashes
        first, end = keeping.next, min(computed, keeping.end, len(hashes))
        if end <= first:
            return []
        # The time counts from when the last of them is computed, which may be minutes after the
        # first was.
        for number in range(0 if end == keeping.end else first, end):
            name = hashes[number].hex()
            expires = now + keeping.seconds(number) - number * _BEFORE
            if not self._files.extend(name, self._size, expires) and number >= first:
                saves.append(Save(blocks[number], name, expires))
        keeping.next = end
        return saves

    def _correct(self, request: Request, found: _Found) -> None:
        """Of what could not be read after all nobody is to be told that it was."""
        local = found.start * self._block
        promised = local + found.admitted * self._block
        stats = request.prefill_stats
        if request.num_computed_tokens < promised and stats and not request.num_preemptions:
            stats.set(request.num_prompt_tokens, local, max(request.num_computed_tokens - local, 0))
