"""Training, from top to bottom: `train` is the loop, and what it calls stands below it or in the
file of that name.

Comes in: a student in float32, samples, the recipe, a folder. Goes out: the same student, trained,
with checkpoints and `curve.jsonl` in the folder. Killed at any moment it goes on from its last
checkpoint; on a CPU the weights then end equal, bit for bit, to those of a run that was never
interrupted. Everything that chance decides comes from the seed and the step, so there is no other
state than the weights' and the optimizers'. It refuses to know where samples come from.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from senryu.quant.progress import Progress
from senryu.server.device import detect

from . import attention, distributed, optimizers, packing, schedule, standing
from .curve import Curve, Point, read
from .distributed import Ranks
from .learner import Learner
from .master import Master, needs_teacher
from .packing import Lesson, Plan, learnt
from .recipe import TrainRecipe
from .refusals import one_sentence, refuse, refuse_infinite
from .vocabulary import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What training came to."""

    steps: int
    tokens: int
    samples: int
    loss: float
    """The mean of the last tenth of steps, as `kl` is, without those where the student wrote: these
    say how it does on its own words. Like the curve it is of the weights that learn, also where
    their moving average becomes the student, which only evaluation measures."""
    kl: float | None
    """None where only text was known, and where the student wrote at every step."""
    seconds: float
    tokens_per_second: float
    precision: str
    resumed_from: int
    """The step that was gone on from; 0 for a run without a break."""


def train(
    model: Any,
    samples: Sequence[Lesson],
    recipe: TrainRecipe,
    folder: Path,
    *,
    teacher: Callable[[], Any] | None = None,
    kept: Sequence[int] = (),
    progress: Progress,
    on_step: Callable[[Point], None] | None = None,
) -> TrainSummary:
    """Train `model`, in place, for as many tokens as the recipe says.

    `teacher` opens the teacher as a torch model, which is done only when the recipe matches hidden
    states or has the student write; `kept` says which of its layers the student is made of.
    """
    lessons = [each for each in samples if len(learnt(each, recipe.sequence))]
    top_k = max((_stored(each) for each in lessons), default=0)
    with ExitStack() as stack:
        stack.enter_context(one_sentence(folder))
        ranks = stack.enter_context(distributed.joined())
        stack.enter_context(_own_chance(ranks))
        refuse(model, lessons, recipe, top_k, ranks, can_ask=teacher is not None)
        dtype = precision(recipe)
        plan = Plan(
            [len(each.token_ids) for each in lessons],
            sequence=recipe.sequence,
            rows=max(1, recipe.batch_tokens // recipe.sequence),
            tokens=recipe.tokens,
            seed=recipe.seed,
        )
        nature = standing.nature_of(model, lessons, recipe)
        learner, weights, makers = prepare(model, recipe, dtype, ranks, progress)
        stack.callback(plain_again, learner.student)
        stack.enter_context(attention.by_sample(learner.student))
        average = [each.detach().clone() for each in weights] if recipe.ema else []
        master = Master(teacher, recipe, kept, dtype, ranks) if needs_teacher(recipe) else None
        objective = Objective(loss=recipe.loss, mix=recipe.mix, sft_weight=recipe.sft_weight)

        done, tokens, seconds = standing.resume(
            folder, learner, makers, average, nature, recipe, ranks, progress
        )
        resumed_from = done
        curve = Curve(folder, steps=done) if ranks.first else None
        progress.begin(plan.steps)
        progress.stage("training")
        for _ in range(done):
            progress.done()

        for step in range(done, plan.steps):
            began = time.perf_counter()
            torch.manual_seed(seed_of(recipe.seed, step, ranks.rank))
            rate = recipe.learning_rate * schedule.factor(
                step, plan.steps, warmup=recipe.warmup, decay=recipe.decay
            )
            optimizers.set_rate(makers, rate)

            rows = [[lessons[each] for each in row] for row in plan.step(step)]
            writer = master if writes_at(step, recipe) else None
            goal = objective
            if writer is not None:
                rows = writer.have_written(model, rows, top_k, step)
                goal = dataclasses.replace(objective, sft_weight=0.0)  # it is no model for itself
            read_now = sum(
                min(len(each.token_ids), recipe.sequence) for row in rows for each in row
            )
            positions = sum(len(learnt(each, recipe.sequence)) for row in rows for each in row)
            mine = rows[ranks.rank :: ranks.world]
            batch = packing.batch(mine, recipe.sequence, top_k).to(ranks.device)

            # FSDP averages gradients over the processes; this makes it the sum over positions.
            scale = ranks.world / positions
            states = master.states(batch) if master is not None else {}
            loss, sums = learner(batch, goal, scale=scale, **states)
            loss.backward()
            norm = distributed.clip(weights, recipe.clip)
            mean_loss, sft, kl = (ranks.added(sums) / positions).tolist()
            refuse_infinite(step + 1, mean_loss, norm, folder, recipe)

            for optimizer in makers:
                optimizer.step()
                optimizer.zero_grad()
            if average:
                optimizers.follow(average, weights, optimizers.ema_decay(recipe.ema, step))

            done = step + 1
            tokens += read_now
            took = time.perf_counter() - began
            seconds += took
            point = Point(
                step=done,
                tokens=tokens,
                loss=mean_loss,
                sft=sft,
                kl=kl if top_k else None,
                learning_rate=rate,
                gradient_norm=norm,
                tokens_per_second=read_now / took,
                seconds=seconds,
                on_policy=writer is not None,
            )
            if curve is not None:
                curve.add(point)
            progress.done(detail(point, seconds / done * (plan.steps - done)))
            if on_step is not None:
                on_step(point)
            if done % recipe.checkpoint_steps == 0 or done == plan.steps:
                state = {
                    "weights": standing.names(learner),
                    "average": average,
                    "optimizers": [each.state_dict() for each in makers],
                    "tokens": tokens,
                    "seconds": seconds,
                }
                standing.save(
                    folder, done, state, standing.about(nature, recipe, dtype, ranks), ranks
                )

        give_back(model, learner, weights, average)
        ranks.wait()
        return TrainSummary(
            steps=done,
            tokens=tokens,
            samples=len(lessons),
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            precision=str(dtype).removeprefix("torch."),
            resumed_from=resumed_from,
            **ending(folder),
        )


def writes_at(step: int, recipe: TrainRecipe) -> bool:
    """Whether the student writes at this step: chance, but the same at each asking."""
    return random.Random(f"{recipe.seed} {step}").random() < recipe.on_policy  # noqa: S311


def seed_of(seed: int, step: int, rank: int) -> int:
    told = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    return int.from_bytes(told[:7], "big")


def precision(recipe: TrainRecipe) -> torch.dtype:
    """What matrix products are computed in."""
    if recipe.precision != "auto":
        return torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    device = detect()
    quick = device.kind == "gpu" or {"avx512_bf16", "amx"} & set(device.instruction_sets)
    return torch.bfloat16 if quick else torch.float32


def prepare(
    model: Any, recipe: TrainRecipe, dtype: torch.dtype, ranks: Ranks, progress: Progress
) -> tuple[Learner, list[Any], list[torch.optim.Optimizer]]:
    """The student ready to learn on its device, its weights, and what moves them."""
    # Spread weights cannot be saved as a model; with several processes it is a copy that learns.
    student = (model if ranks.world == 1 else copy.deepcopy(model)).float().to(ranks.device)
    student.train()
    if recipe.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    layers = list(student.model.layers)
    if recipe.compile and ranks.device.type == "cpu":
        # Samples are attended to one by one there, and each step has others.
        progress.say("train.compile is of use on a GPU alone: nothing is compiled on this CPU.")
    elif recipe.compile:
        for layer in layers:  # they are alike, so one of them is compiled
            layer.compile(dynamic=False)
    learner = Learner(student, chunk=recipe.vocabulary_chunk, dtype=dtype)
    if ranks.world > 1:
        distributed.shard(learner, layers, ranks)
    weights = list(learner.parameters())
    return learner, weights, optimizers.make(weights, layers, recipe)


def plain_again(student: Any) -> None:
    """Take off what is for training alone: whoever gets the student may have it write."""
    if student.is_gradient_checkpointing:
        student.gradient_checkpointing_disable()
    for layer in student.model.layers:
        layer._compiled_call_impl = None


def give_back(
    model: Any, learner: Learner, weights: Sequence[Any], average: Sequence[torch.Tensor]
) -> None:
    """Put what was learnt, or its average, into the caller's model."""
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=False):
            weight.copy_(mean)
        if learner.student is not model:
            learnt_weights = distributed.gathered(standing.names(learner))
            for name, weight in model.named_parameters():
                weight.copy_(learnt_weights[name])
        model.eval()


def ending(folder: Path) -> dict[str, Any]:
    """The mean loss and KL of the last tenth of steps, or what the curve has of them."""
    points = read(folder)
    stored = [each for each in points if not each.on_policy]
    last = (stored or points)[-max(1, len(points) // 10) :]
    kls = [each.kl for each in last if each.kl is not None and not each.on_policy]
    return {
        "loss": sum(each.loss for each in last) / len(last) if last else math.nan,
        "kl": sum(kls) / len(kls) if kls else None,
    }


def detail(point: Point, left: float) -> str:
    """The end of the progress line."""
    kl = "" if point.kl is None else f", KL {point.kl:.3f}"
    minutes, seconds = divmod(round(left), 60)
    return (
        f"step {point.step}: loss {point.loss:.3f}{kl}, "
        f"{point.tokens_per_second:,.0f} tokens/s, {minutes}:{seconds:02d} left"
    )


def _stored(lesson: Lesson) -> int:
    return int(lesson.top_ids.shape[1]) if lesson.top_ids.ndim == 2 else 0


@contextmanager
def _own_chance(ranks: Ranks) -> Iterator[None]:
    """Whoever calls us finds torch's chance as it was."""
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
