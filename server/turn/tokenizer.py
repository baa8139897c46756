"""A model folder's own tokenizer and chat template, through transformers.

The one place of the server room that imports transformers (no torch is needed for this).
"""

import copy
import re
from pathlib import Path
from typing import Any

from .dialects.base import Chat
from .prompt import ChatTokenizer


def open_tokenizer(model: str | Path) -> ChatTokenizer:
    """The tokenizer of a model folder or hub id. Raises ValueError with a sentence when the
    model has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    if not tokenizer.chat_template:
        raise ValueError(
            f"{model} has no chat template, so it cannot hold a conversation: take its "
            "instruction-tuned version, or add chat_template.jinja to the folder"
        )
    return _HuggingFaceTokenizer(tokenizer)


# A Unicode noncharacter, which no text that people exchange contains.
_GUARD = "\ufdd0"


class _HuggingFaceTokenizer:
    """Text of the conversation is no control token: a user who writes `<|im_end|>` has written ten
    characters and not ended a turn. `render` puts guards round such words, and `encode` spells
    out what stands between guards. (A template that rewrites what it is given may undo that.)"""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # transformers keeps `split_special_tokens` in the tokenizer that it is asked of, and long
        # requests are encoded in threads: one that spells out, one that never does.
        self._speller = copy.deepcopy(tokenizer)
        controls = [str(each) for each in tokenizer.added_tokens_decoder.values() if each.special]
        longest_first = sorted(controls, key=len, reverse=True)
        words = "|".join(map(re.escape, longest_first)) or r"(?!)"  # none: matches nothing
        self._control = re.compile(words)
        self._guarded = re.compile(f"{_GUARD}({words}){_GUARD}")

    def render(self, chat: Chat, prefill: str = "") -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                self._guarded_in(chat.messages),
                tools=self._guarded_in(chat.tools) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses this: {error}") from error
        return text + self._guard(prefill)

    def _guarded_in(self, value: Any) -> Any:
        """The same value, every text in it guarded."""
        match value:
            case str():
                return self._guard(value)
            case list() | tuple():
                return [self._guarded_in(item) for item in value]
            case dict():
                return {self._guard(key): self._guarded_in(item) for key, item in value.items()}
            case _:
                return value

    def _guard(self, text: str) -> str:
        plain = text.replace(_GUARD, "\N{REPLACEMENT CHARACTER}")
        return self._control.sub(rf"{_GUARD}\g<0>{_GUARD}", plain)

    def encode(self, text: str) -> list[int]:
        if _GUARD not in text:
            return self._ids(text)
        ids: list[int] = []
        # Splitting at a group keeps the groups: every second piece stood between guards.
        for number, piece in enumerate(self._guarded.split(text)):
            ids += self._spelt(piece) if number % 2 else self._ids(piece)
        return ids

    def _ids(self, text: str) -> list[int]:
        # The template has already written the control tokens, the first one included.
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _spelt(self, text: str) -> list[int]:
        ids: list[int] = self._speller(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        return ids
