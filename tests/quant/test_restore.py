"""A restored model computes with the very weights that a folder's tensors stand for."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from senryu.quant import packing
from senryu.quant.errors import QuantizeError
from senryu.quant.grids import Codes, Fp8, Integers, MxFp4, NvFp4, nearest
from senryu.quant.restore import restore
from senryu.server.manifest import FileRecord, Manifest

from .conftest import tiny_llama

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    tiny_llama().save_pretrained(folder)
    return folder


def quantized(parent: Path, out: Path, scheme: Any, grid: Any) -> dict[str, Codes]:
    """Write the folder with the tools of the room, all layers alike; what was stored."""
    shutil.copytree(parent, out)
    tensors = load_file(out / WEIGHTS)
    codes = {}
    for name in [each for each in tensors if each.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        codes[layer] = nearest(tensors.pop(name), grid)
        packed = packing.pack(codes[layer], scheme)
        tensors |= {f"{layer}.{part}": tensor for part, tensor in packed.items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    describe(out, packing.config(scheme, ["lm_head"]))
    return codes


def describe(folder: Path, quantization: Mapping[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": dict(quantization)})
    )


@pytest.mark.parametrize(
    "grid",
    [
        Integers(symmetric=True, group_size=32),
        Integers(symmetric=False, group_size=32),
        Integers(width=8, symmetric=True, group_size=None),
        NvFp4(),
        MxFp4(),
        Fp8(),
    ],
    ids=["int4", "int4-asymmetric", "int8", "nvfp4", "mxfp4", "fp8"],
)
def test_weights_are_what_was_stored(parent: Path, tmp_path: Path, grid: Any) -> None:
    codes = quantized(parent, tmp_path / "out", packing.weights_only(grid), grid)
    model = restore(tmp_path / "out", dtype=torch.float32)
    for layer, stored in codes.items():
        torch.testing.assert_close(model.get_submodule(layer).weight, stored.values())


def test_what_was_kept_is_as_it_was(parent: Path, tmp_path: Path) -> None:
    grid = Integers(symmetric=True, group_size=32)
    quantized(parent, tmp_path / "out", packing.weights_only(grid), grid)
    model, whole = restore(tmp_path / "out"), load_file(parent / WEIGHTS)
    assert torch.equal(model.model.embed_tokens.weight, whole["model.embed_tokens.weight"])
    assert torch.equal(model.model.norm.weight, whole["model.norm.weight"])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype is torch.bfloat16
    assert bool(model(torch.arange(10)[None]).logits.isfinite().all())


def test_a_folder_in_16_bits_is_loaded_as_it_is(parent: Path) -> None:
    model, whole = restore(parent), load_file(parent / WEIGHTS)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, whole[name])
        assert not weight.requires_grad


def test_layers_of_several_widths_are_told_apart(parent: Path, tmp_path: Path) -> None:
    """A mixed folder has a group for each width, and some layers in 16 bits."""
    out, wide = tmp_path / "out", Integers(width=8, symmetric=True, group_size=None)
    narrow = Integers(symmetric=True, group_size=32)
    codes = quantized(parent, out, packing.weights_only(narrow), narrow)
    kept, wider = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
    tensors, whole = load_file(out / WEIGHTS), load_file(parent / WEIGHTS)
    for layer in (kept, wider):
        tensors = {name: each for name, each in tensors.items() if not name.startswith(layer)}
    tensors[f"{kept}.weight"] = whole[f"{kept}.weight"]
    codes[wider] = nearest(whole[f"{wider}.weight"], wide)
    scheme = packing.weights_only(wide)
    packed = packing.pack(codes[wider], scheme)
    tensors |= {f"{wider}.{part}": tensor for part, tensor in packed.items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    few = packing.config(packing.weights_only(narrow), ["lm_head", kept])
    more = packing.config(scheme.model_copy(update={"targets": ["re:.*1.mlp.down_proj"]}), [])
    groups = {"wide": more["config_groups"]["group_0"], **few["config_groups"]}
    describe(out, few | {"config_groups": groups})

    model = restore(out, dtype=torch.float32)
    assert torch.equal(model.get_submodule(kept).weight, whole[f"{kept}.weight"].float())
    for layer, stored in codes.items():
        if layer != kept:
            torch.testing.assert_close(model.get_submodule(layer).weight, stored.values())


def fp8_by_hand(value: torch.Tensor) -> torch.Tensor:
    scale = value.abs().amax(dim=-1, keepdim=True) / 448
    return (value / scale).to(torch.float8_e4m3fn).float() * scale


def int8_by_hand(value: torch.Tensor) -> torch.Tensor:
    scale = value.abs().amax(dim=-1, keepdim=True) / 127.5
    return torch.round(value / scale).clamp(-128, 127) * scale


@pytest.mark.parametrize(
    ("grid", "inputs", "by_hand"),
    [
        (Fp8(), "fp8", fp8_by_hand),
        (Integers(width=8, symmetric=True, group_size=None), "int8", int8_by_hand),
    ],
    ids=["fp8", "int8"],
)
def test_layers_round_what_they_read_token_by_token(
    parent: Path, tmp_path: Path, grid: Any, inputs: Any, by_hand: Any
) -> None:
    quantized(parent, tmp_path / "out", packing.with_inputs(grid, inputs), grid)
    layer = restore(tmp_path / "out", dtype=torch.float32).model.layers[0].mlp.up_proj
    torch.manual_seed(3)
    read = torch.randn(2, 5, 64) * torch.tensor([0.1, 1, 10, 100, 1000])[:, None]
    wanted = by_hand(read) @ layer.weight.T
    torch.testing.assert_close(layer(read), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(read[0]), wanted[0], rtol=1e-4, atol=1e-4)
    assert layer(read[:, :0]).shape == (2, 0, 96)


def test_four_bit_inputs_are_rounded_in_groups(parent: Path, tmp_path: Path) -> None:
    quantized(parent, tmp_path / "out", packing.with_inputs(MxFp4(), "mxfp4"), MxFp4())
    layer = restore(tmp_path / "out", dtype=torch.float32).model.layers[0].mlp.up_proj
    torch.manual_seed(3)
    read = torch.randn(1, 5, 64)
    plain = read @ layer.weight.T
    apart = (layer(read) - plain).norm() / plain.norm()
    assert 0.02 < float(apart) < 0.3


# bitsandbytes' own, while it is imported and while it reads its state back.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_nf4_folders_come_back(parent: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="it is an extra")
    from senryu.quant.schemes.nf4 import NF4

    out = tmp_path / "out"
    shutil.copytree(parent, out)
    whole, tensors, values = load_file(out / WEIGHTS), {}, {}
    for name, weight in whole.items():
        layer = name.removesuffix(".weight")
        if not layer.endswith("_proj"):
            tensors[name] = weight
            continue
        stored = NF4().store({layer: weight}, None)[layer]
        values[layer] = stored.values
        tensors |= {f"{layer}.{part}": tensor for part, tensor in stored.tensors.items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    describe(out, NF4().config(["lm_head"]))
    model = restore(out, dtype=torch.float32)
    for layer, wanted in values.items():
        assert torch.equal(model.get_submodule(layer).weight, wanted)


@pytest.fixture
def small(parent: Path, tmp_path: Path) -> Path:
    grid = Integers(symmetric=True, group_size=32)
    quantized(parent, tmp_path / "small", packing.weights_only(grid), grid)
    return tmp_path / "small"


def test_a_damaged_shard_is_named(small: Path) -> None:
    (small / WEIGHTS).write_bytes((small / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(QuantizeError, match=rf"{WEIGHTS} is damaged .*quantize it again"):
        restore(small)


def test_a_file_of_another_size_than_recorded_is_named(small: Path) -> None:
    made = Manifest(
        model_id="small",
        display_name="small",
        source="a test",
        licence=None,
        scheme="w4a16",
        group_size=32,
        parameters=None,
        created_at=None,
        files={WEIGHTS: FileRecord.of(small / WEIGHTS)},
    )
    wrong = dataclasses.replace(made.files[WEIGHTS], size=5)
    dataclasses.replace(made, files={WEIGHTS: wrong}).write(small)
    with pytest.raises(QuantizeError, match="bytes instead of 5"):
        restore(small)


@pytest.mark.parametrize("lost", ["weight_scale", "weight_packed"])
def test_a_layer_that_lost_a_tensor_is_named(small: Path, lost: str) -> None:
    layer = "model.layers.1.self_attn.q_proj"
    tensors = load_file(small / WEIGHTS)
    del tensors[f"{layer}.{lost}"]
    save_file(tensors, small / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(QuantizeError, match=rf"damaged .*{layer}"):
        restore(small)


def test_a_missing_tensor_is_named(small: Path) -> None:
    tensors = load_file(small / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, small / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(QuantizeError, match=r"holds no tensor model\.norm\.weight"):
        restore(small)


def test_a_layer_of_another_shape_is_named(small: Path) -> None:
    tensors = load_file(small / WEIGHTS)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:32].clone()
    save_file(tensors, small / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(QuantizeError, match=r"model\.norm\.weight is \(32,\) instead of \(64,\)"):
        restore(small)


def test_a_missing_shard_is_named(small: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (small / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(QuantizeError, match=r"00001-of-00002\.safetensors is missing"):
        restore(small)


def test_what_is_no_model_of_ours_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"no config\.json"):
        restore(tmp_path / "nowhere")
    describe(small, {"quant_method": "gptq", "bits": 4})
    with pytest.raises(QuantizeError, match="gptq, which is not one of our formats"):
        restore(small)
    describe(small, {"quant_method": "compressed-tensors"})
    with pytest.raises(QuantizeError, match=r"config\.json is damaged"):
        restore(small)
    (small / "config.json").write_text("[]")
    with pytest.raises(QuantizeError, match="not a JSON object"):
        restore(small)
