"""Has the teacher answer every task, follows conversations to their end, and stores the samples.

Comes in: tasks, an open teacher, and the store. Goes out: samples on the disk. A task with several
answers (turns that the teacher makes up, tools that are called) is stored whole or not at all: its
samples reach the disk together, and one that a kill interrupts is asked again from its beginning.
It refuses to know where tasks come from, how the teacher is reached and what is trained.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from senryu.quant.progress import Progress
from senryu.server.conversation.messages import (
    Conversation,
    Demands,
    ImageBlock,
    Message,
    Sampling,
    StopReason,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolDefinitionBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.conversation.schemas import check_schema
from senryu.server.wire.errors import InvalidRequest

from .encode import Tongue, encode, open_tongue, same_tokens
from .errors import DistillError
from .prompts.base import Task
from .prompts.self_synthesis import fault
from .recipe import Recipe
from .samples import Sample
from .shards import ShardStore, tail_of
from .teachers.base import Answer, Ask, Teacher

ROUNDS = 4
"""Answers of one turn that may call tools; the next one may not."""
_FLUSH_SECONDS = 60.0
_RESULT_TOKENS = 96
_USER_TRIES = 3
_CUT = (StopReason.MAX_TOKENS, StopReason.CONTEXT_WINDOW_EXCEEDED)

_PLAY = """\
You are the tool {name}. {description}
You were called with this input:
{input}
Write what you give back, in one or two lines, and nothing else."""


def missing(tasks: Sequence[Task], store: ShardStore) -> list[Task]:
    """The tasks that the teacher has still to be asked, each once. Without any, it need not be
    opened."""
    known, left_out = store.ids(), store.left_out()
    first = {task.id: task for task in tasks}
    return [
        task for task in first.values() if f"{task.id}-0" not in known and task.id not in left_out
    ]


async def collect(
    tasks: Sequence[Task],
    teacher: Teacher,
    recipe: Recipe,
    store: ShardStore,
    progress: Progress,
    *,
    tongue: Tongue | None = None,
) -> None:
    """Answers that are useless are left out: empty ones, calls of unknown tools or with an input
    that does not fit. Those that were cut off are kept, without an end. A teacher that thinks does
    so about the recipe's share of chats, and a sample with a thought is one of the kind `thinking`.

    `tongue` is the student's; left out, the one of the recipe's student or of the teacher. Raises
    DistillError, at once where the student could not be trained on what would be stored; what was
    answered before is stored.
    """
    todo = missing(tasks, store)
    if not todo:
        return
    work = _Collecting(teacher, recipe, store, progress, tongue, len(todo))
    try:
        await work.run(todo)
    finally:
        store.flush()
    work.report()


class _Collecting:
    """One run of it."""

    def __init__(
        self,
        teacher: Teacher,
        recipe: Recipe,
        store: ShardStore,
        progress: Progress,
        tongue: Tongue | None,
        total: int,
    ) -> None:
        self._teacher = teacher
        self._recipe = recipe
        self._store = store
        self._progress = progress
        self._reader = _Reader(teacher, recipe, progress, tongue)
        self._total = total
        self._began = self._flushed = time.monotonic()
        self._finished = self._answers = self._tokens = 0
        self._useless: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        """The first reason of each kind, in full."""

    async def run(self, tasks: Sequence[Task]) -> None:
        self._progress.begin(self._total)
        self._progress.stage("collect")
        source = iter(tasks)
        streams = min(max(1, self._recipe.teacher.streams), len(tasks))
        workers = [asyncio.ensure_future(self._work(source)) for _ in range(streams)]
        try:
            await asyncio.gather(*workers)
        finally:  # the first that fails ends all
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def report(self) -> None:
        """Raises DistillError where nothing came of all the tasks."""
        told = self._useless.most_common()
        reasons = ", ".join(f"{count} {self._examples[why]}" for why, count in told)
        if not self._store.ids():
            raise DistillError(
                f"The teacher gave no usable answer to any of {self._total} prompts ({reasons}): "
                "look at the prompts, or take another teacher."
            )
        seconds = time.monotonic() - self._began
        self._progress.say(
            f"{self._answers} answers with {self._tokens} tokens in {seconds:.0f} s"
            + (f"; left out: {reasons}." if reasons else ".")
        )

    async def _work(self, source: Iterator[Task]) -> None:
        for task in source:
            samples, why = await self._follow(task)
            if why:
                kind = why.partition(",")[0]
                self._useless[kind] += 1
                self._examples.setdefault(kind, why)
            if samples:
                self._store.append(samples)
            else:
                self._store.leave_out(task.id, why)
            self._answers += len(samples)
            self._tokens += sum(each.answer_length for each in samples)
            self._finished += 1
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._store.flush()
                self._flushed = time.monotonic()
            self._progress.done(self._pace())

    def _pace(self) -> str:
        seconds = max(1e-3, time.monotonic() - self._began)
        left = seconds / self._finished * (self._total - self._finished)
        return (
            f"{self._finished}/{self._total} {self._tokens / seconds:.0f} tok/s, "
            f"{left // 60:.0f}:{left % 60:02.0f} left"
        )

    async def _follow(self, task: Task) -> tuple[list[Sample], str]:
        """The samples of a task, and why there are no more of them where the last answer was
        useless."""
        conversation, choice = task.conversation, task.tool_choice
        if any(isinstance(block, ImageBlock) for block in _blocks(conversation)):
            return [], "with images"
        samples: list[Sample] = []
        turns, rounds, calls = task.further_turns, 0, 0
        while True:
            ask = self._ask(task, len(samples), conversation, choice)
            answer = await self._answered(ask)
            if why := _useless(answer, ask.demands):
                return samples, why
            samples.append(self._reader.sample(task, ask, answer))
            if answer.stop_reason in _CUT:
                return samples, ""
            conversation = _with(conversation, answer.message)
            called = [each for each in answer.message.content if isinstance(each, ToolUseBlock)]
            if called:
                rounds += 1
                results = [
                    await self._result(task, calls + n, c, ask) for n, c in enumerate(called)
                ]
                calls += len(called)
                conversation = _with(conversation, Message(role="user", content=tuple(results)))
                choice = ToolChoice(mode="auto" if rounds < ROUNDS else "none")
                continue
            said = await self._next_turn(conversation, ask, task) if turns else None
            if said is None:
                return samples, ""
            turns, rounds, choice = turns - 1, 0, ToolChoice()
            conversation = _with(conversation, said)

    def _ask(self, task: Task, number: int, conversation: Conversation, choice: ToolChoice) -> Ask:
        how = self._recipe.collect
        chosen = task.kind == "chat" and _share(task.id) < how.thinking
        thinks = self._teacher.card.thinks and (task.kind == "thinking" or chosen)
        key = f"{task.id}-{number}"
        tools = _tools(conversation)
        return Ask(
            key=key,
            conversation=conversation,
            sampling=Sampling(
                max_tokens=how.max_tokens, temperature=how.temperature, top_p=how.top_p
            ),
            demands=Demands(
                callable_tools=tools,
                tool_choice=choice if tools else ToolChoice(),
                thinking=Thinking() if thinks else None,
            ),
            seed=_seed(key),
        )

    async def _answered(self, ask: Ask) -> Answer:
        async for answer in self._teacher.answers([ask]):
            return answer
        raise AssertionError("every ask has an answer")

    async def _result(self, task: Task, number: int, call: ToolUseBlock, ask: Ask) -> Any:
        """What the tool gives back: the next of the task's results, or the teacher plays it."""
        if task.results:
            text = task.results[min(number, len(task.results) - 1)]
        else:
            text = await self._played(call, ask)
        return ToolResultBlock(tool_use_id=call.id, content=(TextBlock(text=text),))

    async def _played(self, call: ToolUseBlock, ask: Ask) -> str:
        (tool,) = [each for each in ask.demands.callable_tools if each.name == call.name]
        wish = _PLAY.format(
            name=tool.name,
            description=tool.description,
            input=json.dumps(dict(call.input), ensure_ascii=False),
        )
        told = Message(role="user", content=(TextBlock(text=wish),))
        play = Ask(
            key=f"{ask.key}-{call.id}",
            conversation=Conversation(messages=(told,)),
            sampling=replace(ask.sampling, max_tokens=_RESULT_TOKENS),
            demands=Demands(),
            seed=_seed(f"{ask.key}-result"),
        )
        answer = await self._answered(play)
        return answer.message.text.strip() or "Done."

    async def _next_turn(self, conversation: Conversation, ask: Ask, task: Task) -> Message | None:
        """What a person may say next; None when the teacher made nothing of the kind up."""
        sampling = Sampling(max_tokens=task.user_tokens, temperature=task.user_temperature)
        for tried in range(_USER_TRIES):
            text = await self._teacher.user_turn(
                conversation,
                system=conversation.system_text,
                sampling=sampling,
                seed=_seed(f"{ask.key}-user" + (f" {tried}" if tried else "")),
            )
            if text is not None and fault(text, follows=True) is None:
                return Message(role="user", content=(TextBlock(text=text.strip()),))
        return None


class _Reader:
    """Makes samples of answers: of the teacher's own tokens where the student reads the same ones,
    of the text where it does not or where only text is known."""

    def __init__(
        self, teacher: Teacher, recipe: Recipe, progress: Progress, tongue: Tongue | None
    ) -> None:
        self._tongue = tongue
        self._model = recipe.student.model or teacher.card.folder
        self._as_written = teacher.card.distributions
        folder = teacher.card.folder
        if self._as_written and folder is not None and recipe.student.shape == "model":
            self._as_written = same_tokens(folder, self._model or folder)
            if not self._as_written and recipe.train.loss != "sft":
                raise DistillError(
                    f"The student {self._model} reads other tokens than the teacher, and so cannot "
                    f"learn its distributions: set train.loss from {recipe.train.loss!r} to 'sft', "
                    "or take a student.model with the teacher's tokenizer."
                )
            if not self._as_written:
                progress.say(
                    "The student reads other tokens than the teacher: samples hold the text alone."
                )

    def sample(self, task: Task, ask: Ask, answer: Answer) -> Sample:
        if self._as_written and answer.top is not None:
            tokens = _as_written(answer)
        else:
            tokens = self._from_text(ask, answer)
        thought = any(isinstance(each, ThinkingBlock) for each in answer.message.content)
        return Sample(
            id=answer.key,
            kind="tools" if task.kind == "tools" else "thinking" if thought else "chat",
            source=task.source,
            held_out=task.held_out,
            conversation=ask.conversation,
            answer=answer.message,
            **tokens,
        )

    def _from_text(self, ask: Ask, answer: Answer) -> dict[str, Any]:
        import numpy as np

        tongue = self._opened()
        thought = any(isinstance(each, ThinkingBlock) for each in answer.message.content)
        try:
            ids, mask = encode(
                ask.conversation,
                answer.message,
                tongue.tokenizer,
                tongue.dialect,
                thinking=thought and tongue.dialect.thought is not None,
                ended=answer.stop_reason not in _CUT,
            )
        except ValueError as error:
            raise DistillError(
                f"The student's chat template refuses a conversation ({error}): take another "
                "student.model, or other prompts."
            ) from error
        length = int(mask.sum())
        return {
            "token_ids": ids,
            "loss_mask": mask,
            "top_ids": np.zeros((length, 0), np.int32),
            "top_logprobs": np.zeros((length, 0), np.float32),
            "tail": np.ones(length, np.float32),
        }

    def _opened(self) -> Tongue:
        if self._tongue is None:
            if self._model is None:
                raise DistillError(
                    "An endpoint shows no tokenizer: name the student's as student.model, a folder "
                    "or hub id."
                )
            self._tongue = open_tongue(self._model)
        return self._tongue


def _as_written(answer: Answer) -> dict[str, Any]:
    import numpy as np

    assert answer.top is not None, "its distributions were asked for"
    ids = np.asarray(answer.prompt_ids + answer.token_ids, np.int32)
    return {
        "token_ids": ids,
        "loss_mask": np.arange(len(ids)) >= len(answer.prompt_ids),
        "top_ids": answer.top.ids,
        "top_logprobs": answer.top.logprobs,
        "tail": tail_of(answer.top.logprobs),
    }


def _useless(answer: Answer, demands: Demands) -> str:
    """Why an answer is worth nothing to a student; empty when it is worth something. What stands
    before the first comma is the same for many."""
    blocks = answer.message.content
    if answer.fault:
        return answer.fault
    tools = {tool.name: tool for tool in demands.callable_tools}
    calls = [block for block in blocks if isinstance(block, ToolUseBlock)]
    if not calls and not answer.message.text.strip():
        return "without an answer" if blocks else "empty"
    if calls and answer.stop_reason in _CUT:
        return "cut off in a call"
    for call in calls:
        if call.name not in tools:
            return "calls of unknown tools"
        try:
            schema = tools[call.name].input_schema
            check_schema(schema, call.name, examples=(call.input,), examples_location=call.name)
        except InvalidRequest:
            return "calls whose input does not fit"
    return ""


def _with(conversation: Conversation, message: Message) -> Conversation:
    return replace(conversation, messages=(*conversation.messages, message))


def _blocks(conversation: Conversation) -> Iterator[Any]:
    """All blocks, those inside of results too."""
    for message in conversation.messages:
        for block in message.content:
            yield block
            if isinstance(block, ToolResultBlock):
                yield from block.content


def _tools(conversation: Conversation) -> tuple[Tool, ...]:
    """Those known from the start, and those learnt of since."""
    learnt = [each.tool for each in _blocks(conversation) if isinstance(each, ToolDefinitionBlock)]
    return tuple({tool.name: tool for tool in (*conversation.tools, *learnt)}.values())


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


def _share(task: str) -> float:
    """A number from 0 to 1 that is the task's own."""
    return _seed(f"{task} thinks") / 2**31
