"""A model folder's own tokenizer and chat template, through transformers.

The one place of the server room that imports transformers (no torch is needed for this).
"""

from pathlib import Path
from typing import Any

from .prompt import ChatMessage, ChatTokenizer


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


class _HuggingFaceTokenizer:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def render(self, messages: list[ChatMessage]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses this: {error}") from error
        return text

    def encode(self, text: str) -> list[int]:
        # The template has already written the control tokens, the first one included.
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
