"""From a conversation to the token ids that the engine reads.

The same code renders what the server answers, what `count_tokens` counts and what distill/
trains on, so the three cannot drift apart. It knows a tokenizer by two methods and no engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from senryu.server.conversation.messages import Conversation, ImageBlock, ToolResultBlock

from .dialects.base import Chat, Dialect
from .guard import guarded


class ChatTokenizer(Protocol):
    """What a model folder gives us to turn a conversation into token ids."""

    def render(self, chat: Chat, prefill: str = "") -> str:
        """The chat template's text for `chat` up to where the assistant's answer begins, then
        `prefill`. Only `encode` can read it. Raises ValueError when the template refuses."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: the template's control tokens as such, what looks like one
        in a message as the characters that it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the engine reads."""

    token_ids: list[int]
    images: tuple[ImageBlock, ...] = ()
    """In their order, as long as one token stands for each: until `Engine.look` has read them."""

    def __len__(self) -> int:
        return len(self.token_ids)


def build_prompt(
    conversation: Conversation,
    tokenizer: ChatTokenizer,
    dialect: Dialect,
    *,
    thinking: bool = False,
) -> Prompt:
    """Render and encode. `thinking`: whether the answer begins with a thought. Raises ValueError
    when the model's template refuses the conversation."""
    rendered = render(conversation, tokenizer, dialect, thinking=thinking)
    return Prompt(token_ids=tokenizer.encode(rendered), images=tuple(_images(conversation)))


def _images(conversation: Conversation) -> Iterator[ImageBlock]:
    for turn in conversation.messages:
        for block in turn.content:
            for part in block.content if isinstance(block, ToolResultBlock) else (block,):
                if isinstance(part, ImageBlock):
                    yield part


def render(
    conversation: Conversation,
    tokenizer: ChatTokenizer,
    dialect: Dialect,
    *,
    thinking: bool = False,
) -> str:
    """The prompt as text. It ends where the answer goes on: behind the template's opening of the
    answer, the mark of a thought that begins or is skipped, and what the client prefilled."""
    chat = dialect.chat(conversation)
    opened = tokenizer.render(chat)
    prefilled = ""
    if conversation.prefill is not None:
        prefill = guarded(conversation.prefill, chat.marks)
        prefilled = tokenizer.render(chat, prefill).removeprefix(opened)
    if marks := dialect.thought:
        opened = marks.shown(opened)
        # Some templates open the thought themselves.
        opened = opened.removesuffix(marks.opening) + (marks.opening if thinking else marks.skipped)
    return opened + prefilled
