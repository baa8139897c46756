"""Where a client asks for its prompt to be cached: whether the marks stand where they may
(contract 5.1 to 5.3), and which of them each block of the vocabulary takes over.

What they come to in tokens is a matter of the rendered prompt: `turn/marks.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import Prompted

from .messages import Block, Tool, Ttl
from .walk import Placed

Marked = TypeVar("Marked", bound=Block | Tool)

_MOST = 4
_DEFAULT_TTL: Ttl = "5m"
# Blocks that a mark at the top of the request passes over on its way to the last one.
_UNMARKABLE = (wire.Thinking, wire.RedactedThinking, wire.HostedBlock)


def read_marks(request: Prompted, blocks: Sequence[Placed]) -> None:
    """Checks the marks of a request, of whose messages these are the blocks, and puts the one at
    its top on the block that it stands for. Raises InvalidRequest for misplaced ones."""
    marks = [(f"{place}.cache_control", _ttl(mark)) for place, mark in _explicit(request, blocks)]
    if request.cache_control is not None:
        ttl = _ttl(request.cache_control)
        target = next(_from_the_end(request), None)
        own = getattr(target, "cache_control", None)
        if own is not None and _ttl(own) != ttl:
            raise InvalidRequest(
                f"Top-level cache_control has ttl='{ttl}' but the target block already has "
                f"cache_control with ttl='{_ttl(own)}'"
            )
        if own is None and target is not None:
            marks.append(("cache_control", ttl))
            target.cache_control = request.cache_control
    if len(marks) > _MOST:
        raise InvalidRequest(
            f"A maximum of {_MOST} blocks with cache_control may be provided. Found {len(marks)}."
        )
    short = False
    for place, ttl in marks:
        if short and ttl == "1h":
            raise InvalidRequest(
                f"{place}.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
                "cache_control block. Note that blocks are processed in the following order: "
                "tools, system, messages."
            )
        short = short or ttl == "5m"


def marked(blocks: Iterable[Marked], source: Any) -> list[Marked]:
    """What was made of a block of the wire: the last of it has that one's mark. Of two marks that
    come to stand at one place the longer holds."""
    made = list(blocks)
    if made and (mark := getattr(source, "cache_control", None)) is not None:
        long = "1h" in (_ttl(mark), made[-1].cache)
        made[-1] = replace(made[-1], cache="1h" if long else "5m")
    return made


def _ttl(mark: wire.Ephemeral) -> Ttl:
    return mark.ttl or _DEFAULT_TTL


def _explicit(request: Prompted, blocks: Sequence[Placed]) -> Iterator[tuple[str, wire.Ephemeral]]:
    """The marks on blocks, in prefix order. Raises InvalidRequest for one on an empty text."""
    for place, block in _in_order(request, blocks):
        mark = getattr(block, "cache_control", None)
        if mark is None:
            continue
        if isinstance(block, wire.Text) and not block.text:
            raise InvalidRequest(f"{place}: cache_control cannot be set for empty text blocks")
        yield place, mark


def _in_order(request: Prompted, blocks: Sequence[Placed]) -> Iterator[tuple[str, Any]]:
    for index, tool in enumerate(request.tools or ()):
        yield f"tools.{index}.{tool.type}", tool
    for index, text in enumerate(request.system or ()):
        yield f"system.{index}", text
    for placed in blocks:
        yield placed.place, placed.block


def _from_the_end(request: Prompted) -> Iterator[Any]:
    """The blocks that can carry a mark, the last one first."""
    for message in reversed(request.messages):
        for block in reversed(message.content):
            empty = isinstance(block, wire.Text) and not block.text
            if not isinstance(block, _UNMARKABLE) and not empty:
                yield block
    yield from (text for text in reversed(request.system or ()) if text.text)
    yield from (tool for tool in reversed(request.tools or ()) if not _deferred(tool))


def _deferred(tool: Any) -> bool:
    return bool(getattr(tool, "defer_loading", None))
