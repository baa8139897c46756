"""Calibration sets: what a model is shown while its weights are rounded, and what it is judged on.

Comes in: the packaged conversations, a file of that form, or samples that distill/ stored. Goes
out: token ids as the server would have them, and the conversations themselves. One part is held
out: it is never among what is rounded with. It refuses to know what the tokens are used for.

docs/calibration.md says how the packaged set was made and what a line of such a file holds.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senryu.distill.encode import encode, open_tongue
from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import conversation_from_json, message_from_json
from senryu.distill.shards import ShardStore
from senryu.server.conversation.messages import Conversation, Message, ThinkingBlock

from .errors import QuantizeError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

PACKAGED = "packaged"
"""What the set that comes with senryu is called in a record."""
UNKNOWN = "und"
"""The language of a sample, which nobody wrote down (ISO 639-2, undetermined)."""
_SAMPLES = "samples"
"""Where `senryu distill` keeps them in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """A conversation and the answer that was given, or that would have been right."""

    id: str
    kind: str
    language: str
    """As in BCP 47: `en`, `de`, or `und` where it is not known."""
    conversation: Conversation
    answer: Message


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationSet:
    """Token ids, and where they come from."""

    name: str
    sequences: tuple[Tensor, ...]
    """int64 `(n)` each, a conversation or a part of a long one, in an order that is fixed by the
    seed and in which every kind and language is spread evenly."""
    sha256: str
    """Over the ids of all sequences."""
    counts: Mapping[str, int]
    """Sequences of each kind."""
    languages: tuple[str, ...]
    left_out: int
    """Conversations that the model's template refused."""
    asked: int
    """How many tokens were wanted; there may be fewer."""
    length: int
    seed: int
    held_out: bool

    @property
    def tokens(self) -> int:
        return sum(len(each) for each in self.sequences)

    def record(self) -> dict[str, Any]:
        """For the manifest: what would give the same tokens again, and how to tell."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "sequences": len(self.sequences),
            "tokens": self.tokens,
            "asked_tokens": self.asked,
            "length": self.length,
            "seed": self.seed,
            "held_out": self.held_out,
            "kinds": dict(self.counts),
            "languages": list(self.languages),
            "left_out": self.left_out,
        }


def read_calibration(
    source: Path | None,
    model: Path,
    *,
    held_out: bool = False,
    tokens: int,
    length: int = 512,
    seed: int = 0,
) -> CalibrationSet:
    """`tokens` of a source's tokens, or all that it has. `source` is as in `conversations`; a
    conversation of more than `length` tokens becomes several sequences. Raises QuantizeError."""
    if tokens < 1 or length < 1:
        raise QuantizeError(
            f"A calibration set of {tokens} tokens in sequences of {length} is empty: "
            "ask for at least one of each."
        )
    import numpy as np
    import torch

    spoken = in_order(conversations(source, held_out=held_out), seed)
    encoded = _Encoded(model, spoken)
    sequences: list[np.ndarray] = []
    kinds: Counter[str] = Counter()
    languages: set[str] = set()
    wanted = tokens
    for each, ids in encoded:
        for piece in np.array_split(ids, -(-len(ids) // length)):
            if not wanted:
                break
            sequences.append(piece[:wanted].astype(np.int64))
            wanted -= len(sequences[-1])
            kinds[each.kind] += 1
            languages.add(each.language)
        if not wanted:
            break
    if not sequences:
        raise QuantizeError(
            f"The chat template of {model} takes none of the {len(spoken)} conversations of "
            f"{_name(source)} ({encoded.refused}): give a calibration set that this model can read."
        )
    return CalibrationSet(
        name=_name(source),
        sequences=tuple(torch.from_numpy(each) for each in sequences),
        sha256=_digest(sequences),
        counts=dict(sorted(kinds.items())),
        languages=tuple(sorted(languages)),
        left_out=encoded.left_out,
        asked=tokens,
        length=length,
        seed=seed,
        held_out=held_out,
    )


def packed(sequences: Iterable[Tensor], length: int) -> Tensor:
    """int64 `(rows, length)`: all of them end to end, cut into rows; what does not fill the last
    row is dropped. Raises QuantizeError where there is not one row."""
    import torch

    whole = torch.cat([torch.empty(0, dtype=torch.int64), *sequences])
    rows = len(whole) // length
    if not rows:
        raise QuantizeError(
            f"The calibration set has {len(whole)} tokens, which do not fill one row of {length}: "
            "give a larger set or shorter rows."
        )
    return whole[: rows * length].reshape(rows, length)


def conversations(source: Path | None, *, held_out: bool) -> list[Spoken]:
    """Those of one side, in the order in which they are stored. `source` is None for the packaged
    set, a JSONL file of its form, or a folder that `senryu distill` wrote. Raises QuantizeError."""
    if source is not None and source.is_dir():
        found = list(_of_samples(source, held_out))
    else:
        found = list(_of_lines(source, held_out))
    if not found:
        side = "held out" if held_out else "not held out"
        raise QuantizeError(
            f"{_named(source)} has no conversation that is {side}: "
            "give a calibration set with both kinds."
        )
    return found


def in_order(spoken: Sequence[Spoken], seed: int) -> list[Spoken]:
    """Shuffled, always alike for one seed, and so that however few are taken from the front, each
    kind has about its share of them, and within a kind each language."""
    shuffled = sorted(spoken, key=lambda each: _chance(seed, each.id))
    dealt = _by(shuffled, lambda each: each.kind)
    languages = {kind: _by(each, lambda one: one.language) for kind, each in dealt.items()}
    return _spread({kind: _spread(each, seed) for kind, each in languages.items()}, seed)


def _by(spoken: Iterable[Spoken], key: Callable[[Spoken], str]) -> dict[str, list[Spoken]]:
    groups: dict[str, list[Spoken]] = {}
    for each in spoken:
        groups.setdefault(key(each), []).append(each)
    return groups


def _spread(groups: Mapping[str, Sequence[Spoken]], seed: int) -> list[Spoken]:
    """The members of each group at even distances, each group's first at a place of its own."""
    placed: list[tuple[float, Spoken]] = []
    for name, members in groups.items():
        shift = _chance(seed, name)
        places = ((at + shift) / len(members) for at in range(len(members)))
        placed += zip(places, members, strict=True)
    return [each for _, each in sorted(placed, key=lambda pair: (pair[0], pair[1].id))]


def _chance(seed: int, name: str) -> float:
    """In 0..1, and alike in every version of Python."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6]) / 2**48


class _Encoded:
    """The conversations as ids, one after the other, less those that the template refuses."""

    def __init__(self, model: Path, spoken: Sequence[Spoken]) -> None:
        self.left_out = 0
        self.refused = ""
        self._spoken = spoken
        try:
            self._tongue = open_tongue(model)
        except DistillError as problem:
            raise QuantizeError(str(problem)) from problem

    def __iter__(self) -> Iterator[tuple[Spoken, np.ndarray]]:
        tokenizer, dialect = self._tongue.tokenizer, self._tongue.dialect
        for each in self._spoken:
            thinks = any(isinstance(block, ThinkingBlock) for block in each.answer.content)
            try:
                ids, _ = encode(each.conversation, each.answer, tokenizer, dialect, thinks)
            except ValueError as problem:
                self.left_out += 1
                self.refused = str(problem)
                continue
            yield each, ids


def _of_samples(folder: Path, held_out: bool) -> Iterator[Spoken]:
    inside = folder / _SAMPLES
    store = ShardStore(inside if inside.is_dir() else folder)
    try:
        for sample in store.samples(held_out):
            yield Spoken(
                id=sample.id,
                kind=sample.kind,
                language=UNKNOWN,
                conversation=sample.conversation,
                answer=sample.answer,
            )
    except DistillError as problem:
        raise QuantizeError(str(problem)) from problem


def _of_lines(source: Path | None, held_out: bool) -> Iterator[Spoken]:
    for number, line in enumerate(_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            if not isinstance(told["held_out"], bool):
                raise TypeError("held_out is neither true nor false")
            spoken = _spoken(told)
        except KeyError as problem:
            raise _broken(source, number, f"{problem} is missing") from None
        except (AttributeError, RecursionError, TypeError, ValueError) as problem:
            raise _broken(source, number, str(problem)) from None
        if told["held_out"] is held_out:
            yield spoken


def _spoken(told: Mapping[str, Any]) -> Spoken:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no conversation."""
    words = {key: told[key] for key in ("id", "kind", "language")}
    if wrong := [key for key, value in words.items() if not isinstance(value, str)]:
        raise TypeError(f"{wrong[0]} is no text")
    answer = message_from_json(told["answer"])
    if answer.role != "assistant":
        raise ValueError("the answer is not the assistant's")
    conversation = conversation_from_json(told["conversation"])
    if not conversation.messages:
        raise ValueError("the conversation has no messages")
    return Spoken(**words, conversation=conversation, answer=answer)


def _text(source: Path | None) -> str:
    if source is None:
        packaged = files("senryu.quant").joinpath("packaged", "calibration.jsonl")
        return packaged.read_text(encoding="utf-8")
    try:
        return source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise QuantizeError(
            f"There is no calibration set {source}: give a JSONL file, a folder that `senryu "
            "distill` wrote, or none to take the packaged one."
        ) from None
    except OSError as problem:
        raise QuantizeError(
            f"The calibration set {source} cannot be read: {problem.strerror}."
        ) from problem
    except UnicodeDecodeError as problem:
        raise QuantizeError(
            f"The calibration set {source} is not a text in UTF-8: give a JSONL file."
        ) from problem


def _broken(source: Path | None, number: int, why: str) -> QuantizeError:
    return QuantizeError(
        f"Line {number} of the calibration set {_name(source)} holds no conversation ({why}): "
        "docs/calibration.md says what a line holds."
    )


def _name(source: Path | None) -> str:
    """Without the folders above it, which are one machine's own."""
    return PACKAGED if source is None else source.resolve().name


def _named(source: Path | None) -> str:
    return "The packaged calibration set" if source is None else f"The calibration set {source}"


def _digest(sequences: Sequence[np.ndarray]) -> str:
    told = hashlib.sha256()
    for each in sequences:
        told.update(len(each).to_bytes(8, "little"))
        told.update(each.astype("<i8").tobytes())
    return told.hexdigest()
