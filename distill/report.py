"""The report of a run: what was measured, as one page for people.

Comes in: an evaluation, the curve of the training, the recipe's text. Goes out: the text of
`report.html`. Pure: it reads and measures nothing, and says only what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isclose

from .compare import Figure
from .curve import Point
from .curves import Line, draw
from .evaluation import Evaluation, Measures, Other, Share, Spoken, interval, number, shown
from .page import (
    Card,
    Cards,
    Drawing,
    Part,
    Section,
    SideBySide,
    Table,
    Text,
    Verbatim,
    page,
)

_HELD = (
    "Positions where a token among the stored ones was forbidden to the teacher by a grammar are "
    "left out; a grammar that allowed more tokens than are stored cannot be told from none."
)
_OVER = {
    "vocabulary": "KL(teacher || student) over the whole vocabulary, in nats a token of the "
    "teacher's answers, on samples that were never trained on. " + _HELD,
    "stored": "KL(teacher || student) over the stored tokens and the rest as one outcome, in nats "
    "a token of the teacher's answers, on samples that were never trained on. It is at most the "
    "KL over the whole vocabulary. " + _HELD,
    "nothing": "The teacher gave text and no distributions, so no KL is known. Perplexity is the "
    "student's on the teacher's answers, on samples that were never trained on.",
}
_INTERVALS = (
    "In brackets: 95 % intervals, by bootstrap over the tasks; the turns of one conversation are "
    "one task."
)
_FEW = 20
"""Of fewer cases no percentage is told: it would look surer than it is."""


def render(evaluation: Evaluation, curve: Sequence[Point], recipe_text: str) -> str:
    """The page."""
    run = evaluation.run
    sections = [
        Section("How close it came", (_headline(evaluation), *_explained(evaluation))),
        *_section("Beside other runs", _beside(evaluation)),
        *_section("How training went", _curves(curve)),
        *_section("By kind of sample", _by_kind(evaluation)),
        *_section("What it says itself", _speech(evaluation)),
        *_section("Public tasks", _harness(evaluation)),
        *_section("Prompts and answers", _prompts(evaluation)),
        Section("How it was made", _made(evaluation, recipe_text)),
    ]
    subtitle = f"A student of {run.teacher}, {run.date[:10]}"
    foot = f"senryu {run.versions.get('senryu', '')}".strip()
    return page(run.student, subtitle, sections, foot=foot)


def _section(title: str, parts: tuple[Part, ...]) -> list[Section]:
    return [Section(title, parts)] if parts else []


def _headline(evaluation: Evaluation) -> Cards:
    before, after = evaluation.before, evaluation.after
    cards = []
    if after.kl:
        relative = evaluation.relative_kl
        was = f"{_bare(before.kl)} → " if before and before.kl else ""
        cards.append(Card("KL to the teacher", f"{was}{_bare(after.kl)}", "nats a token"))
        if relative:
            cards.append(Card("KL after over before", _bare(relative), interval(relative)))
    if after.agreement:
        was = f"{_percent(before.agreement)} → " if before and before.agreement else ""
        value = f"{was}{_percent(after.agreement)} %"
        cards.append(Card("Same first choice", value, "of the compared positions"))
    if after.perplexity:
        was = f"{number(before.perplexity.value, 2)} → " if before and before.perplexity else ""
        own = after.own_perplexity
        note = f"the teacher's own: {number(own.value, 2)}" if own else "on the teacher's answers"
        cards.append(Card("Perplexity", f"{was}{number(after.perplexity.value, 2)}", note))
    return Cards(tuple(cards))


def _explained(evaluation: Evaluation) -> tuple[Part, ...]:
    after = evaluation.after
    sampled = f"{len(after.rows)} held-out samples, {after.tokens:,} tokens."
    return (Text(f"{_OVER[after.over]} {sampled} {_INTERVALS}"),)


def _beside(evaluation: Evaluation) -> tuple[Part, ...]:
    if not evaluation.beside:
        return ()
    own = evaluation.seen_from(evaluation)
    rows = tuple(_run_row(each, own) for each in (own, *evaluation.beside))
    columns = (
        *("run", "KL after", "KL less ours", "after / before", "same first choice, %"),
        *("perplexity", "KL before", "loss", "tokens trained"),
    )
    return (
        Table(columns, rows),
        Text(
            'All runs were measured on the same held-out samples. "KL less ours" compares sample '
            "by sample; where its interval is above 0, ours is closer to the teacher."
        ),
    )


def _run_row(each: Other, own: Other) -> tuple[str, ...]:
    return (
        each.run.name + (" (this)" if each is own else ""),
        shown(each.kl),
        "" if each is own else shown(each.kl_difference),
        shown(each.relative_kl),
        shown(each.agreement, 1, scale=100),
        shown(each.perplexity, 2),
        shown(each.before),
        each.run.loss or "not known",
        f"{each.run.tokens_trained:,}",
    )


def _curves(curve: Sequence[Point]) -> tuple[Part, ...]:
    shared = [point for point in curve if not point.on_policy]
    parts = [
        _line("KL to the teacher", shared, lambda point: point.kl),
        _line("cross-entropy", shared, lambda point: point.sft),
    ]
    loss = _line("loss", shared, lambda point: point.loss)
    # A loss that is one of its parts would lie under it.
    alone = [] if any(_same(loss, each) for each in parts) else [loss]
    own = _line("loss on its own text", _own(curve), lambda point: point.loss)
    losses = [*alone, *parts, own]
    rate = [_line("learning rate", curve, lambda point: point.learning_rate)]
    speed = [_line("tokens a second", curve, lambda point: point.tokens_per_second)]
    drawn = (
        ("Loss and KL, as they were in training.", losses, "nats a token", 3.4),
        ("Learning rate.", rate, "learning rate", 2.2),
        ("Speed.", speed, "tokens a second", 2.2),
    )
    return tuple(
        Drawing(svg, caption)
        for caption, lines, y, height in drawn
        if (svg := draw(lines, x="tokens trained on", y=y, height=height))
    )


def _own(curve: Sequence[Point]) -> list[Point]:
    return [point for point in curve if point.on_policy]


def _line(name: str, curve: Sequence[Point], value: Callable[[Point], float | None]) -> Line:
    told = ((point.tokens, value(point)) for point in curve)
    return Line(name, tuple((float(x), y) for x, y in told if y is not None))


def _same(one: Line, other: Line) -> bool:
    return len(one.points) == len(other.points) and all(
        isclose(mine, its, rel_tol=1e-3)
        for (_, mine), (_, its) in zip(one.points, other.points, strict=True)
    )


def _by_kind(evaluation: Evaluation) -> tuple[Part, ...]:
    kinds = evaluation.after.kinds
    columns = ("", "samples", "tokens", "KL", "same first choice, %", "perplexity")
    rows = []
    for kind in (*kinds, None) if len(kinds) > 1 else kinds:
        for name, measures in (("before", evaluation.before), ("after", evaluation.after)):
            if measures is not None:
                rows.append(_measures_row(f"{kind or 'all'}, {name}", measures.of(kind)))
    return (Table(columns, tuple(rows)),)


def _measures_row(name: str, measures: Measures) -> tuple[str, ...]:
    return (
        name,
        str(len(measures.rows)),
        f"{measures.tokens:,}",
        shown(measures.kl),
        shown(measures.agreement, 1, scale=100),
        shown(measures.perplexity, 2),
    )


def _speech(evaluation: Evaluation) -> tuple[Part, ...]:
    speech = evaluation.speech
    if not speech.answers:
        return ()
    told = (
        ("answers that end by themselves", speech.ended),
        ("calls begun where the teacher called", speech.calls_made),
        ("begun calls that are valid: a known tool, an input that fits", speech.calls_valid),
        ("same tools as the teacher", speech.same_names),
        ("same tools with equal inputs", speech.same_calls),
        ("thoughts that are closed, with an answer behind", speech.thoughts_valid),
    )
    rows = tuple((name, _share(share)) for name, share in told if share.whole)
    return (
        Table(("the student's own answers, always its most probable token", ""), rows),
        *(_pair(each, evaluation.run.student) for each in speech.answers),
    )


def _share(share: Share) -> str:
    if share.whole < _FEW:
        return str(share)
    return f"{share} ({100 * share.part / share.whole:.0f} %)"


def _pair(each: Spoken, student: str) -> SideBySide:
    remarks = []
    if not each.ended:
        remarks.append(f"The student's answer was cut after {each.tokens} tokens.")
    if each.should_call and not each.called:
        remarks.append("The teacher called a tool and the student did not.")
    if each.called:
        remarks.append("Its call is valid." if each.call_valid else "Its call is not valid.")
    if each.same_calls:
        remarks.append("It is the teacher's call.")
    elif each.same_names:
        remarks.append("It calls the teacher's tool with another input.")
    if each.thought_valid is not None:
        how = "closed and followed by an answer" if each.thought_valid else "not well-formed"
        remarks.append(f"Its thought is {how}.")
    answers = (("Teacher", each.teacher), (f"Student, {student}", each.student))
    return SideBySide(asked=each.asked, answers=answers, remarks=tuple(remarks))


def _harness(evaluation: Evaluation) -> tuple[Part, ...]:
    parts: list[Part] = []
    if evaluation.harness:
        rows = tuple((name, f"{value:.3f}") for name, value in evaluation.harness.items())
        parts.append(Table(("task, metric", "value"), rows))
    if evaluation.harness_note:
        parts.append(Text(evaluation.harness_note))
    return tuple(parts)


def _prompts(evaluation: Evaluation) -> tuple[Part, ...]:
    counts = evaluation.counts
    if not counts:
        return ()
    columns = ("source", "kind", "trained on", "held out", "tokens read", "tokens answered")
    rows = tuple(
        (
            each.source,
            each.kind,
            f"{each.trained:,}",
            f"{each.held_out:,}",
            f"{each.prompt_tokens:,}",
            f"{each.answer_tokens:,}",
        )
        for each in counts
    )
    return (Table(columns, rows),)


def _made(evaluation: Evaluation, recipe_text: str) -> tuple[Part, ...]:
    run = evaluation.run
    rows = [
        ("teacher", run.teacher),
        ("its licence", run.licence),
        ("training on its outputs", run.terms),
        ("parameters as stored, student", _count(run.parameters)),
        ("parameters, teacher", _count(run.teacher_parameters)),
        ("loss", run.loss or "not known"),
        ("tokens trained on", f"{run.tokens_trained:,}"),
        ("training took", seconds(run.train_seconds)),
        ("machine", run.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("measured", run.date),
        ("held-out samples, SHA-256", evaluation.samples_digest),
    ]
    table = Table(("", ""), tuple(rows), numbers=False)
    return (table, Verbatim("The recipe", recipe_text))


def seconds(count: float) -> str:
    if count < 120:
        return f"{count:.0f} s"
    return f"{count / 60:.1f} min" if count < 7200 else f"{count / 3600:.1f} h"


def _count(parameters: int | None) -> str:
    return "not known" if parameters is None else f"{parameters / 1e6:,.1f} million"


def _bare(figure: Figure) -> str:
    return f"{figure.value:.3f}"


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.1f}"
