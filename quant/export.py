"""Writes a model that is in memory as a folder in 16 bits.

Comes in: a transformers model and its tokenizer. Goes out: a folder in the Hugging Face layout. It
refuses to know where the model came from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write weights, config and tokenizer."""
    with no_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """transformers draws a bar of its own while it loads and saves; ours already stands there."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
