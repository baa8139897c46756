"""From a conversation to the token ids that the engine reads.

The same code renders what the server answers, what `count_tokens` counts and what distill/
trains on, so the three cannot drift apart. It knows a tokenizer by two methods and no engine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from senryu.server.conversation.messages import Conversation, ImageBlock, ToolResultBlock

from .dialects.base import Chat, Dialect
from .guard import GUARD, guarded
from .marks import Mark, places


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

    def encode_to(
        self, text: str, ends: Sequence[int], salt: str = ""
    ) -> tuple[list[int], list[int]]:
        """`encode`, and for each of `ends`, which count the characters of `text` that are no
        guards, how many tokens stand wholly before it. `ends` are sorted. What is remembered of
        the text serves only those with the same salt: how long it takes tells others nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the engine reads."""

    token_ids: list[int]
    images: tuple[ImageBlock, ...] = ()
    """In their order, as long as one token stands for each: until `Engine.look` has read them."""
    marks: tuple[Mark, ...] = ()
    """Up to where the client wants it cached, in the prompt's order."""
    salt: str = ""
    """Prompts share what is cached of them only with those of the same salt."""
    priority: int = 0
    """Of several that wait the one with the lower number is read first."""

    def __len__(self) -> int:
        return len(self.token_ids)


def build_prompt(
    conversation: Conversation,
    tokenizer: ChatTokenizer,
    dialect: Dialect,
    *,
    thinking: bool = False,
    salt: str = "",
) -> Prompt:
    """Render and encode. `thinking`: whether the answer begins with a thought. Raises ValueError
    when the model's template refuses the conversation."""
    rendered = render(conversation, tokenizer, dialect, thinking=thinking)
    marked = places(conversation, rendered.replace(GUARD, ""), dialect)
    # A template may put the tools behind the system prompt.
    marked.sort(key=lambda place: place.end)
    ids, lengths = tokenizer.encode_to(rendered, [place.end for place in marked], salt)
    return Prompt(
        token_ids=ids,
        images=tuple(_images(conversation)),
        marks=tuple(
            Mark(tokens, place.ttl, place.part)
            for place, tokens in zip(marked, lengths, strict=True)
        ),
        salt=salt,
    )


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
