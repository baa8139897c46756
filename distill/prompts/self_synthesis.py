"""Prompts that the teacher makes up itself (`kind = "self"`; Magpie, Xu et al. 2024).

Comes in: an open teacher. Goes out: one task after the other, in the order in which they were
asked for, until as many turns were tried as the caller allows; what is no usable request is
counted and passed over. Many turns are in the making at once. It refuses to know how the teacher
is brought to speak as the user, and which tasks are duplicates.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import replace

from senryu.distill.recipe import SelfSource
from senryu.distill.teachers.base import Teacher
from senryu.server.conversation.messages import Sampling

from .base import Task
from .making import make_task, user_says

_FEWEST_WORDS = 3
_MOST_WORDS = 400
_MOST_CHARACTERS = 4000


async def made_up(
    source: SelfSource,
    teacher: Teacher,
    *,
    streams: int,
    salt: str,
    tries: int,
    tally: Counter[str],
) -> AsyncIterator[Task]:
    """At most `tries` tasks. `salt` draws the seeds: another one gives other prompts.
    `tally["tried"]` counts the turns that were looked at, and every reason of `fault` those that
    were passed over. Raises DistillError when the teacher fails."""
    streams = max(1, streams)
    room = asyncio.Semaphore(streams)
    sampling = Sampling(max_tokens=source.max_tokens, temperature=source.temperature)

    async def turn(number: int) -> str | None:
        async with room:
            return await teacher.user_turn(
                None, system=source.system, sampling=sampling, seed=_seed(salt, number)
            )

    numbers = iter(range(tries))
    # Twice as many are under way as run: a slow one at the head does not leave the others idle.
    pending: deque[asyncio.Task[str | None]] = deque()
    try:
        while True:
            while len(pending) < 2 * streams and (number := next(numbers, None)) is not None:
                pending.append(asyncio.create_task(turn(number)))
            if not pending:
                return
            text = await pending[0]
            pending.popleft()
            tally["tried"] += 1
            reason = fault(text)
            if text is None or reason is not None:
                tally[reason or "empty"] += 1
                continue
            task = make_task(
                user_says(text.strip(), system=source.system),
                source="self",
                further_turns=max(0, source.turns - 1),
            )
            yield replace(task, user_tokens=source.max_tokens, user_temperature=source.temperature)
    finally:
        for each in pending:
            each.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def fault(text: str | None, *, follows: bool = False) -> str | None:
    """Why a text is no request that a person could have sent; None when it may be one. One that
    `follows` an answer may be of a word or two, and need not ask for anything."""
    if text is None or not text.strip():
        return "empty"
    words = re.findall(r"\w+", text.casefold())
    unspaced = len(_UNSPACED.findall(text))
    if not follows and len(words) + unspaced // 2 < _FEWEST_WORDS:
        return "too short"
    if len(words) > _MOST_WORDS or len(text) > _MOST_CHARACTERS:
        return "too long"
    if _MARKUP.search(text):
        return "with chat markup"
    if _repeats(text, words):
        return "repetitive"
    if not _spoken_by_a_person(text) or not (follows or _asks(text, words)):
        return "not a request"
    return None


def _repeats(text: str, words: list[str]) -> bool:
    if _SAME_CHARACTER.search(text):
        return True
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 3]
    if lines and max(Counter(lines).values()) >= 3:
        return True
    triples = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
    return len(triples) >= 8 and len(set(triples)) < 0.6 * len(triples)


def _spoken_by_a_person(text: str) -> bool:
    """Neither mostly digits and marks, nor begun as a helper begins."""
    letters = sum(each.isalpha() or each.isspace() for each in text)
    return letters >= 0.6 * len(text) and not _ANSWERS.match(text)


def _asks(text: str, words: list[str]) -> bool:
    """Whether somebody may want something with this. In languages that these words are not of,
    everything passes."""
    if "?" in text or "\uff1f" in text or not text.isascii():
        return True
    return not _ASKING.isdisjoint(words)


def _seed(salt: str, number: int) -> int:
    digest = hashlib.sha256(f"{salt} {number}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_SAME_CHARACTER = re.compile(r"([^\s])\1{11}")
# Marks of chat templates, and a text that plays both sides.
_MARKUP = re.compile(
    r"<\|[\w|-]*\|?>|</?s>|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>|</?(?:think|tool_call)>"
    r"|^\s*(?:user|assistant|system|human|ai)\s*:?\s*$"
    r"|^\s*(?:user|assistant|system|human|ai)\s*:\s",
    re.IGNORECASE | re.MULTILINE,
)
# How a helper begins, not who is helped.
_ANSWERS = re.compile(
    r"\s*(?:sure|certainly|of course|absolutely|as an ai|i'?m sorry,? but|i am sorry,? but"
    r"|i apologi[sz]e|here (?:is|are)|here'?s|i'?d be happy to|i would be happy to|i can help"
    r"|thank you for|you'?re welcome|how (?:can|may) i (?:help|assist)|welcome to|hello!? how can i"
    r"|i'?m glad|great question|that'?s a great)\b",
    re.IGNORECASE,
)
_ASKING_WORDS = """
add advice analyze answer anyone arrange build calculate can choose classify code come compare
complete compose compute consider continue convert correct could count create decide define
describe design determine develop discuss draft draw edit estimate evaluate examine explain
explore extract fill find fix generate give guide help how identify imagine implement improve
include instructions invent invite list looking make me mention modify name need offer organize
outline paraphrase plan please predict prepare propose prove provide rank read recommend rephrase
replace reply research respond review rewrite show simplify solve sort state suggest sum summarize
task teach tell think translate trying turn use want what when where which who why wish wondering
would write your
"""
_ASKING = frozenset(_ASKING_WORDS.split())
