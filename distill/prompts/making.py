"""Tasks of what is to be asked: the digest that names one, and the words that it is compared by.

Comes in: a conversation and how it is to be answered. Goes out: a `Task`, or its text. It refuses
to know where prompts come from and which of them stay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator

from senryu.server.conversation.messages import (
    Conversation,
    Message,
    NoteBlock,
    TextBlock,
    ToolChoice,
    ToolDefinitionBlock,
    ToolResultBlock,
)

from .base import Kind, Task
from .wire import asked_to_json


def make_task(
    conversation: Conversation,
    *,
    source: str,
    kind: Kind | None = None,
    tool_choice: ToolChoice | None = None,
    results: tuple[str, ...] = (),
    further_turns: int = 0,
) -> Task:
    """A task with its digest. Left out, the kind is `tools` where the model knows any."""
    task = Task(
        id="",
        source=source,
        kind=kind or ("tools" if _knows_tools(conversation) else "chat"),
        conversation=conversation,
        tool_choice=tool_choice or ToolChoice(),
        results=results,
        further_turns=further_turns,
    )
    return dataclasses.replace(task, id=digest_of(task))


def digest_of(task: Task) -> str:
    """SHA-256 of what is asked: equal asks of two sources are one task."""
    told = json.dumps(asked_to_json(task), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def share_of(digest: str) -> float:
    """A number in 0..1 that the digest alone decides, for choosing a share of all tasks."""
    width = 15
    return int(digest[:width], 16) / float(16**width)


def user_says(text: str, *, system: str = "") -> Conversation:
    """The conversation that begins with this text."""
    return Conversation(
        system=(TextBlock(text=system),) if system else (),
        messages=(Message(role="user", content=(TextBlock(text=text),)),),
    )


def users_words(conversation: Conversation) -> str:
    """What the user's side says in all its turns. The system prompt and the tools are not in it:
    a whole log may share those, and is no duplicate for that."""
    return "\n".join(_texts(conversation))


def _texts(conversation: Conversation) -> Iterator[str]:
    for message in conversation.messages:
        if message.role == "assistant":
            continue
        for block in message.content:
            if isinstance(block, TextBlock | NoteBlock):
                yield block.text
            elif isinstance(block, ToolResultBlock):
                yield from (part.text for part in block.content if isinstance(part, TextBlock))


def _knows_tools(conversation: Conversation) -> bool:
    return bool(conversation.tools) or any(
        isinstance(block, ToolDefinitionBlock)
        for message in conversation.messages
        for block in message.content
    )
