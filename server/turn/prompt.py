"""From a conversation to the token ids that the engine reads.

The same code renders what the server answers, what `count_tokens` counts and what distill/
trains on, so the three cannot drift apart. It knows a tokenizer by two methods and no engine.
"""

from dataclasses import dataclass
from typing import Protocol

from senryu.server.conversation.messages import Conversation

ChatMessage = dict[str, str]


class ChatTokenizer(Protocol):
    """What a model folder gives us to turn a conversation into token ids."""

    def render(self, messages: list[ChatMessage], prefill: str = "") -> str:
        """The chat template's text for `messages` ({"role", "content"}) up to where the
        assistant's answer begins, then `prefill`. Only `encode` can read it. Raises ValueError
        when the template refuses."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text: the template's control tokens as such, what looks like one
        in a message as the characters that it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the engine reads."""

    token_ids: list[int]

    def __len__(self) -> int:
        return len(self.token_ids)


def build_prompt(conversation: Conversation, tokenizer: ChatTokenizer) -> Prompt:
    """Render and encode. Raises ValueError when the model's template refuses the conversation."""
    return Prompt(token_ids=tokenizer.encode(render(conversation, tokenizer)))


def render(conversation: Conversation, tokenizer: ChatTokenizer) -> str:
    """The prompt as text. A prefilled answer follows the template's opening of the answer, so
    that the model goes on where the client stopped."""
    messages: list[ChatMessage] = []
    if conversation.system:
        messages.append({"role": "system", "content": conversation.system_text})
    prefill = conversation.prefill
    turns = conversation.messages if prefill is None else conversation.messages[:-1]
    messages += [{"role": turn.role, "content": turn.text} for turn in turns]
    return tokenizer.render(messages, prefill or "")
