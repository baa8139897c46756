"""Why a prompt could not be read from the cache: what of it is not as in the message before
(contract 1.10.4).

Pure: past prompts are kept in `server/past_prompts.py`.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from senryu.server.conversation.messages import Conversation, ImageBlock

from .prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A prompt as it is compared with another one."""

    model: str
    tools: tuple[bytes, ...]
    system: tuple[bytes, ...]
    messages: tuple[bytes, ...]
    """A digest of each block, the marks left out."""
    token_ids: "array[int]"
    salt: str


def asked(model: str, conversation: Conversation, prompt: Prompt) -> Asked:
    return Asked(
        model=model,
        tools=tuple(_digests(conversation.tools)),
        system=tuple(_digests(conversation.system)),
        messages=tuple(
            digest
            for turn in conversation.messages
            for digest in (turn.role.encode(), *_digests(turn.content))
        ),
        token_ids=array("I", prompt.token_ids),
        salt=prompt.salt,
    )


def _digests(blocks: Sequence[Any]) -> Iterator[bytes]:
    for block in blocks:
        if isinstance(block, ImageBlock):
            said = block.data
        else:
            told = _without_marks(asdict(block))
            said = json.dumps([type(block).__name__, told], default=_readable).encode()
        yield hashlib.blake2b(said, digest_size=16).digest()


def _without_marks(told: dict[str, Any]) -> dict[str, Any]:
    """A thought is what was thought, whatever seals it."""
    kept = {key: value for key, value in told.items() if key not in ("cache", "signature")}
    for key in ("content", "tool"):
        match kept.get(key):
            case dict() as inner:
                kept[key] = _without_marks(inner)
            case tuple() | list() as several:
                kept[key] = [_without_marks(each) for each in several]
    return kept


def _readable(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else dict(value)


def diagnosis(before: Asked, now: Asked) -> Mapping[str, Any] | None:
    """What of the prompt before has changed and how many of its tokens have to be read again; None
    where it goes on unchanged."""
    missed = len(before.token_ids) - _common(before.token_ids, now.token_ids)
    if before.model != now.model:
        return _reason("model_changed", len(before.token_ids))
    if before.tools != now.tools:
        return _reason("tools_changed", missed)
    if before.system != now.system:
        return _reason("system_changed", missed)
    if before.messages != now.messages[: len(before.messages)]:
        return _reason("messages_changed", missed)
    return None


def _reason(kind: str, missed: int) -> Mapping[str, Any]:
    return {"cache_miss_reason": {"type": kind, "cache_missed_input_tokens": missed}}


NOT_FOUND: Mapping[str, Any] = {"cache_miss_reason": {"type": "previous_message_not_found"}}


def _common(one: "array[int]", other: "array[int]") -> int:
    """How many tokens two prompts begin with together."""
    first, second = memoryview(one), memoryview(other)
    low, high = 0, min(len(first), len(second))
    while low < high:  # equal up to `low`, and not beyond `high`
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
