"""The 16-bit model that is made smaller, read a layer at a time.

Comes in: a model folder. Goes out: its skeleton without weights, and the weights of whatever module
is asked for. It holds no weight itself, so that a model larger than memory can be quantized. It
refuses to know what becomes of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senryu.server.manifest import Manifest, describe_folder

from .errors import QuantizeError

if TYPE_CHECKING:
    from torch import Tensor, nn

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEAD = "lm_head"
"""Stays in 16 bits: in small models it shares the embedding's weight, and vLLM does not load that
pair in fewer."""
_LAYERWISE = "nemotron-nas"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parent:
    """A whole model in 16 or 32 bits, in the Hugging Face layout."""

    folder: Path
    manifest: Manifest
    config: Any
    """transformers' own."""
    files: Mapping[str, str]
    """The name of every tensor -> the file that holds it."""

    def skeleton(self) -> Any:
        """The model with all its modules and none of its weights; buffers are there."""
        import torch
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM

        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16)
        if not hasattr(getattr(model, "model", None), "layers"):
            raise QuantizeError(
                f"{self.folder} is a {self.config.model_type} model, whose layers are not where "
                "ours look for them: quantize a model built like Llama, Qwen, Mistral or Gemma."
            )
        tied = getattr(model, "_tied_weights_keys", None) or ()
        wanted = {name for name, _ in model.named_parameters() if name not in set(tied)}
        lacking = sorted(wanted - self.files.keys())
        if lacking:
            raise QuantizeError(
                f"{self.folder} holds no weight {lacking[0]}: only models whose files name their "
                "weights as transformers does can be taken apart; serve this one as it is."
            )
        return model.eval()

    def tensor(self, name: str) -> Tensor:
        """One weight. Raises QuantizeError for a damaged file."""
        from safetensors import SafetensorError, safe_open

        file = self.folder / self.files[name]
        try:
            with safe_open(file, framework="pt") as stored:
                tensor: Tensor = stored.get_tensor(name)
        except (OSError, SafetensorError) as problem:
            raise QuantizeError(
                f"{file} is damaged ({_first_line(problem)}): copy or fetch the model again."
            ) from problem
        return tensor

    def load(self, module: nn.Module, prefix: str, device: Any = "cpu") -> None:
        """Give a module of the skeleton its weights, in bf16."""
        import torch

        state = {
            name: self.tensor(f"{prefix}.{name}").to(device, torch.bfloat16)
            for name, _ in module.named_parameters()
        }
        module.load_state_dict(state, strict=False, assign=True)
        module.to(device)
        module.requires_grad_(False)

    def under(self, prefix: str) -> list[str]:
        """The names of the stored tensors below a module."""
        return sorted(name for name in self.files if name.startswith(f"{prefix}."))


def open_parent(folder: Path) -> Parent:
    """Raises QuantizeError, one sentence, where the folder cannot be quantized."""
    from transformers import AutoConfig

    try:
        manifest = describe_folder(folder)
        manifest.verify(folder, hashes=False)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    if manifest.group_size is not None or manifest.scheme not in ("bf16", "fp16", "fp32"):
        raise QuantizeError(
            f"{folder} is stored as {manifest.scheme}: quantize the 16-bit model that it was made "
            "of."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as problem:  # transformers has many, down to Exception itself
        raise QuantizeError(
            f"{folder} cannot be loaded ({_first_line(problem)}): give a folder of a model that "
            "transformers knows, with all its files."
        ) from problem
    if config.model_type == _LAYERWISE:
        raise QuantizeError(
            f"{folder} has layers of different widths, which are served in bf16 only: serve it as "
            "it is."
        )
    return Parent(folder=folder, manifest=manifest, config=config, files=dict(_files(folder)))


def linear_layers(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the layers that are quantized, in the model's own order."""
    from torch import nn

    found = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    return [f"{prefix}{name}" for name in found if name.split(".")[-1] != HEAD]


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    from safetensors import SafetensorError, safe_open

    index = folder / INDEX
    try:
        if index.exists():
            yield from json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()
            return
        with safe_open(folder / SINGLE, framework="pt") as stored:
            yield from ((name, SINGLE) for name in stored.keys())  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise QuantizeError(
            f"{folder} holds no {SINGLE}: give a folder whose weights are safetensors files."
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError) as problem:
        raise QuantizeError(
            f"The weights in {folder} are damaged ({_first_line(problem)}): copy or fetch the "
            "model again."
        ) from problem


def _first_line(problem: BaseException) -> str:
    """What it says, or its name where it says nothing."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror.lower()
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(problem).__name__
