"""What a scheme is: a way to store the weights of linear layers, and what an engine must know.

Each scheme is a file beside this one. It sees layers that read the same input, with what was seen
of that input, and hands back the tensors as they stand in the finished folder. It refuses to know
how models are walked through, and writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from senryu.quant.gptq import Moments

Machine = Literal["cpu", "ampere", "ada", "hopper", "blackwell"]
"""Where vLLM may have a kernel: its CPU build, and NVIDIA's generations since 2020."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """What layers read, `in` features a token, over the calibration set."""

    moments: Moments
    largest: Tensor
    """float32 `(in)`: the greatest magnitude of each feature."""

    def divided(self, by: Tensor) -> Read:
        """The same, had each feature been divided by `by` `(in)`."""
        from senryu.quant.gptq import Moments

        outer = by.outer(by)
        moments = Moments(fitted=self.moments.fitted / outer, judged=self.moments.judged / outer)
        return Read(moments=moments, largest=self.largest / by)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """One linear layer as it will lie in the folder."""

    tensors: Mapping[str, Tensor]
    """By the names that follow the layer's own, such as `weight_packed`."""
    values: Tensor
    """float32 `(out, in)`: the weight that these tensors stand for."""


class Scheme(Protocol):
    """One way to store linear layers."""

    @property
    def name(self) -> str:
        """What the command line and the manifest call it."""

    @property
    def runs_on(self) -> tuple[Machine, ...]:
        """Where vLLM has a kernel for it."""

    @property
    def multiple(self) -> int:
        """Both sides of a layer must be multiples of this."""

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale; None for whole rows."""

    @property
    def calibrated(self) -> bool:
        """Whether it needs to see what layers read."""

    @property
    def made(self) -> str:
        """A sentence for the manifest: how the codes were chosen."""

    def balance(self, layer: nn.Module, reads: Mapping[str, Read]) -> Mapping[str, Tensor]:
        """Move scale between a decoder layer's weights, in place, so that they round better and the
        layer computes the same. `reads` are by the linear layers' names inside `layer`; so is what
        comes back: what each one's input is now divided by, `(in)`. Most schemes do nothing."""

    def store(self, weights: Mapping[str, Tensor], read: Read | None) -> dict[str, Stored]:
        """Layers, by name, that read the same input. Raises ValueError, half a sentence, for a
        weight that it cannot store."""

    def config(self, kept: Sequence[str]) -> dict[str, Any]:
        """`quantization_config` for the model's config.json; `kept` are the names of all linear
        layers that stay in 16 bits."""
