"""A student and its loss as one module: rows in, one number out.

Comes in: a batch, and the teacher's hidden states where they are matched. Goes out: the loss, to be
differentiated, and sums for people. It is one module because FSDP2 has the weights whole only
inside a module's forward, and the output head is used outside of the student's own. It refuses to
know steps and optimizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import attention, hidden
from .errors import DistillError
from .packing import Batch
from .vocabulary import Objective, head_loss


class Learner(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Holds the student as `student`."""

    def __init__(self, student: Any, *, chunk: int, dtype: torch.dtype) -> None:
        super().__init__()
        refuse_unusual_head(student)
        self.student = student
        self._chunk = chunk
        self._dtype = dtype

    def forward(
        self,
        batch: Batch,
        objective: Objective,
        *,
        scale: float,
        teacher_states: Sequence[Tensor] = (),
        matched: Sequence[tuple[int, int]] = (),
        hidden_weight: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """`scale` times the sum of all positions' losses; and the sums of loss, cross-entropy and
        forward KL."""
        with torch.autocast(
            batch.where.device.type, self._dtype, enabled=self._dtype != torch.float32
        ):
            last, states = run(self.student, batch, states=bool(matched))
        total, sums = head_loss(
            last,
            self.student.lm_head.weight,
            batch.targets,
            objective,
            scale=scale,
            chunk=self._chunk,
            dtype=self._dtype,
        )
        if matched:
            apart = hidden_weight * hidden.matching(states, teacher_states, matched).sum()
            total = total + scale * apart
            sums = sums + torch.stack([apart.detach(), *sums.new_zeros(2)])
        return total, sums


def run(model: Any, batch: Batch, *, states: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The last hidden state, and those after each layer if asked for, at the positions that carry
    loss: [n, d]."""
    known = {"sizes": batch.sizes} if model.config._attn_implementation == attention.NAME else {}
    told = model.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,  # with a cache transformers would not see where samples begin
        output_hidden_states=states,
        **known,
    )
    last = _at(told.last_hidden_state, batch.where)
    return last, [_at(each, batch.where) for each in told.hidden_states] if states else []


def _at(states: Tensor, where: Tensor) -> Tensor:
    return states.flatten(0, 1).index_select(0, where)


def refuse_unusual_head(student: Any) -> None:
    """Raises DistillError for models that do more to their logits than multiply by a matrix."""
    config = student.config
    scales = [getattr(config, name, None) for name in ("logits_scaling", "logit_scale")]
    if (
        student.lm_head.bias is not None
        or getattr(config, "final_logit_softcapping", None)
        or any(each not in (None, 1, 1.0) for each in scales)
    ):
        raise DistillError(
            f"Models of the kind {config.model_type} change their logits after the output head, "
            "which the losses here do not know: take a student of another family."
        )
