"""The one place that knows how weights on a grid lie in a folder that vLLM loads.

Comes in: `Codes` and what is done to activations. Goes out: tensors and the `quantization_config`
of the compressed-tensors format, written and read back by that library alone. It refuses to know
how codes were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, assert_never

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from torch import Tensor

    from .grids import Codes, Fp8, Integers, MxFp4, NvFp4

    Known = Integers | NvFp4 | MxFp4 | Fp8


def weights_only(grid: Known) -> QuantizationScheme:
    """The library's description of a grid, with activations left in 16 bits."""
    from compressed_tensors.quantization import QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=arguments(grid))


Inputs = Literal["int8", "fp8", "nvfp4", "mxfp4"]
"""What a layer's input is rounded to while the model runs. Int8 and fp8 have a scale a token."""


def with_inputs(grid: Known, inputs: Inputs) -> QuantizationScheme:
    """The library's description of a grid whose layers also round what they read."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    from .grids import Integers

    told: dict[str, Any]
    match inputs:
        case "int8":
            told = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
        case "fp8":
            told = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
        case "nvfp4":  # the scale of a group is taken from the token, the one above all is stored
            kind = torch.float8_e4m3fn
            told = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "dynamic": "local"}
            told |= {"group_size": 16, "scale_dtype": kind, "zp_dtype": kind}
        case "mxfp4":
            told = {"num_bits": 4, "type": "float", "dynamic": True, **_groups(32)}
            told |= {"scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
        case _:
            assert_never(inputs)
    return QuantizationScheme(
        targets=["Linear"],
        weights=arguments(grid),
        input_activations=QuantizationArgs(symmetric=True, **told),
        # Left to itself the library stores 4-bit integers unpacked once inputs are rounded too.
        format="pack-quantized" if isinstance(grid, Integers) and grid.width < 8 else None,
    )


def arguments(grid: Known) -> QuantizationArgs:
    """The library's description of how weights of this grid are stored."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs

    from .grids import Fp8, Integers, MxFp4, NvFp4

    told: dict[str, Any]
    match grid:
        case Integers():
            told = {"num_bits": grid.width, "type": "int", "symmetric": grid.symmetric}
            told |= _groups(grid.group_size)
        case NvFp4():
            kind = torch.float8_e4m3fn
            told = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "symmetric": True}
            told |= {"group_size": grid.group_size, "scale_dtype": kind, "zp_dtype": kind}
        case MxFp4():
            told = {"num_bits": 4, "type": "float", "symmetric": True, **_groups(grid.group_size)}
            told |= {"scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
        case Fp8():
            told = {"num_bits": 8, "type": "float", "symmetric": True, **_groups(None)}
        case _:
            assert_never(grid)
    return QuantizationArgs(**told)


def pack(codes: Codes, scheme: QuantizationScheme) -> dict[str, Tensor]:
    """Tensors by the names that follow the layer's own.

    The library takes weights, not codes, and rounds them itself. Given exactly the values that the
    codes stand for, in float32, it finds the same codes again, however they were chosen.
    """
    import torch

    steps = codes.steps
    told = {"weight": codes.values(), "weight_scale": _plain(steps.scale)}
    zero = steps.zero
    told["weight_zero_point"] = (
        torch.zeros_like(steps.scale, dtype=torch.int8) if zero is None else zero
    )
    if steps.global_scale is not None:
        told["weight_global_scale"] = steps.global_scale.clone()  # files take no shared memory
    stored = _compressor(scheme).compress(told, scheme)
    return {name: tensor.contiguous() for name, tensor in stored.items()}


def unpack(tensors: Mapping[str, Tensor], scheme: QuantizationScheme) -> Tensor:
    """float32 `(out, in)`: the weight that the tensors stand for, as the library reads them."""
    import torch

    if tensors.get("weight_packed", torch.empty(0)).dtype == torch.uint8:
        return _floats(tensors)
    told = dict(tensors)
    scale = told["weight_scale"]
    if scale.dtype in (torch.bfloat16, torch.float16):
        told["weight_scale"] = scale.float()  # it computes in the type of the scale
    weight: Tensor = _compressor(scheme).decompress(told, scheme)["weight"]
    return weight.float()


def _floats(tensors: Mapping[str, Tensor]) -> Tensor:
    """Of 4-bit floats the library unpacks the codes; it would multiply them in bfloat16, which is
    too few digits for NVFP4's two scales."""
    import torch
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8

    from .grids import Codes, Steps

    packed, scale = tensors["weight_packed"], tensors["weight_scale"]
    rows, bytes_a_row = packed.shape
    codes = unpack_fp4_from_uint8(packed, rows, 2 * bytes_a_row, torch.float32)
    if scale.dtype == torch.uint8:  # MXFP4 stores the exponent, shifted by 127
        scale = torch.exp2(scale.float() - 127)
    whole = tensors.get("weight_global_scale")
    return Codes(codes=codes, steps=Steps(scale=scale, global_scale=whole)).values()


def codes_of(tensors: Mapping[str, Tensor], grid: Known) -> Codes:
    """The codes that the tensors of `pack` hold."""
    from .grids import Codes, Steps

    scheme = weights_only(grid)
    zero = _compressor(scheme).decompress(dict(tensors), scheme).get("weight_zero_point")
    steps = Steps(
        scale=tensors["weight_scale"], zero=zero, global_scale=tensors.get("weight_global_scale")
    )
    values = unpack(tensors, scheme)
    size, zeros = steps.of_columns(values.shape[1])
    return Codes(codes=grid.snap(values / size + zeros), steps=steps)


def config(
    scheme: QuantizationScheme, kept: Sequence[str], kv_cache: QuantizationArgs | None = None
) -> dict[str, Any]:
    """`quantization_config` for config.json. `kept` are the linear layers in 16 bits."""
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus

    scheme = scheme.model_copy(update={"format": _format(scheme)})
    told = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=list(kept),
        format=_format(scheme),
        quantization_status=QuantizationStatus.COMPRESSED,
        kv_cache_scheme=kv_cache,
    )
    return {"quant_method": "compressed-tensors", **told.model_dump(mode="json")}


def _compressor(scheme: QuantizationScheme) -> Any:
    from compressed_tensors.compressors.base import BaseCompressor

    return BaseCompressor.get_value_from_registry(_format(scheme))


def _format(scheme: QuantizationScheme) -> str:
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.config import CompressionFormat
    from torch import nn

    if scheme.format is not None:
        return str(CompressionFormat(scheme.format).value)
    return str(infer_module_format(nn.Linear, scheme).value)


def _groups(size: int | None) -> dict[str, Any]:
    return {"strategy": "channel"} if size is None else {"strategy": "group", "group_size": size}


def _plain(scale: Tensor) -> Tensor:
    """Scales of one byte as float32, which the library turns into bytes itself."""
    return scale.float() if scale.element_size() == 1 else scale
