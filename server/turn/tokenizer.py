"""A model folder's own tokenizer and chat template, through transformers.

The one place of the server room that imports transformers (no torch is needed for this).

A conversation comes again with every turn, a little longer. So a prompt is read in chunks, and the
token ids of a chunk are remembered by its text: only what is new costs a tokenizer's time.
"""

from __future__ import annotations

import re
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from .dialects.base import Chat, ChatMessage
from .guard import GUARD, IMAGE, any_of, guarded


def open_tokenizer(model: str | Path) -> HuggingFaceTokenizer:
    """The tokenizer of a model folder or hub id. Raises ValueError with a sentence when the
    model has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    if not tokenizer.chat_template:
        raise ValueError(
            f"{model} has no chat template, so it cannot hold a conversation: take its "
            "instruction-tuned version, or add chat_template.jinja to the folder"
        )
    return HuggingFaceTokenizer(tokenizer)


REMEMBERED_BYTES = 64 * 2**20
"""Some seventy conversations of 100,000 tokens."""
# Characters: long enough to be few, short enough that little is read again behind the last cut.
CHUNK = 4096

# Between two words, and between two lines: where the tokenizers of today do not reach across.
_CUT = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])|(?<=\S\n)(?=\w)")

# What stands at cuts in texts of people and programs, to try a tokenizer with.
_SAMPLE = (
    "It's one of the things that I'd said to you at the end of the day, and so on (in the U.S. a\n"
    'lot of it is 12345 or so...).\n1. First "of all" a\tb\n\n\n2. Second  of  all\n \nthe third\n'
    "class A(B):\n    def f(self): return not self\n_x = a - b;\n};\nelse it is I am A B c D\r\nx"
    "\nüber état of été\n漢字。\nかな and 한국어\nждём и a ждём!\nЯ\n٣\n"
    "🙂\n🙂 a x\n\N{NO-BREAK SPACE}a b\n"
)


# What no template writes of its own accord.
_PROBE = "seventeen syllables"


class HuggingFaceTokenizer:
    """Text of the conversation is no control token: a user who writes `<|im_end|>` has written ten
    characters and not ended a turn. `render` guards such words (guard.py), `encode` reads guards.
    (A template that rewrites what it is given may undo that.)"""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self._controls = tuple(str(each) for each in added if each.special)
        self._control = any_of(self._controls)
        self._remembered = _Remembered(REMEMBERED_BYTES)
        # Cut wherever it may be, words of the vocabulary that would be cut with it included.
        sample = _SAMPLE + "".join(f"a{word}a {word} a\n{word}\na\n" for word in map(str, added))
        cut = self._ids(list(self._chunks(sample, 1)))
        self._cuts_well = self._ids([sample]) == [list(chain.from_iterable(cut))]
        # Templates of models that see may pass over a content that is no list, without a word.
        parts = [{"type": "text", "text": _PROBE}]
        self._only_parts = self._shows(parts) and not self._shows(_PROBE)

    @property
    def template(self) -> str:
        """The chat template's source; of several, all of them."""
        source = self._tokenizer.chat_template
        return "\n".join(source.values()) if isinstance(source, dict) else str(source)

    def render(self, chat: Chat, prefill: str = "") -> str:
        words = tuple(word for word in self._controls if word not in chat.marks)
        told = [_told(message, in_parts=self._only_parts) for message in chat.messages]
        tools = guarded(chat.tools, words) or None
        text = self._templated(guarded(told, words), tools=tools, **chat.variables)
        return text + guarded(prefill, words)

    def _templated(self, messages: list[ChatMessage], **variables: Any) -> str:
        """Raises ValueError."""
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **variables
            )
        except (TemplateError, TypeError) as error:  # TypeError: it adds a text to something else
            raise ValueError(f"the model's chat template refuses this: {error}") from error
        return text

    def _shows(self, content: Any) -> bool:
        """Whether the template writes the probe in this content."""
        try:
            return _PROBE in self._templated([{"role": "user", "content": content}])
        except ValueError:
            return False

    def encode(self, text: str) -> list[int]:
        return self.encode_to(text, ())[0]

    def encode_to(
        self, text: str, ends: Sequence[int], salt: str = ""
    ) -> tuple[list[int], list[int]]:
        parts = [part for part in text.split(GUARD) if part]
        if self._cuts_well:
            parts = [chunk for part in parts for chunk in self._chunks(part, CHUNK)]
        known = {part: self._remembered.get((salt, part)) for part in parts}
        new = [part for part, ids in known.items() if ids is None]
        known |= zip(new, self._read(new, salt), strict=True)
        ids: list[int] = []
        lengths: list[int] = []
        read = 0
        for part in parts:
            read += len(part)
            while len(lengths) < len(ends) and ends[len(lengths)] < read:
                within = ends[len(lengths)] - (read - len(part))
                lengths.append(len(ids) + self._settled(part[:within], known[part] or (), salt))
            ids += known[part] or ()
        return ids, lengths + [len(ids)] * (len(ends) - len(lengths))

    def _settled(self, beginning: str, ids: Sequence[int], salt: str) -> int:
        """How many tokens a part of the text begins with in common with its own beginning."""
        if not beginning:
            return 0
        alone = self._remembered.get((salt, beginning)) or next(self._read([beginning], salt))
        return next(
            (at for at, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), len(alone)
        )

    def _chunks(self, text: str, length: int) -> Iterator[str]:
        """What stands up to each control token; of that, when it is longer, what stands up to the
        first cut behind `length`. So equal beginnings have equal chunks, and equal messages too,
        wherever they stand."""
        start = 0
        for control in self._control.finditer(text):
            yield from _cut(text[start : control.end()], length)
            start = control.end()
        if start < len(text):
            yield from _cut(text[start:], length)

    def _read(self, texts: list[str], salt: str) -> Iterator[array[int]]:
        """Token ids, from now on remembered."""
        for text, ids in zip(texts, self._ids(texts), strict=True):
            read = array("I", ids)  # four bytes a token, in a list they are forty
            self._remembered.put((salt, text), read)
            yield read

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # The template has already written the control tokens, the first one included.
        ids: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids


def _told(message: ChatMessage, *, in_parts: bool) -> ChatMessage:
    """A message as templates take it: a content with images is a list of texts and images."""
    content = message["content"]
    if not isinstance(content, str) or not (in_parts or IMAGE in content):
        return message
    parts: list[dict[str, str]] = []
    for text in content.split(IMAGE):
        parts += [{"type": "text", "text": text}] if text else []
        parts.append({"type": "image"})
    return {**message, "content": parts[:-1]}  # nothing was split off behind the last text


def _cut(text: str, length: int) -> Iterator[str]:
    start = 0
    while found := _CUT.search(text, start + length):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


class _Remembered:
    """The token ids of texts by salt, as many as `limit` bytes hold; what was not asked for longest
    is forgotten first. Requests are read in threads, so it may be asked by several at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._ids: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str]) -> array[int] | None:
        with self._lock:
            ids = self._ids.get(key)
            if ids is not None:
                self._ids.move_to_end(key)
            return ids

    def put(self, key: tuple[str, str], ids: array[int]) -> None:
        with self._lock:
            if key not in self._ids:
                self._bytes += _size(key, ids)
            self._ids[key] = ids
            while self._bytes > self._limit:
                self._bytes -= _size(*self._ids.popitem(last=False))


def _size(key: tuple[str, str], ids: array[int]) -> int:
    return sys.getsizeof(key) + sys.getsizeof(key[1]) + sys.getsizeof(ids)
