"""Every block of a request and where it stands, for the rules that are about all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from senryu.server.wire import blocks as wire
from senryu.server.wire.requests import MessageParam


@dataclass(slots=True)  # there are thousands: frozen would triple what they cost
class Placed:
    """A block, where it stands, and whose it is."""

    place: str
    role: str
    block: Any


def every_block(messages: Sequence[MessageParam]) -> Iterator[Placed]:
    """What stands inside a tool result or a document comes before it, as it does in a prompt."""
    for index, message in enumerate(messages):
        for place, block in enumerate(message.content):
            here = f"messages.{index}.content.{place}.{block.type}"
            for inner_place, inner in _inside(here, block):
                yield Placed(inner_place, message.role, inner)
            yield Placed(here, message.role, block)


def _inside(here: str, block: Any) -> Iterator[tuple[str, Any]]:
    match block:
        case wire.ToolResult():
            for place, inner in enumerate(block.content or ()):
                within = f"{here}.content.{place}.{inner.type}"
                yield from _inside(within, inner)
                yield within, inner
        case wire.SearchResult():
            for place, text in enumerate(block.content):
                yield f"{here}.content.{place}", text
        case wire.Document(source=wire.ContentSource() as source):
            for place, inner in enumerate(source.content):
                yield f"{here}.source.content.content.{place}.{inner.type}", inner
        case _:
            return
