"""Makes preference pairs: the student answers a prompt several times, a judge picks two.

Comes in: prompts, a student that speaks, a judge. Goes out: pairs of what the student wrote itself,
token by token, and `pairs.jsonl`, which a killed run goes on with. It refuses to know how a judge
judges.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.recipe import RefineRecipe
from senryu.distill.speak import Question, Speaker
from senryu.quant.progress import Progress

from .critique import Judge, Seen, read_constitution

FORMAT = 1
ANSWERS = 4
"""How often the student answers a prompt."""
TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers of the student to one prompt. Only their tokens are learned from."""

    id: str
    """The task's."""
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen: str
    rejected: str
    reason: str


async def make_pairs(
    tasks: Iterable[Task],
    speaker: Speaker,
    judge: Judge,
    recipe: RefineRecipe,
    file: Path,
    *,
    student: str,
    progress: Progress,
) -> list[Pair]:
    """Pairs until there are enough or the tasks are used up; held-out tasks are passed over.
    `student` is the digest of the recipe that the student was trained by: pairs of another one's
    are made anew, and so are those that were judged by other principles. Raises DistillError when
    no prompt gave one."""
    # Whatever decides a pair besides its prompt.
    principles = [f"[{each.rule}] {each.text}" for each in read_constitution(recipe.constitution)]
    maker = _digest(student, "\n".join(principles), recipe.judge, str(recipe.max_tokens))
    seen, pairs = _read(file, maker)
    progress.begin(recipe.pairs)
    progress.stage("the student's answers are compared")
    for _ in pairs:
        progress.done()
    with file.open("a", encoding="utf-8") as stream:
        for task in tasks:
            if len(pairs) >= recipe.pairs:
                break
            if task.held_out or task.id in seen:
                continue
            pair = await _pair(task, speaker, judge, recipe)
            _append(stream, {"id": task.id} if pair is None else asdict(pair))
            if pair is not None:
                pairs.append(pair)
                progress.done()
    if not pairs:
        raise DistillError(
            "No two answers of the student differed enough to prefer one, so there is nothing to "
            "refine by: give more prompts, raise refine.max_tokens, or leave [refine] out."
        )
    return pairs[: recipe.pairs]


async def _pair(task: Task, speaker: Speaker, judge: Judge, recipe: RefineRecipe) -> Pair | None:
    question = Question.of(task.conversation, thinking=task.kind == "thinking")
    if not speaker.fits(question, recipe.max_tokens):
        return None
    answers = speaker.vary(
        question,
        count=ANSWERS,
        max_tokens=recipe.max_tokens,
        temperature=TEMPERATURE,
        seed=int(_digest(task.id)[:8], 16),
    )
    shown = [Seen(question=question, said=said, marks=speaker.marks) for said in answers]
    verdict = await judge.compare(task.id, shown)
    if verdict is None:
        return None
    chosen, rejected = answers[verdict.chosen], answers[verdict.rejected]
    if chosen.token_ids == rejected.token_ids:
        return None
    return Pair(
        id=task.id,
        prompt_ids=chosen.prompt_ids,
        chosen_ids=chosen.token_ids,
        rejected_ids=rejected.token_ids,
        chosen=chosen.text,
        rejected=rejected.text,
        reason=verdict.reason,
    )


def _read(file: Path, maker: str) -> tuple[set[str], list[Pair]]:
    """The tasks that were tried and the pairs that came of them. A line that a kill left half is
    cut off; a file of another maker begins anew."""
    head = {"format": FORMAT, "maker": maker}
    try:
        whole = file.read_bytes()
    except FileNotFoundError:
        whole = b""
    lines = whole[: whole.rfind(b"\n") + 1].splitlines()
    if not lines or _json(lines[0], file) != head:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as stream:
            _append(stream, head)
        return set(), []
    with file.open("r+b") as stream:
        stream.truncate(whole.rfind(b"\n") + 1)
    told = [_json(line, file) for line in lines[1:]]
    try:
        pairs = [_pair_of(each) for each in told if len(each) > 1]
        return {str(each["id"]) for each in told}, pairs
    except (KeyError, TypeError, ValueError) as wrong:
        raise _damaged(file, str(wrong)) from wrong


def _pair_of(told: dict[str, Any]) -> Pair:
    ids = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Pair(**(told | {name: tuple(map(int, told[name])) for name in ids}))


def _json(line: bytes, file: Path) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError as wrong:
        raise _damaged(file, str(wrong)) from wrong
    if not isinstance(told, dict):
        raise _damaged(file, "a line is not an object")
    return told


def _damaged(file: Path, why: str) -> DistillError:
    return DistillError(f"{file} is damaged ({why}): delete it, and the pairs are made again.")


def _append(stream: Any, told: dict[str, Any]) -> None:
    """One line, on the disk before the next answer is made."""
    stream.write(json.dumps(told, ensure_ascii=False) + "\n")
    stream.flush()
    os.fsync(stream.fileno())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
