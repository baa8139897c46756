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

from .errors import QuantizeError, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PLAIN = ("bf16", "fp16", "fp32")
"""What a manifest calls weights that nobody has quantized."""
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

        try:
            with init_empty_weights(include_buffers=False):
                model = AutoModelForCausalLM.from_config(self.config, dtype=torch.bfloat16)
        except Exception as problem:  # transformers has many, down to Exception itself
            raise _not_loaded(self.folder, problem) from problem
        inner = getattr(model, "model", None)
        if not all(hasattr(inner, part) for part in ("embed_tokens", "layers", "norm")):
            raise QuantizeError(
                f"{self.folder} is a {self.config.model_type} model, whose layers are not where "
                "ours look for them: quantize a model built like Llama, Qwen, Mistral or Gemma."
            )
        shared = _shared(model)
        wanted = {name for name, _ in model.named_parameters() if name not in shared}
        lacking = sorted(wanted - self.files.keys())
        if lacking:
            raise QuantizeError(
                f"{self.folder} holds no weight {lacking[0]}: only models whose files name their "
                "weights as transformers does can be taken apart; serve this one as it is."
            )
        known = {name for name, _ in model.named_parameters()}
        strange = sorted(
            name
            for name in self.files.keys() - known
            if name.startswith("model.layers.") and not name.endswith("rotary_emb.inv_freq")
        )
        if strange:
            raise QuantizeError(
                f"{self.folder} holds {strange[0]}, which is no weight that we know of: this kind "
                "of model cannot be taken apart; serve it as it is."
            )
        return model.eval()

    def parameters(self) -> int:
        """How many weights the model has, those that are shared counted once."""
        model = self.skeleton()
        shared = _shared(model)
        return sum(each.numel() for name, each in model.named_parameters() if name not in shared)

    def tensor(self, name: str) -> Tensor:
        """One weight. Raises QuantizeError for a damaged file."""
        from safetensors import SafetensorError, safe_open

        file = self.folder / self.files[name]
        try:
            with safe_open(file, framework="pt") as stored:
                tensor: Tensor = stored.get_tensor(name)
        except (OSError, SafetensorError) as problem:
            raise _damaged(file, problem) from problem
        return tensor

    def plain(self, name: str) -> Tensor:
        """One weight in 16 bits: as it is, or in bf16 where it has more."""
        import torch

        tensor = self.tensor(name)
        return tensor.bfloat16() if tensor.dtype in (torch.float32, torch.float64) else tensor

    def load(self, module: nn.Module, prefix: str, device: Any = "cpu") -> None:
        """Give a module of the skeleton its weights, in bf16."""
        import torch

        state = {}
        for name, wanted in module.named_parameters():
            tensor = self.tensor(f"{prefix}.{name}")
            if tensor.shape != wanted.shape:
                raise QuantizeError(
                    f"{prefix}.{name} in {self.folder} is {tuple(tensor.shape)}, and config.json "
                    f"makes it {tuple(wanted.shape)}: copy or fetch the model again."
                )
            state[name] = tensor.to(device, torch.bfloat16)
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
    # Older configs do not name their type.
    if manifest.group_size is not None or manifest.scheme not in (*PLAIN, "unknown"):
        raise QuantizeError(
            f"{folder} is stored as {manifest.scheme}: quantize the 16-bit model that it was made "
            "of."
        )
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        # It is a kind of ours, which transformers does not know.
        layerwise = told.get("model_type") == _LAYERWISE
        config = None if layerwise else AutoConfig.from_pretrained(folder)
    except Exception as problem:  # transformers has many, down to Exception itself
        raise _not_loaded(folder, problem) from problem
    if layerwise:
        raise QuantizeError(
            f"{folder} has layers of different widths, which are served in bf16 only: serve it as "
            "it is."
        )
    return Parent(folder=folder, manifest=manifest, config=config, files=dict(_files(folder)))


def _shared(model: Any) -> frozenset[str]:
    """Names of weights that are another one's too, and so need not be stored."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return frozenset()
    return frozenset(getattr(model, "_tied_weights_keys", None) or ())


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
            named = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            for file in sorted(set(named.values())):
                if not (folder / file).is_file():
                    raise QuantizeError(
                        f"{folder / file} is missing: copy or fetch the model again."
                    )
                try:  # now, and not when all layers before it are done
                    with safe_open(folder / file, framework="pt"):
                        pass
                except (OSError, SafetensorError) as problem:
                    raise _damaged(folder / file, problem) from problem
            yield from named.items()
            return
        with safe_open(folder / SINGLE, framework="pt") as stored:
            yield from ((name, SINGLE) for name in stored.keys())  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise QuantizeError(
            f"{folder} holds no {SINGLE}: give a folder whose weights are safetensors files."
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as problem:
        raise _damaged(index if index.exists() else folder / SINGLE, problem) from problem


def _damaged(file: Path, problem: BaseException) -> QuantizeError:
    return QuantizeError(f"{file} is damaged ({reason(problem)}): copy or fetch the model again.")


def _not_loaded(folder: Path, problem: BaseException) -> QuantizeError:
    return QuantizeError(
        f"{folder} cannot be loaded ({reason(problem)}): give a folder of a model that "
        "transformers knows, with all its files."
    )
