"""Judges answers against a written constitution, by rules or by the teacher.

Comes in: principles, a question, answers to it. Goes out: which answer is better and why, or that
none is. Rules are facts that a program can check; principles without a rule are for the teacher,
who is shown two answers in both orders and believed only when it says the same twice.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from senryu.distill.errors import DistillError
from senryu.distill.speak import Question, Said, as_text, calls_fit, last_words
from senryu.distill.teachers.base import Ask, Teacher
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    Message,
    Sampling,
    TextBlock,
    ToolUseBlock,
)

PACKAGED = "packaged"
_FILE = Path(__file__).parents[1] / "packaged" / "constitution.txt"
MARGIN = 0.2
"""Faults that differ by less than this are no reason to prefer an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principle:
    """One line of the constitution."""

    text: str
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An answer as rules see it."""

    question: Question
    said: Said
    marks: tuple[str, ...]
    """What an answer must not show."""

    @property
    def text(self) -> str:
        return self.said.message.text

    @property
    def asked(self) -> str:
        return last_words(self.question.conversation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which two answers make a pair, by their place, and why."""

    chosen: int
    rejected: int
    reason: str


class Judge(Protocol):
    """Compares the answers to one question."""

    async def compare(self, key: str, answers: Sequence[Seen]) -> Verdict | None:
        """The best and the worst; None where they are too much alike to tell."""
        ...


def read_constitution(name: str) -> tuple[Principle, ...]:
    """The principles in a file, or the packaged ones. Raises DistillError."""
    file = _FILE if name == PACKAGED else Path(name).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise DistillError(
            f"The constitution {file} cannot be read ({problem}): give a text file with one "
            "principle a line, or the word packaged."
        ) from problem
    found = [_principle(line.strip(), file) for line in lines if line.strip()]
    principles = tuple(each for each in found if each is not None)
    if not principles:
        raise DistillError(f"The constitution {file} is empty: write one principle a line.")
    return principles


def _principle(line: str, file: Path) -> Principle | None:
    if line.startswith("#"):
        return None
    named = re.fullmatch(r"\[([\w-]+)\]\s*(.+)", line)
    if named is None:
        return Principle(text=line)
    rule, text = named.groups()
    if rule not in RULES:
        near = difflib.get_close_matches(rule, RULES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(RULES)}."
        raise DistillError(f"The constitution {file} names the rule {rule!r}; {hint}")
    return Principle(text=text, rule=rule)


# Rules: each says how badly an answer breaks it, from 0 to 1.


def _empty(seen: Seen) -> float:
    return 0.0 if seen.text.strip() or seen.said.calls else 1.0


def _cut(seen: Seen) -> float:
    return 0.0 if seen.said.ended else 1.0


def _repeats(seen: Seen) -> float:
    """The share of runs of four words that were there before; a few come again in any text."""
    words = re.findall(r"\w+", seen.text.lower())
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    if len(runs) < 8:
        return 0.0
    share = 1 - len(set(runs)) / len(runs)
    return share if share > 0.1 else 0.0


def _echo(seen: Seen) -> float:
    asked, said = seen.asked.strip().lower(), seen.text.strip().lower()
    if len(asked) < 20 or len(said) > 2 * len(asked):
        return 0.0
    return 1.0 if difflib.SequenceMatcher(None, asked, said).ratio() > 0.9 else 0.0


def _foreign(seen: Seen) -> float:
    """Whether most letters are of another script than the question's. Two languages of one script
    are alike to it."""
    asked, said = _script(seen.asked), _script(seen.text)
    return 1.0 if asked and said and asked != said else 0.0


def _script(text: str) -> str | None:
    """The script that most letters are of; None for a text with hardly any."""
    letters = [each for each in text if each.isalpha()]
    if len(letters) < 8:
        return None
    names = Counter(unicodedata.name(each, "?").split()[0] for each in letters)
    # Japanese mixes these.
    japanese = sum(names.pop(name, 0) for name in ("CJK", "HIRAGANA", "KATAKANA"))
    names["CJK"] = japanese
    return names.most_common(1)[0][0]


def _bad_call(seen: Seen) -> float:
    if not seen.said.called:
        return 0.0
    return 0.0 if calls_fit(seen.said, seen.question.demands.callable_tools) else 1.0


def _markup(seen: Seen) -> float:
    return 1.0 if any(mark in seen.text for mark in seen.marks) else 0.0


def _long(seen: Seen) -> float:
    """How far an answer to at most 30 words goes beyond 150."""
    if len(seen.asked.split()) > 30:
        return 0.0
    return min(1.0, max(0.0, (len(seen.text.split()) - 150) / 150))


RULES: Mapping[str, Callable[[Seen], float]] = {
    "not-empty": _empty,
    "complete": _cut,
    "no-repetition": _repeats,
    "no-echo": _echo,
    "same-writing": _foreign,
    "valid-call": _bad_call,
    "no-markup": _markup,
    "brief": _long,
}


def faults(seen: Seen, principles: Sequence[Principle]) -> dict[str, float]:
    """The rules that an answer breaks, and how badly."""
    rules = {each.rule for each in principles if each.rule}
    found = {rule: RULES[rule](seen) for rule in RULES if rule in rules}
    return {rule: fault for rule, fault in found.items() if fault > 0}


class Rules:
    """A judge that checks what can be checked."""

    def __init__(self, principles: Sequence[Principle]) -> None:
        if not any(each.rule for each in principles):
            raise DistillError(
                "No line of the constitution names a rule, as in [complete], so rules cannot judge "
                'by it: name some, or set refine.judge to "teacher".'
            )
        self._principles = principles

    async def compare(self, key: str, answers: Sequence[Seen]) -> Verdict | None:
        found = [faults(each, self._principles) for each in answers]
        weights = [sum(each.values()) for each in found]
        best, worst = weights.index(min(weights)), weights.index(max(weights))
        if weights[worst] - weights[best] < MARGIN:
            return None
        more = {rule for rule, fault in found[worst].items() if fault > found[best].get(rule, 0.0)}
        return Verdict(chosen=best, rejected=worst, reason=", ".join(sorted(more)))


class AskedTeacher:
    """A judge that asks the teacher which of two answers keeps better to the principles. Of several
    it takes the two that the rules find furthest apart, else the first two that differ."""

    def __init__(self, teacher: Teacher, principles: Sequence[Principle], *, seed: int = 0) -> None:
        self._teacher = teacher
        self._principles = principles
        self._seed = seed

    async def compare(self, key: str, answers: Sequence[Seen]) -> Verdict | None:
        one, other = self._two(answers)
        if as_text(answers[one].said.message) == as_text(answers[other].said.message):
            return None
        orders = ((one, other), (other, one))
        asks = [
            Ask(
                key=f"{key}/{number}",
                conversation=self._question(answers[first], answers[second]),
                sampling=Sampling(max_tokens=16, temperature=0.0),
                demands=Demands(),
                seed=self._seed,
            )
            for number, (first, second) in enumerate(orders)
        ]
        letters = {
            answer.key: letter_of(answer.message) async for answer in self._teacher.answers(asks)
        }
        likes = [
            {"A": first, "B": second}.get(letters.get(f"{key}/{number}") or "")
            for number, (first, second) in enumerate(orders)
        ]
        if likes[0] is None or likes[0] != likes[1]:
            return None
        worse = other if likes[0] == one else one
        return Verdict(chosen=likes[0], rejected=worse, reason="the teacher, asked in both orders")

    def _two(self, answers: Sequence[Seen]) -> tuple[int, int]:
        weights = [sum(faults(each, self._principles).values()) for each in answers]
        best, worst = weights.index(min(weights)), weights.index(max(weights))
        if best != worst and weights[best] < weights[worst]:
            return best, worst
        texts = [as_text(each.said.message) for each in answers]
        return 0, next((at for at, text in enumerate(texts) if text != texts[0]), 0)

    def _question(self, first: Seen, second: Seen) -> Conversation:
        """Both answers in one message: A is the first."""
        principles = "\n".join(f"- {each.text}" for each in self._principles)
        told = _ASKED.format(
            principles=principles,
            asked=_fenced(first.asked),
            tools=_tools(first.question.conversation),
            first=_fenced(as_text(first.said.message)),
            second=_fenced(as_text(second.said.message)),
        )
        return Conversation(messages=(Message(role="user", content=(TextBlock(text=told),)),))


_ASKED = """\
Two assistants answered the same request. Judge them by these principles alone:
{principles}

The request:
{asked}
{tools}
Answer A:
{first}

Answer B:
{second}

Which answer keeps better to the principles? Write one letter, A or B, and nothing else."""


def _fenced(text: str) -> str:
    """Set off by a fence that the text does not hold, so that no answer can end itself."""
    longest = max((len(run) for run in re.findall(r"~+", text)), default=0)
    fence = "~" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _tools(conversation: Conversation) -> str:
    names = ", ".join(tool.name for tool in conversation.tools)
    return f"\nTools that may be called: {names}\n" if names else ""


def letter_of(message: Message) -> str | None:
    """The A or B that an answer is, or begins or ends with; None where it says neither, or both."""
    if any(isinstance(block, ToolUseBlock) for block in message.content):
        return None
    found = set(re.findall(r"\b[AB]\b", message.text))
    return found.pop() if len(found) == 1 else None
