"""Turns a quantized folder back into an ordinary model that computes what the folder stands for.

Comes in: a model folder as we write them, in any scheme. Goes out: a transformers model in 16 bits
whose weights are those that the stored tensors stand for; where the folder's engine rounds what a
layer reads, that layer rounds it too. Made for measuring, not for serving. It refuses to know how
codes were chosen and what is measured; tensors are taken apart by `packing.py` and by the schemes.
One tensor at a time is turned back, so that there are never two copies of the model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from senryu.server.manifest import Manifest

from .errors import QuantizeError

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from transformers import PreTrainedModel

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PLAIN = (torch.bfloat16, torch.float16, torch.float32)


def restore(folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """The model, in memory and ready to read. Raises QuantizeError, one sentence."""
    config = _config(folder)
    method = _method(config)
    try:
        manifest = Manifest.read(folder)
        if manifest is not None:
            manifest.verify(folder, hashes=False)
    except ValueError as problem:
        raise QuantizeError(str(problem)) from problem
    if method is None:
        return _as_it_is(folder, dtype)
    if method == "compressed-tensors":
        packed = _Compressed.of(config, folder)
    elif method == "bitsandbytes":
        packed = None
    else:
        raise QuantizeError(
            f"{folder} is stored as {method}, which is not one of our formats: measure the folder "
            "that senryu quantize wrote."
        )
    model = _skeleton(folder, dtype)
    with _Stored.open(folder) as stored:
        _fill(model, stored, packed, dtype)
    model.tie_weights()
    left = [name for name, each in model.named_parameters() if each.is_meta]
    if left:
        raise _missing(folder, left[0])
    model.requires_grad_(False)
    whole: PreTrainedModel = model.eval()
    return whole


def _as_it_is(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    from .export import no_bars

    try:
        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except Exception as problem:  # transformers has many, down to Exception itself
        raise _damaged(folder, problem) from problem
    model.requires_grad_(False)
    whole: PreTrainedModel = model.eval()
    return whole


def _skeleton(folder: Path, dtype: torch.dtype) -> Any:
    """The model without weights; buffers are there."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        # Or transformers would want to load it in its own way.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with init_empty_weights(include_buffers=False):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as problem:
        raise _damaged(folder, problem) from problem


def _fill(model: Any, stored: _Stored, packed: _Compressed | None, dtype: torch.dtype) -> None:
    """Give each module its weights, one at a time."""
    shared = set(getattr(model, "_tied_weights_keys", None) or ())
    for prefix, module in model.named_modules():
        told = stored.under(prefix)
        if isinstance(module, nn.Linear) and _is_packed(told):
            if packed is None:
                weight = _four_bit_floats(told, stored.folder, prefix)
            else:
                weight = packed.weight(prefix, module, told)
                packed.round_inputs(prefix, module, told)
            _refuse_shape(stored.folder, prefix, module.weight, weight)
            told = {"weight": weight, **{name: told[name] for name in ("bias",) if name in told}}
        for name, parameter in list(module.named_parameters(recurse=False)):
            if name not in told:
                if f"{prefix}.{name}" in shared:
                    continue  # it is another one's, and is tied to it at the end
                raise _missing(stored.folder, f"{prefix}.{name}")
            _refuse_shape(stored.folder, f"{prefix}.{name}", parameter, told[name])
            value = nn.Parameter(told[name].to(dtype), requires_grad=False)
            setattr(module, name, value)


def _is_packed(told: Mapping[str, Tensor]) -> bool:
    plain = "weight" in told and told["weight"].dtype in _PLAIN
    return bool(told) and not (plain and told.keys() <= {"weight", "bias"})


def _four_bit_floats(told: Mapping[str, Tensor], folder: Path, prefix: str) -> Tensor:
    from .schemes import nf4

    with _layer(folder, prefix):
        weight: Tensor = nf4.values({name: each for name, each in told.items() if name != "bias"})
    return weight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Compressed:
    """What `quantization_config` says of the layers of a folder in the compressed-tensors
    format."""

    folder: Path
    schemes: tuple[QuantizationScheme, ...]
    ignored: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path) -> _Compressed:
        from compressed_tensors.quantization import QuantizationScheme

        told = config["quantization_config"]
        try:
            schemes = tuple(
                QuantizationScheme.model_validate(each) for each in told["config_groups"].values()
            )
            return cls(folder=folder, schemes=schemes, ignored=tuple(told.get("ignore") or ()))
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise _damaged(folder / "config.json", problem) from problem

    def weight(self, prefix: str, module: nn.Module, told: Mapping[str, Tensor]) -> Tensor:
        """What a layer's tensors stand for."""
        from .packing import unpack

        own = {name: each for name, each in told.items() if name.startswith("weight")}
        with _layer(self.folder, prefix):
            return unpack(own, self._scheme(prefix, module))

    def round_inputs(self, prefix: str, module: nn.Module, told: Mapping[str, Tensor]) -> None:
        """Have the layer round what it reads, where its scheme says so."""
        arguments = self._scheme(prefix, module).input_activations
        if arguments is None:
            return
        known = {name: told[f"input_{name}"].float() for name in _KNOWN if f"input_{name}" in told}
        if not arguments.dynamic and "scale" not in known:
            raise _missing(self.folder, f"{prefix}.input_scale")

        def rounded(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (_rounded(inputs[0], arguments, known), *inputs[1:])

        module.register_forward_pre_hook(rounded)

    def _scheme(self, prefix: str, module: nn.Module) -> QuantizationScheme:
        from compressed_tensors.utils.match import is_match

        for scheme in self.schemes:
            if is_match(prefix, module, scheme.targets, self.ignored):
                return scheme
        raise QuantizeError(
            f"{self.folder} holds {prefix} in fewer bits and its config.json does not say how: "
            "quantize the model again."
        )


_KNOWN = ("scale", "zero_point", "global_scale")


def _rounded(value: Tensor, arguments: QuantizationArgs, known: Mapping[str, Tensor]) -> Tensor:
    """What is left of a layer's input, `(batch, tokens, features)` or `(tokens, features)`."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    if not value.numel():
        return value
    # The library tells a token by the first two dimensions; engines compute scales in float32.
    whole = value.float().reshape(1, -1, value.shape[-1])
    told = {name: each.to(value.device) for name, each in known.items()}
    shared = told.get("global_scale")
    if arguments.dynamic:
        scale, zero = compute_dynamic_scales_and_zp(whole, arguments, None, global_scale=shared)
    else:
        scale, zero = told["scale"], told.get("zero_point")
    rounded: Tensor = fake_quantize(whole, scale, zero, arguments, global_scale=shared)
    return rounded.reshape(value.shape).to(value.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stored:
    """The tensors in a folder, read when they are asked for."""

    folder: Path
    modules: Mapping[str, Mapping[str, tuple[Any, str]]]
    """Module -> the rest of a tensor's name -> its open file and whole name."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[_Stored]:
        from safetensors import SafetensorError, safe_open

        with contextlib.ExitStack() as stack:
            modules: dict[str, dict[str, tuple[Any, str]]] = {}
            for file in _files(folder):
                try:
                    shard = stack.enter_context(safe_open(file, framework="pt"))
                except FileNotFoundError:
                    raise QuantizeError(
                        f"{file} is missing: copy the model again, or quantize it again."
                    ) from None
                except (OSError, SafetensorError) as problem:
                    raise _damaged(file, problem) from problem
                for name in shard.keys():  # noqa: SIM118 - it is no mapping
                    prefix, own = _split(name)
                    modules.setdefault(prefix, {})[own] = (shard, name)
            yield cls(folder=folder, modules=modules)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one module, without those of modules in it."""
        from safetensors import SafetensorError

        told = {}
        for own, (shard, name) in self.modules.get(prefix, {}).items():
            try:
                told[own] = shard.get_tensor(name)
            except (OSError, SafetensorError) as problem:
                raise _damaged(self.folder, problem) from problem
        return told


def _split(name: str) -> tuple[str, str]:
    """A tensor's module, and the rest of its name: bitsandbytes puts more behind `weight`."""
    prefix, found, rest = name.partition(".weight.")
    if found:
        return prefix, f"weight.{rest}"
    prefix, _, own = name.rpartition(".")
    return prefix, own


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if not index.exists():
        return [folder / _SINGLE]
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(named))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
        raise _damaged(index, problem) from problem


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        raise QuantizeError(
            f"{folder} is not a model folder, it has no config.json: name a folder that holds a "
            "model."
        ) from None
    except (OSError, ValueError) as problem:
        raise _damaged(file, problem) from problem
    return config


def _method(config: Mapping[str, Any]) -> str | None:
    told = config.get("quantization_config")
    return str(told.get("quant_method", "unknown")) if isinstance(told, dict) else None


@contextlib.contextmanager
def _layer(folder: Path, prefix: str) -> Iterator[None]:
    """What the libraries raise for tensors that do not fit together has no words for people."""
    try:
        yield
    except QuantizeError:
        raise
    except Exception as problem:
        raise _damaged(folder, problem, f"layer {prefix}, ") from problem


def _refuse_shape(folder: Path, name: str, wanted: Tensor, found: Tensor) -> None:
    if wanted.shape != found.shape:
        shapes = f"{tuple(found.shape)} instead of {tuple(wanted.shape)}"
        raise _damaged(folder, ValueError(f"{name} is {shapes}"))


def _missing(folder: Path, name: str) -> QuantizeError:
    return QuantizeError(
        f"{folder} holds no tensor {name}: copy the model again, or quantize it again."
    )


def _damaged(what: Path, problem: BaseException, where: str = "") -> QuantizeError:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    why = lines[0].rstrip(".:") if lines else type(problem).__name__
    if isinstance(problem, OSError) and problem.strerror:
        why = problem.strerror.lower()
    return QuantizeError(
        f"{what} is damaged ({where}{why}): copy the model again, or quantize it again."
    )
