"""From the entries of `messages` to turns that alternate and begin with the user's (contract 1.3).

System entries become marked notes at the end of the user's turn, where they stand; what holds
nothing for this model is left out, and the turns around it are one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from senryu.server.wire import blocks as wire
from senryu.server.wire.errors import InvalidRequest
from senryu.server.wire.requests import MessageParam

from .cache_marks import marked
from .content import ContentReader, check_party, checked_text
from .messages import Block, Message, NoteBlock, ThinkingBlock, ToolDefinitionBlock
from .pairing import check_pairs
from .terms import Terms
from .tools import CHANGES_BETAS, Toolbox

_TURN_CONTROLS = ("clear_at", "output_config")
_CONTROL_BETAS = CHANGES_BETAS | {"per-turn-control-2026-07-01"}


def read_turns(
    params: Sequence[MessageParam], reader: ContentReader, toolbox: Toolbox, terms: Terms
) -> tuple[Message, ...]:
    """Raises InvalidRequest or NotFound."""
    if not params:
        raise InvalidRequest("messages: at least one message is required")
    last = len(params) - 1
    for index, param in enumerate(params):
        _check_turn_control(index, param, terms)
        if _only_controls(param):
            continue
        _check_place(index, params)
        # An empty final answer is allowed and means nothing.
        if not param.content and not (index == last and param.role == "assistant"):
            raise InvalidRequest(
                f"messages.{index}: all messages must have non-empty content except for the "
                "optional final assistant message"
            )
    check_pairs(params)
    turns = list(_merged(_messages(params, reader, toolbox, terms)))
    if turns[-1].role == "assistant":
        # What the client began is gone on with; a thought that was cut off from it cannot be.
        said = [block for block in turns[-1].content if not isinstance(block, ThinkingBlock)]
        if len(said) < len(turns[-1].content):
            reader.ignored.append("messages.thinking")
        turns[-1:] = [Message(role="assistant", content=tuple(said))] if said else []
    return tuple(turns)


def _messages(
    params: Sequence[MessageParam], reader: ContentReader, toolbox: Toolbox, terms: Terms
) -> Iterator[Message]:
    section = Section(toolbox, terms)
    for index, param in enumerate(params):
        if param.role != "system":
            content = tuple(reader.read(index, param))
            if content:
                yield Message(role=param.role, content=content)
            continue
        reader.ignored += [
            f"messages.{name}" for name in _TURN_CONTROLS if getattr(param, name) is not None
        ]
        section.read(index, param)
        following = params[index + 1].role if index + 1 < len(params) else None
        if following == "system":  # several in a row are one
            continue
        if blocks := section.blocks():
            yield Message(role="user", content=blocks)
        section = Section(toolbox, terms)


class Section:
    """System entries in a row: what the operator says, and the tools that come and go."""

    def __init__(self, toolbox: Toolbox, terms: Terms) -> None:
        self._toolbox = toolbox
        self._terms = terms
        self._lines: list[str] = []
        self._marked: list[Any] = []
        self._definitions: list[ToolDefinitionBlock] = []

    def read(self, index: int, param: MessageParam) -> None:
        """Takes in one entry. Raises InvalidRequest."""
        texts = []
        for place, block in enumerate(param.content):
            here = f"messages.{index}.content.{place}"
            check_party(here, block.type, param.role)
            if getattr(block, "cache_control", None) is not None:
                self._marked.append(block)
            if isinstance(block, wire.Text):
                texts.append(checked_text(block).text)
            else:
                self._change(block, here)
        if texts:
            self._lines.append("".join(texts))

    def _change(self, block: Any, here: str) -> None:
        assert isinstance(block, wire.ToolChange)
        if not CHANGES_BETAS & self._terms.betas:
            raise InvalidRequest(f"{here}: Extra inputs are not permitted")
        name = block.tool.name
        if block.type == "tool_removal":
            self._toolbox.remove(name)
            self._lines.append(f"The tool {name} can no longer be called.")
            return
        tool, new = self._toolbox.surface(name)
        if new:
            self._definitions.append(ToolDefinitionBlock(tool=tool))

    def blocks(self) -> tuple[Block, ...]:
        note = [NoteBlock(text="\n".join(self._lines))] if self._lines else []
        blocks: list[Block] = [*note, *self._definitions]
        for block in self._marked:
            blocks = marked(blocks, block)
        return tuple(blocks)


def _check_place(index: int, params: Sequence[MessageParam]) -> None:
    """Whether an entry of this role may stand here."""
    param = params[index]
    if index == 0 and param.role == "assistant":
        raise InvalidRequest('messages: first message must use the "user" role')
    if param.role == "system":
        if index == 0:
            raise InvalidRequest(
                "messages.0: role 'system' cannot open a conversation: "
                "use the top-level 'system' parameter for the initial system prompt"
            )
        if params[index - 1].role == "assistant" and not _ends_hosted(params[index - 1]):
            raise InvalidRequest(f"messages.{index}: role 'system' must follow a user message")
        if index + 1 < len(params) and params[index + 1].role == "user":
            raise InvalidRequest(
                f"messages.{index}: role 'system' must precede an assistant message, or be last"
            )


def _check_turn_control(index: int, param: MessageParam, terms: Terms) -> None:
    """Whether an entry may say how its turn is to be read (contract 1.3.2)."""
    allowed = param.role == "system" and _CONTROL_BETAS & terms.betas
    for name in _TURN_CONTROLS:
        if getattr(param, name) is not None and not allowed:
            raise InvalidRequest(f"messages.{index}.{name}: Extra inputs are not permitted")


def _only_controls(param: MessageParam) -> bool:
    """Such an entry says nothing to the model, and may stand anywhere."""
    return param.role == "system" and not param.content and param.output_config is not None


def _ends_hosted(param: MessageParam) -> bool:
    """Whether an answer ends with what a tool of the hosted service gave back."""
    return bool(param.content) and param.content[-1].type.endswith("_tool_result")


def _merged(messages: Iterable[Message]) -> Iterator[Message]:
    """Consecutive entries of one role are one turn (contract 1.3)."""
    for role, turns in groupby(messages, key=attrgetter("role")):
        yield Message(role=role, content=tuple(block for turn in turns for block in turn.content))
