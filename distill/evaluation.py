"""What was measured of a student, as values and as the file `evaluation.json`.

Comes in: sums over held-out samples, answers that the student gave. Goes out: figures with their
intervals, and the record that the report, the model card and other runs read. It refuses to know
models; nothing here measures.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .compare import Figure, ratio
from .errors import DistillError
from .prompts.base import Kind

FILE_NAME = "evaluation.json"
FORMAT = 1
KINDS: tuple[Kind, ...] = ("chat", "tools", "thinking")
Over = Literal["vocabulary", "stored", "nothing"]
"""What the KL was taken over: all tokens; the stored ones and the rest as one; or no distribution
was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Sums over the answer of one held-out sample, in nats and positions."""

    id: str
    kind: Kind
    tokens: int
    """Tokens of the answer that were predicted."""
    surprise: float
    """Minus the student's log-probability of these."""
    own_surprise: float | None = None
    """Minus the teacher's, where it was here to say."""
    compared: int = 0
    """Positions where the teacher chose freely, as far as is known, and its distribution is
    known."""
    kl: float = 0.0
    agreed: int = 0
    """Of the compared: where both like the same token most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """One student on the held-out samples. Figures are None where nothing was to be compared."""

    rows: tuple[Row, ...]
    over: Over

    def of(self, kind: Kind | None) -> Measures:
        """Those of one kind alone; of all for None."""
        if kind is None:
            return self
        return Measures(rows=tuple(row for row in self.rows if row.kind == kind), over=self.over)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        present = {row.kind for row in self.rows}
        return tuple(kind for kind in KINDS if kind in present)

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def kl(self) -> Figure | None:
        """Nats a compared token."""
        return self._ratio(lambda row: row.kl, lambda row: row.compared)

    @property
    def agreement(self) -> Figure | None:
        """The share of compared positions, 0 to 1."""
        return self._ratio(lambda row: row.agreed, lambda row: row.compared)

    @property
    def perplexity(self) -> Figure | None:
        """Of the student on the teacher's text."""
        figure = self._ratio(lambda row: row.surprise, lambda row: row.tokens)
        return figure and figure.exp()

    @property
    def own_perplexity(self) -> Figure | None:
        """Of the teacher on its own text: what no student needs to beat."""
        if any(row.own_surprise is None for row in self.rows):
            return None
        figure = self._ratio(lambda row: row.own_surprise or 0.0, lambda row: row.tokens)
        return figure and figure.exp()

    def relative_kl(self, before: Measures) -> Figure | None:
        """This KL over that of `before`, on the same samples."""
        pairs = _paired(self, before)
        wholes = [other.kl for _, other in pairs]
        return ratio([row.kl for row, _ in pairs], wholes, _tasks(row for row, _ in pairs))

    def kl_difference(self, other: Measures) -> Figure | None:
        """This KL less that of `other`, in nats a token, on the same samples."""
        pairs = _paired(self, other)
        wholes = [row.compared for row, _ in pairs]
        return ratio([a.kl - b.kl for a, b in pairs], wholes, _tasks(row for row, _ in pairs))

    def _ratio(self, part: Callable[[Row], float], whole: Callable[[Row], float]) -> Figure | None:
        wholes = [whole(row) for row in self.rows]
        return ratio([part(row) for row in self.rows], wholes, _tasks(self.rows))


def _tasks(rows: Iterable[Row]) -> list[str]:
    """The task of each: the answers of one conversation are `<task>-0`, `<task>-1`."""
    return [row.id.rpartition("-")[0] or row.id for row in rows]


def _paired(one: Measures, other: Measures) -> list[tuple[Row, Row]]:
    known = {row.id: row for row in other.rows}
    return [(row, known[row.id]) for row in one.rows if row.id in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One held-out question, answered by both."""

    id: str
    kind: Kind
    source: str
    asked: str
    teacher: str
    """Its answer, as text with the calls spelt out."""
    student: str
    """As it was written, marks and all."""
    tokens: int
    ended: bool
    """Whether it ended by itself, and not by `max_tokens`."""
    should_call: bool = False
    """Whether the teacher called a tool."""
    called: bool = False
    """Whether the student began a call."""
    call_valid: bool = False
    """Whether its calls name known tools, with an input that fits their schema."""
    same_names: bool = False
    """Whether they name the tools that the teacher called."""
    same_calls: bool = False
    """Whether their inputs are equal, too."""
    thought_valid: bool | None = None
    """Whether its thought is closed once and an answer follows; None where it was to think of
    nothing."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    part: int
    whole: int

    def __str__(self) -> str:
        return f"{self.part} of {self.whole}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What the student's own answers show."""

    answers: tuple[Spoken, ...] = ()

    @property
    def ended(self) -> Share:
        return Share(sum(each.ended for each in self.answers), len(self.answers))

    @property
    def calls_valid(self) -> Share:
        """Of the answers that began a call."""
        called = [each for each in self.answers if each.called]
        return Share(sum(each.call_valid for each in called), len(called))

    @property
    def calls_made(self) -> Share:
        """Of the answers where the teacher called."""
        return self._of_calls(lambda each: each.called)

    @property
    def same_names(self) -> Share:
        return self._of_calls(lambda each: each.same_names)

    @property
    def same_calls(self) -> Share:
        return self._of_calls(lambda each: each.same_calls)

    @property
    def thoughts_valid(self) -> Share:
        judged = [each.thought_valid for each in self.answers if each.thought_valid is not None]
        return Share(sum(judged), len(judged))

    def _of_calls(self, holds: Callable[[Spoken], bool]) -> Share:
        wanted = [each for each in self.answers if each.should_call]
        return Share(sum(holds(each) for each in wanted), len(wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many samples of one source and kind there are, and how long they are."""

    source: str
    kind: Kind
    trained: int
    held_out: int
    prompt_tokens: int
    answer_tokens: int
    trained_tokens: int = 0
    """Of the answers that are trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a figure must not be told without."""

    name: str
    """Of the run: its folder's name, say."""
    student: str
    teacher: str
    licence: str
    """Of the teacher."""
    terms: str
    """Where these allow training on its outputs."""
    loss: str = ""
    tokens_trained: int = 0
    train_seconds: float = 0.0
    parameters: int | None = None
    teacher_parameters: int | None = None
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another run, measured with the same samples."""

    run: RunFacts
    before: Figure | None
    kl: Figure | None
    relative_kl: Figure | None
    agreement: Figure | None
    perplexity: Figure | None
    kl_difference: Figure | None
    """Its KL less ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that was measured of one student."""

    run: RunFacts
    samples_digest: str
    """SHA-256 of the held-out samples: figures of other samples are not to be compared."""
    after: Measures
    before: Measures | None = None
    """The student as it was before training."""
    speech: Speech = Speech()
    counts: tuple[Count, ...] = ()
    harness: Mapping[str, float] = field(default_factory=dict)
    harness_note: str = ""
    beside: tuple[Other, ...] = ()

    @property
    def relative_kl(self) -> Figure | None:
        return self.after.relative_kl(self.before) if self.before else None

    def write(self, file: Path) -> None:
        """Whole or not at all. The file says the main figures once more, for who reads it without
        us."""
        told = {"format": FORMAT, "summary": self.summary(), **dataclasses.asdict(self)}
        write_text(file, json.dumps(told, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """Raises DistillError."""
        from pydantic import TypeAdapter, ValidationError

        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(told, dict) or told.get("format") != FORMAT:
                raise ValueError(f"it is not of format {FORMAT}")
            return TypeAdapter(cls).validate_python(told)
        except FileNotFoundError:
            raise DistillError(
                f"There is no {file}: name a folder that a run has evaluated its student in."
            ) from None
        except ValidationError as wrong:
            first = wrong.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise _damaged(file, f"{where}: {first['msg']}") from wrong
        except (OSError, ValueError) as wrong:
            raise _damaged(file, str(wrong)) from wrong

    def summary(self) -> dict[str, Any]:
        """The main figures by name, with their intervals."""
        figures = {
            "kl_before": self.before.kl if self.before else None,
            "kl_after": self.after.kl,
            "kl_relative": self.relative_kl,
            "agreement_before": self.before.agreement if self.before else None,
            "agreement_after": self.after.agreement,
            "perplexity_before": self.before.perplexity if self.before else None,
            "perplexity_after": self.after.perplexity,
            "perplexity_teacher": self.after.own_perplexity,
        }
        return {
            "kl_over": self.after.over,
            "samples": len(self.after.rows),
            "tokens": self.after.tokens,
            **{name: figure and dataclasses.asdict(figure) for name, figure in figures.items()},
        }

    def seen_from(self, other: Evaluation) -> Other:
        """This evaluation as a line beside `other`. Raises DistillError when they were not measured
        alike."""
        name = self.run.name
        if self.samples_digest != other.samples_digest:
            raise DistillError(
                f"{name} was measured with other held-out samples, so it cannot stand beside "
                f"{other.run.name}: evaluate both from the same prompts and samples."
            )
        if self.after.over != other.after.over:
            raise _not_alike(name, self.after.over, other.run.name, other.after.over)
        return Other(
            run=self.run,
            before=self.before.kl if self.before else None,
            kl=self.after.kl,
            relative_kl=self.relative_kl,
            agreement=self.after.agreement,
            perplexity=self.after.perplexity,
            kl_difference=self.after.kl_difference(other.after),
        )


_OVER: Mapping[Over, str] = {
    "vocabulary": "the whole vocabulary",
    "stored": "the stored tokens",
    "nothing": "no distribution",
}


def read_beside(folders: Sequence[Path], samples_digest: str, over: Over) -> tuple[Evaluation, ...]:
    """The evaluations of other runs, before anything is measured of this one, whose KL will be
    taken over `over`. Raises DistillError."""
    found = tuple(Evaluation.read(folder / FILE_NAME) for folder in folders)
    for folder, each in zip(folders, found, strict=True):
        if each.samples_digest != samples_digest:
            raise DistillError(
                f"{folder} was measured with other held-out samples, so it cannot stand beside "
                "this run: evaluate both from the same prompts and samples."
            )
        if each.after.over != over:
            raise _not_alike(str(folder), each.after.over, "this run", over)
    return found


def _not_alike(name: str, over: Over, other: str, others: Over) -> DistillError:
    return DistillError(
        f"{name} was compared over {_OVER[over]} and {other} is over {_OVER[others]}: evaluate "
        "both on a machine that has the teacher."
    )


def _damaged(file: Path, why: str) -> DistillError:
    return DistillError(f"{file} is damaged ({why}): delete it and evaluate that run again.")


def write_text(file: Path, text: str) -> None:
    """Put a text file in its place; it is whole or not there, never half."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


def shown(figure: Figure | None, digits: int = 3, *, scale: float = 1.0) -> str:
    """A figure with its interval, for people."""
    if figure is None:
        return "not known"
    return f"{number(figure.value * scale, digits)} ({interval(figure, digits, scale=scale)})"


def interval(figure: Figure, digits: int = 3, *, scale: float = 1.0) -> str:
    """Its bounds, for people."""
    if figure.low is None or figure.high is None:
        return "interval not known"
    return f"{number(figure.low * scale, digits)} to {number(figure.high * scale, digits)}"


def number(value: float, digits: int = 3) -> str:
    """Where hundreds are meant, nobody reads the thousandths."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
