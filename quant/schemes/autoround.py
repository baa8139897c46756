"""autoround: 4-bit integers whose rounding is learnt block by block, by Intel's library.

Comes in: a folder and token ids. Goes out: the codes of every linear layer, on the grid of `w4a16`
and so in a folder that runs wherever that one does. The library takes whole models apart itself,
which is why this scheme holds the whole model in memory and does not go on after a kill. The
library is imported only when it is used. Cheng et al., "Optimize Weight Rounding via Signed
Gradient Descent", 2023 (arXiv 2309.05516).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senryu.quant.errors import QuantizeError
from senryu.quant.progress import Progress

from .base import Machine, Read, Stored

if TYPE_CHECKING:
    from torch import Tensor, nn

    from senryu.quant.grids import Codes

BATCH = 8
"""Sequences that one step of the learning sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRound:
    """Raises ValueError for a setting that no kernel takes or that learns nothing."""

    group_size: int = 32
    symmetric: bool = False
    iterations: int = 200
    """Steps of learning for each decoder layer. The library's own default."""
    name: str = "autoround"
    runs_on: tuple[Machine, ...] = ("cpu", "ampere", "ada", "hopper", "blackwell")
    multiple: int = 32
    calibrated: bool = True

    def __post_init__(self) -> None:
        if self.group_size not in (32, 64, 128):
            raise ValueError(f"no kernel takes groups of {self.group_size}: choose 32, 64 or 128")
        if self.iterations < 1:
            raise ValueError(f"{self.iterations} steps learn nothing: choose at least 1")

    @property
    def made(self) -> str:
        grid = "symmetric" if self.symmetric else "asymmetric"
        return (
            f"Rounded by AutoRound in {self.iterations} steps a layer, 4 bits, {grid}, groups of "
            f"{self.group_size}."
        )

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        return {}

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        raise ValueError("AutoRound rounds whole models and no layer alone")

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        from senryu.quant.grids import Integers
        from senryu.quant.packing import config, weights_only

        grid = Integers(symmetric=self.symmetric, group_size=self.group_size)
        told: dict[str, Any] = config(weights_only(grid), kept)
        return told

    def codes(
        self, parent: Path, sequences: Sequence[Tensor], kept: Sequence[str], progress: Progress
    ) -> Iterator[tuple[str, Codes]]:
        """Full names and codes of all linear layers but the `kept`, in the model's order.

        `sequences` are int64 `(n)` each; they are joined and cut into rows of the longest one's
        length. One unit of `progress` is a decoder layer. Raises QuantizeError.
        """
        library = _library()
        import torch
        from torch import nn
        from transformers import AutoModelForCausalLM

        from senryu.quant.export import no_bars

        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.bfloat16)
        rows = _rows(sequences)
        with _told_to(progress):
            library.AutoRound(
                model,
                tokenizer=object(),  # it wants one, and finds no words that it could read
                scheme="W4A16",
                group_size=self.group_size,
                sym=self.symmetric,
                iters=self.iterations,
                dataset=[row.unsqueeze(0) for row in rows],
                nsamples=len(rows),
                seqlen=rows.shape[1],
                batch_size=min(BATCH, len(rows)),
                layer_config={name: {"bits": 16} for name in kept if name != "lm_head"},
                scale_dtype="bf16",  # as they are stored, so that it learns with what is kept
                device_map="cuda:0" if torch.cuda.is_available() else "cpu",
                enable_torch_compile=False,  # minutes before the first step, for small models
                low_cpu_mem_usage=False,
            ).quantize()
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name not in {*kept, "lm_head"}:
                yield name, self._codes(name, module)

    def _codes(self, name: str, module: Any) -> Codes:
        """What the library left: the rounded weight, and the grid that it lies on."""
        import torch

        from senryu.quant.grids import Codes, Steps

        scale = getattr(module, "scale", None)
        if scale is None:
            raise QuantizeError(
                f"AutoRound left layer {name} as it was: quantize this model with w4a16."
            )
        # The library counts from 0, the stored format from -8.
        scale = scale.detach().to(torch.bfloat16)
        zero = torch.zeros_like(scale) if self.symmetric else module.zp.detach().float() - 8
        steps = Steps(scale=scale, zero=None if self.symmetric else zero.to(torch.int8))
        size = scale.float().repeat_interleave(self.group_size, dim=1)
        units = module.weight.detach().float() / size
        codes = torch.round(units + zero.float().repeat_interleave(self.group_size, dim=1))
        return Codes(codes=codes.clamp(-8, 7), steps=steps)


def _library() -> Any:
    try:
        import auto_round
    except ImportError:
        raise QuantizeError(
            "The scheme autoround needs Intel's auto-round, which is not installed: install the "
            "extra `senryu[models]` again, or choose w4a16."
        ) from None
    return auto_round


def _rows(sequences: Sequence[Tensor]) -> Tensor:
    """int64 `(rows, length)`: the library passes over what is shorter than the rest."""
    import torch

    joined = torch.cat([each.flatten() for each in sequences]) if sequences else torch.empty(0)
    length = max((len(each) for each in sequences), default=0)
    if not length:
        raise QuantizeError("AutoRound learns from a calibration set, and this one is empty.")
    return joined[: len(joined) // length * length].view(-1, length)


@contextlib.contextmanager
def _told_to(progress: Progress) -> Iterator[None]:
    """Ours in the place of the library's own bar and log lines."""
    from auto_round.compressors import orchestrator

    class Ours:
        """What the library asks of a bar."""

        def __init__(self, blocks: Sequence[int]) -> None: ...
        def set_description(self, text: str) -> None: ...
        def close(self) -> None: ...
        def update(self, blocks: int = 1) -> None:
            for _ in range(blocks):
                progress.done()

    log = logging.getLogger("autoround")
    theirs, level = orchestrator.tqdm, log.level
    orchestrator.tqdm = Ours
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        orchestrator.tqdm = theirs
        log.setLevel(level)
