"""From what was said to token ids, exactly as the server would have them.

Comes in: a conversation, an answer, and a `Tongue`: a model folder's tokenizer and dialect. Goes
out: ids, and which of them the student learns to write. Prompts are rendered by the server's own
`build_prompt`, so that a student is trained on the very tokens that it will be served. It refuses
to know who answered and where samples lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from senryu.server.conversation.messages import Conversation, Message, TextBlock, ThinkingBlock
from senryu.server.turn.dialects.base import Chat, Dialect
from senryu.server.turn.prompt import ChatTokenizer, build_prompt, render

from .errors import DistillError

if TYPE_CHECKING:
    import numpy as np

# What no template writes of its own accord.
_ASKED, _SAID = "five syllables first", "then it is seven of them"


@dataclass(frozen=True, slots=True)
class Tongue:
    """How a model reads and writes a conversation."""

    tokenizer: ChatTokenizer
    dialect: Dialect
    folder: Path | None = None


def open_tongue(model: str | Path) -> Tongue:
    """That of a model folder, a hub id or `embedded`. Raises DistillError."""
    from senryu.server.engine.model_folder import find_model, read_facts
    from senryu.server.turn.tokenizer import open_tokenizer

    try:
        folder = find_model(str(model))
        facts = read_facts(folder, served_name=None, asked=str(model))
        return Tongue(open_tokenizer(folder), facts.dialect, folder)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise DistillError(f"The tokenizer of {model} cannot be opened: {error}.") from error


def same_tokens(one: str | Path, other: str | Path) -> bool:
    """Whether two models read and write the same tokens for every conversation. Raises
    DistillError."""
    mine, theirs = open_tongue(one), open_tongue(other)
    if one == other:
        return True
    return mine.dialect == theirs.dialect and _identity(mine) == _identity(theirs)


def _identity(tongue: Tongue) -> object:
    """All that decides the tokens of a text; for a tokenizer without the usual file, itself."""
    assert tongue.folder, "it was opened from a folder"
    try:
        told = json.loads((tongue.folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return tongue
    parts = ("model", "normalizer", "pre_tokenizer")
    added = {each["content"]: (each["id"], each["special"]) for each in told["added_tokens"]}
    template = getattr(tongue.tokenizer, "template", None)
    return [template, added, *(told.get(part) for part in parts)]


def encode(
    conversation: Conversation,
    answer: Message,
    tokenizer: ChatTokenizer,
    dialect: Dialect,
    thinking: bool = False,
    *,
    ended: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """int32 ids of the prompt and the answer, and a bool mask that is true for the answer's alone.

    The answer is spelt as the next prompt would show it, the end of its turn included unless it
    was cut off (`ended`). Raises ValueError when the template refuses the conversation.
    """
    import numpy as np

    prompt = build_prompt(conversation, tokenizer, dialect, thinking=thinking).token_ids
    said = _spelt(conversation, answer, tokenizer, dialect, thinking=thinking)
    # Some tokenizers put a space before whatever a text begins with: there the answer has to be
    # read behind its prompt. It may not change the prompt, which is read without it.
    begun = render(conversation, tokenizer, dialect, thinking=thinking)
    whole = tokenizer.encode(begun + said)
    read = whole[len(prompt) :] if whole[: len(prompt)] == prompt else tokenizer.encode(said)
    if ended:
        read = [*read, turn_end(tokenizer, dialect)]
    ids = np.asarray(prompt + read, dtype=np.int32)
    mask = np.arange(len(ids)) >= len(prompt)
    return ids, mask


def turn_end(tokenizer: ChatTokenizer, dialect: Dialect) -> int:
    """The token that ends an answer."""
    told = Conversation(messages=(_turn("user", _ASKED), _turn("assistant", _SAID), _ASKS))
    behind = render(told, tokenizer, dialect).partition(_SAID)[2]
    return tokenizer.encode(behind.lstrip())[0]


def user_opening(
    conversation: Conversation | None, system: str, tokenizer: ChatTokenizer, dialect: Dialect
) -> tuple[list[int], str]:
    """The ids of a prompt that ends where the user's turn begins, the first one or the next; and
    the text that would end that turn. Raises ValueError when the template refuses it."""
    if conversation is None:
        told = (TextBlock(text=system),) if system else ()
        conversation = Conversation(messages=(), system=told)
    asked = replace(conversation, messages=(*conversation.messages, _ASKS))
    head, _, tail = render(asked, tokenizer, dialect).rpartition(_ASKED)
    return tokenizer.encode(head), next(iter(tail.strip().splitlines()), "")


def _spelt(
    conversation: Conversation,
    answer: Message,
    tokenizer: ChatTokenizer,
    dialect: Dialect,
    *,
    thinking: bool,
) -> str:
    """The answer as the model would write it behind its prompt, which has opened the thought."""
    marks = dialect.thought
    thought = thinking and any(isinstance(each, ThinkingBlock) for each in answer.content)
    if not thought:
        spoken = tuple(each for each in answer.content if not isinstance(each, ThinkingBlock))
        answer = replace(answer, content=spoken)
    past = dialect.chat(replace(conversation, messages=(*conversation.messages, answer, _ASKS)))
    content = str(past.messages[-2]["content"])  # behind it stands what is asked next
    # Whatever the answer holds that looks like a control token is guarded as in a prefilled one.
    bare = Chat(messages=[{"role": "user", "content": _ASKED}], marks=past.marks)
    said = tokenizer.render(bare, content).removeprefix(tokenizer.render(bare))
    if marks is None:
        return said
    said = marks.shown(said)
    if thinking and not thought:
        return marks.closing + said
    return said.removeprefix(marks.opening) if thinking else said


def _turn(role: str, text: str) -> Message:
    return Message(role="user" if role == "user" else "assistant", content=(TextBlock(text=text),))


_ASKS = _turn("user", _ASKED)
