"""Lays samples side by side into rows of equal length, so that no token of a batch is wasted, and
says beforehand which samples are read at which step. Pure.

Comes in: the samples' lengths, a seed. Goes out: a `Plan`, the same every time, of which any step
can be asked without having taken those before it; and `Batch`es. Positions start again at 0 with
each sample: transformers reads the borders from that and lets no sample see another. What is left
of a row is filled as a sample of its own, which nothing learns from. It refuses to know the model.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from .losses import Targets

BUCKET = 1024
"""Samples that are fitted to each other; the next so many begin new rows. Larger ones waste less,
smaller ones stay nearer to the shuffled order."""

Row = tuple[int, ...]
"""The samples of a row, by their numbers."""


class Lesson(Protocol):
    """What is learnt from one sample. `samples.Sample` is one."""

    @property
    def token_ids(self) -> np.ndarray: ...
    @property
    def loss_mask(self) -> np.ndarray: ...
    @property
    def top_ids(self) -> np.ndarray: ...
    @property
    def top_logprobs(self) -> np.ndarray: ...
    @property
    def tail(self) -> np.ndarray: ...


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The rows of one step on one device."""

    input_ids: torch.Tensor
    """int64 [rows, sequence]."""
    position_ids: torch.Tensor
    """int64 [rows, sequence]."""
    where: torch.Tensor
    """int64 [n]: the places, in the rows laid end to end, after which an answer's token stands."""
    targets: Targets
    sizes: tuple[int, ...]
    """Of the samples and fillings, in the rows laid end to end."""

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.where.to(device),
            self.targets.to(device),
            self.sizes,
        )


def epoch_rows(lengths: Sequence[int], sequence: int, seed: int, epoch: int) -> list[Row]:
    """Every sample once, in rows of at most `sequence` tokens: shuffled, then in each bucket the
    longest first, each into the fullest row that still has room for it."""
    chance = random.Random(f"{seed} {epoch}")  # noqa: S311  # no secret
    order = list(range(len(lengths)))
    chance.shuffle(order)
    rows = [
        row
        for start in range(0, len(order), BUCKET)
        for row in _fitted(order[start : start + BUCKET], lengths, sequence)
    ]
    chance.shuffle(rows)
    return rows


def _fitted(samples: Sequence[int], lengths: Sequence[int], sequence: int) -> list[Row]:
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is free in each row, and the row; sorted
    for sample in sorted(samples, key=lambda each: -lengths[each]):
        length = min(lengths[sample], sequence)
        fullest = bisect.bisect_left(room, (length, -1))
        if fullest == len(room):
            free, row = sequence, len(rows)
            rows.append([])
        else:
            free, row = room.pop(fullest)
        rows[row].append(sample)
        bisect.insort(room, (free - length, row))
    return [tuple(row) for row in rows]


class Plan:
    """Which samples are read at which step, until `tokens` have been read."""

    def __init__(
        self, lengths: Sequence[int], *, sequence: int, rows: int, tokens: int, seed: int
    ) -> None:
        self._rows = rows
        self._stream: list[Row] = []
        self._tokens: list[int] = []
        read = 0
        arriving = _arriving(lengths, sequence, seed)
        while read < tokens or len(self._stream) % rows:
            row = next(arriving)
            self._stream.append(row)
            self._tokens.append(sum(min(lengths[each], sequence) for each in row))
            read += self._tokens[-1]

    @property
    def steps(self) -> int:
        return len(self._stream) // self._rows

    def step(self, number: int) -> tuple[Row, ...]:
        """The rows of a step; steps count from 0."""
        return tuple(self._stream[number * self._rows : (number + 1) * self._rows])

    def tokens(self, number: int) -> int:
        """The tokens of a step, prompts included and fillings not."""
        return sum(self._tokens[number * self._rows : (number + 1) * self._rows])


def _arriving(lengths: Sequence[int], sequence: int, seed: int) -> Iterator[Row]:
    epoch = 0
    while True:
        yield from epoch_rows(lengths, sequence, seed, epoch)
        epoch += 1


def learnt(lesson: Lesson, sequence: int) -> np.ndarray:
    """The places of the tokens that are learnt, in the last `sequence` ones of a sample. The very
    first token has nothing before it that it could be told from."""
    places = np.flatnonzero(lesson.loss_mask[-sequence:])
    return places[places > 0]


def batch(rows: Sequence[Sequence[Lesson]], sequence: int, top_k: int) -> Batch:
    """The tensors of some rows. A sample that is longer than a row keeps its end; one that has
    fewer than `top_k` stored tokens gets impossible ones beside them."""
    input_ids = np.zeros((len(rows), sequence), np.int64)
    position_ids = np.zeros((len(rows), sequence), np.int64)
    where, targets, sizes = [], [], []
    for number, row in enumerate(rows):
        start = 0
        for lesson in row:
            ids = lesson.token_ids[-sequence:]
            end = start + len(ids)
            input_ids[number, start:end] = ids
            position_ids[number, start:end] = np.arange(len(ids))
            places = learnt(lesson, sequence)
            where.append(number * sequence + start + places - 1)
            targets.append(_target(lesson, ids[places], top_k))
            sizes.append(len(ids))
            start = end
        sizes.append(sequence - start)
        position_ids[number, start:] = np.arange(sequence - start)
    columns = (np.concatenate(each) for each in zip(*targets, strict=True))
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.from_numpy(np.concatenate(where)),
        Targets(*(torch.from_numpy(each) for each in columns)),
        tuple(each for each in sizes if each),
    )


def _target(lesson: Lesson, tokens: np.ndarray, top_k: int) -> tuple[np.ndarray, ...]:
    count = len(tokens)
    stored = lesson.top_ids.shape[1] if lesson.top_ids.ndim == 2 else 0
    ids = np.zeros((count, top_k), np.int64)
    logprobs = np.full((count, top_k), -np.inf, np.float32)
    tail = np.zeros(count, np.float32)
    if stored and count:
        ids[:, :stored] = lesson.top_ids[-count:]
        logprobs[:, :stored] = lesson.top_logprobs[-count:]
        tail[:] = lesson.tail[-count:]
    elif top_k:  # only its text is known: a certain token
        ids[:, 0] = tokens
        logprobs[:, 0] = 0.0
    return tokens.astype(np.int64), ids, logprobs, tail
