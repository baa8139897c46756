"""The teacher beside the student, for what stored samples cannot tell: its hidden states, and what
it thinks of that which the student writes.

Comes in: something that opens the teacher as a torch model. Goes out: rows of lessons, and hidden
states. It refuses to know the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import hidden, on_policy, packing
from .distributed import Ranks
from .learner import run
from .packing import Batch, Lesson
from .recipe import TrainRecipe


def needs_teacher(recipe: TrainRecipe) -> bool:
    return recipe.hidden_weight > 0 or recipe.on_policy > 0


class Master:
    """The teacher beside the student, for what stored samples cannot tell."""

    def __init__(
        self,
        opened: Callable[[], Any] | None,
        recipe: TrainRecipe,
        kept: Sequence[int],
        dtype: torch.dtype,
        ranks: Ranks,
    ) -> None:
        assert opened is not None  # `refuse` has seen to it
        self._model = opened().to(ranks.device).eval().requires_grad_(False)
        self._recipe = recipe
        self._cast = torch.autocast(ranks.device.type, dtype, enabled=dtype != torch.float32)
        self._matched: tuple[tuple[int, int], ...] = ()
        if recipe.hidden_weight:
            self._matched = hidden.pairs(kept, self._model.config.num_hidden_layers)

    def have_written(
        self, student: Any, rows: Sequence[Sequence[Lesson]], top_k: int, step: int
    ) -> list[list[Lesson]]:
        """Rows of what the student writes to the prompts of these rows."""
        length, tokens = self._recipe.sequence, self._recipe.on_policy_tokens
        prompts = [on_policy.prompt_of(each)[tokens - length :] for row in rows for each in row]
        with self._cast:
            written = on_policy.write(
                student, self._model, [p for p in prompts if len(p)], tokens=tokens, top_k=top_k
            )
        sizes = [len(each.token_ids) for each in written]
        packed = packing.epoch_rows(sizes, length, self._recipe.seed, step)
        return [[written[each] for each in row] for row in packed]

    def states(self, batch: Batch) -> dict[str, Any]:
        """What `Learner.forward` wants to know for the matching of hidden states."""
        with torch.no_grad():
            if not self._matched:
                return {}
            with self._cast:
                _, states = run(self._model, batch, states=True)
            return {
                "teacher_states": states,
                "matched": self._matched,
                "hidden_weight": self._recipe.hidden_weight,
            }
