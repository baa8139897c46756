"""From the blocks of the wire to the blocks of the vocabulary (contract 1.3.1).

Every kind of block is read, refused with its place, or dropped because it holds nothing for this
model; what is dropped with an effect that the client could miss is noted in `ignored`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import MessageParam

from .cache_marks import marked
from .documents import read_document, read_search_result
from .media_budget import media_budget
from .messages import (
    Block,
    ImageBlock,
    TextBlock,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from .pictures import Pictures
from .terms import Terms
from .thinking import check_redacted, returned_thought
from .tools import Toolbox
from .walk import Placed

# Blocks that only one of the parties can have written.
_PARTIES = {
    "tool_use": "assistant",
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "image": "user",
    "search_result": "user",
    "tool_result": "user",
    "container_upload": "user",
    "compaction": "assistant",
    "tool_addition": "system",
    "tool_removal": "system",
} | dict.fromkeys(wire.HOSTED, "assistant")


class ContentReader:
    """Reads the content of one conversation from its beginning to its end: tools that its blocks
    bring along may be called from there on."""

    def __init__(
        self,
        messages: Sequence[MessageParam],
        blocks: Sequence[Placed],
        terms: Terms,
        toolbox: Toolbox,
    ) -> None:
        self._terms = terms
        self._toolbox = toolbox
        self._pictures = Pictures(terms=terms, budget=media_budget(blocks, terms.window))
        self._latest_answer = max(
            (index for index, each in enumerate(messages) if each.role == "assistant"), default=-1
        )
        self.ignored: list[str] = []

    def read(self, index: int, param: MessageParam) -> list[Block]:
        """The blocks of one entry of the user's or the assistant's. Raises InvalidRequest or
        NotFound."""
        blocks: list[Block] = []
        for place, block in enumerate(param.content):
            here = f"messages.{index}.content.{place}"
            check_party(here, block.type, param.role)
            made = list(self._block(block, here, latest=index == self._latest_answer))
            if made:
                blocks += marked(made, block)
            elif blocks:  # what holds nothing for this model leaves its mark to what stands before
                blocks = marked(blocks, block)
            elif getattr(block, "cache_control", None) is not None:
                self.ignored.append("messages.cache_control")
        return blocks

    def _block(self, block: Any, here: str, *, latest: bool) -> Iterator[Block]:
        match block:
            case wire.Text():
                yield checked_text(block)
            case wire.ToolUse():
                yield ToolUseBlock(id=block.id, name=block.name, input=block.input)
            case wire.ToolResult():
                yield ToolResultBlock(
                    tool_use_id=block.tool_use_id,
                    content=tuple(self._result(block, f"{here}.tool_result.content")),
                    is_error=bool(block.is_error),
                )
            case wire.Thinking():
                thought = returned_thought(block, here, self._terms, latest=latest)
                if thought is None:
                    self.ignored.append("messages.thinking")
                else:
                    yield thought
            case wire.RedactedThinking():
                check_redacted(here, self._terms)
                self.ignored.append("messages.redacted_thinking")
            case wire.Image() | wire.Document() | wire.SearchResult():
                yield from self._medium(block, here)
            case wire.Compaction():
                if block.content and not block.content.isspace():
                    yield TextBlock(text=block.content)
            case wire.HostedBlock():  # what the hosted service's own tools did is no use here
                self.ignored.append(f"messages.{block.type}")
            case _:
                raise InvalidRequest(
                    f"{here}: `{block.type}` blocks are not supported: there is no container on "
                    "this server"
                )

    def _medium(
        self, block: wire.Image | wire.Document | wire.SearchResult, here: str
    ) -> Iterator[TextBlock | ImageBlock]:
        match block:
            case wire.Image():
                yield self._pictures.read(block, f"{here}.image")
            case wire.Document():
                yield from read_document(block, f"{here}.document", self._terms, self._pictures)
            case wire.SearchResult():
                for text in block.content:
                    _check_not_empty(text)
                yield read_search_result(block)

    def _result(
        self, result: wire.ToolResult, within: str
    ) -> Iterator[TextBlock | ImageBlock | ToolDefinitionBlock]:
        """What a tool gave back. Blank text is content here: a tool may well print a newline."""
        for place, block in enumerate(result.content or ()):
            here = f"{within}.{place}"
            match block:
                case wire.Text():
                    _check_not_empty(block)
                    yield from marked([TextBlock(text=block.text)], block)
                case wire.ToolReference():
                    tool, _ = self._toolbox.surface(block.tool_name)
                    yield from marked([ToolDefinitionBlock(tool=tool)], block)
                case wire.BrowserState():
                    self.ignored.append("messages.browser_state")
                case _:
                    yield from marked(self._medium(block, here), block)


def check_party(here: str, kind: str, role: str) -> None:
    """Raises InvalidRequest for a block that this party cannot have written."""
    if role == "system" and kind not in ("text", "tool_addition", "tool_removal"):
        raise InvalidRequest(
            f"{here}: text-only role 'system' messages require `text` blocks, not `{kind}`"
        )
    party = _PARTIES.get(kind, role)
    if party != role:
        raise InvalidRequest(f"{here}: `{kind}` blocks can only be in `{party}` messages")


def checked_text(block: wire.Text) -> TextBlock:
    """Raises InvalidRequest for a text that says nothing."""
    _check_not_empty(block)
    if block.text.isspace():
        raise InvalidRequest("messages: text content blocks must contain non-whitespace text")
    return TextBlock(text=block.text)


def _check_not_empty(block: wire.Text) -> None:
    if not block.text:
        raise InvalidRequest("messages: text content blocks must be non-empty")


def check_citations(blocks: Sequence[Placed], terms: Terms, *, formatted: bool) -> bool:
    """Whether citations are asked for; they are never given. `formatted`: the answer is to have a
    form of its own. Raises InvalidRequest."""
    asked = False
    for placed in blocks:
        switch = getattr(placed.block, "citations", None)
        if not isinstance(switch, wire.CitationSwitch) or not switch.enabled:
            continue
        if formatted:
            raise InvalidRequest("output_config.format: cannot be combined with citations")
        if terms.strict:
            raise InvalidRequest(
                f"{placed.place}.citations: {terms.model} does not support citations"
            )
        asked = True
    return asked


def check_current_rules(blocks: Sequence[Placed], terms: Terms) -> None:
    """What the current API version no longer takes, every place in one sentence (contract 4.2).
    Raises InvalidRequest."""
    if not terms.current:
        return
    documents, cited = [], []
    for placed in blocks:
        role, block = placed.role, placed.block
        if role == "assistant" and isinstance(block, wire.Document):
            documents.append(placed.place)
        if role == "user" and isinstance(block, wire.Text) and block.citations:
            cited.append(f"{placed.place}.citations")
    if documents:
        raise InvalidRequest(
            f"{', '.join(documents)}: `document` blocks cannot be in `assistant` messages with "
            f"anthropic-version {terms.version}"
        )
    if cited:
        raise InvalidRequest(
            f"{', '.join(cited)}: text in `user` messages cannot have citations with "
            f"anthropic-version {terms.version}"
        )
