"""Promises of `quant/packing.py` for integers: what lies in the folder is exactly the codes that
were given, by the library's reading and by a plain one."""

import json

import pytest
import torch

from senryu.quant.grids import Codes, Integers, Steps, nearest
from senryu.quant.packing import arguments, config, pack, unpack, weights_only

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

GRIDS = pytest.mark.parametrize(
    "grid",
    [
        Integers(symmetric=symmetric, group_size=group_size)
        for symmetric in (True, False)
        for group_size in (32, 64, 128)
    ],
    ids=lambda grid: f"{'symmetric' if grid.symmetric else 'asymmetric'}-{grid.group_size}",
)


def random_codes(grid: Integers, rows: int = 24, columns: int = 256) -> Codes:
    """Any codes at all, not the nearest to anything: GPTQ and training choose as they like."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(rows, columns, generator=generator) * 0.05
    weight[0] = 0  # a group without any size
    steps = grid.fit(weight)
    drawn = torch.randint(-8, 8, (rows, columns), generator=generator)
    if steps.zero is not None:
        drawn_zero = torch.randint(-8, 8, steps.zero.shape, generator=generator, dtype=torch.int8)
        steps = Steps(scale=steps.scale, zero=drawn_zero)
    return Codes(codes=drawn.float(), steps=steps)


def nibbles(words: list[list[int]]) -> list[list[int]]:
    """Eight codes from each int32, the lowest bits first, stored plus eight."""
    return [
        [(((word & 0xFFFFFFFF) >> shift) & 15) - 8 for word in row for shift in range(0, 32, 4)]
        for row in words
    ]


@GRIDS
def test_the_library_reads_back_exactly_what_was_given(grid: Integers) -> None:
    codes = random_codes(grid)
    scheme = weights_only(grid)
    found = unpack(pack(codes, scheme), scheme)
    assert found.dtype == torch.float32
    assert torch.equal(found, codes.values())


@GRIDS
def test_plain_bit_operations_read_the_very_codes(grid: Integers) -> None:
    codes = random_codes(grid)
    stored = pack(codes, weights_only(grid))
    assert stored["weight_packed"].dtype == torch.int32
    assert nibbles(stored["weight_packed"].tolist()) == codes.codes.int().tolist()
    assert torch.equal(stored["weight_scale"], codes.steps.scale)
    assert stored["weight_shape"].tolist() == [24, 256]
    if codes.steps.zero is None:
        assert "weight_zero_point" not in stored
    else:  # eight rows, not columns, to each int32
        turned = stored["weight_zero_point"].T.tolist()
        assert nibbles(turned) == codes.steps.zero.T.tolist()


@GRIDS
def test_what_lies_in_the_file_is_contiguous_and_has_no_more_than_that(grid: Integers) -> None:
    stored = pack(random_codes(grid), weights_only(grid))
    named = {"weight_packed", "weight_scale", "weight_shape"}
    assert set(stored) == (named if grid.symmetric else {*named, "weight_zero_point"})
    assert all(tensor.is_contiguous() for tensor in stored.values())


@pytest.mark.parametrize("shape", [(576, 1536), (1536, 576)])
@pytest.mark.parametrize(("symmetric", "bound"), [(True, 4.5), (False, 4.63)])
def test_a_weight_takes_as_few_bits_as_was_promised(
    symmetric: bool, bound: float, shape: tuple[int, int]
) -> None:
    grid = Integers(symmetric=symmetric, group_size=32)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    stored = pack(nearest(weight, grid), weights_only(grid))
    counted = ("weight_packed", "weight_scale", "weight_zero_point")
    taken = sum(tensor.nbytes for name, tensor in stored.items() if name in counted)
    assert 8 * taken / weight.numel() <= bound
    assert 8 * taken / weight.numel() == grid.bits


def test_eight_bits_in_rows_come_back_too() -> None:
    grid = Integers(symmetric=True, group_size=None, width=8)
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(3))
    codes = nearest(weight, grid)
    scheme = weights_only(grid)
    assert torch.equal(unpack(pack(codes, scheme), scheme), codes.values())


def test_packing_and_reading_leave_their_tensors_alone() -> None:
    grid = Integers(symmetric=False, group_size=32)
    codes = random_codes(grid)
    before = codes.codes.clone(), codes.steps.scale.clone()
    stored = pack(codes, weights_only(grid))
    kept = {name: tensor.clone() for name, tensor in stored.items()}
    unpack(stored, weights_only(grid))
    assert torch.equal(codes.codes, before[0])
    assert torch.equal(codes.steps.scale, before[1])
    assert set(stored) == set(kept)
    assert all(torch.equal(stored[name], kept[name]) for name in kept)


@GRIDS
def test_the_description_says_what_the_grid_is(grid: Integers) -> None:
    told = arguments(grid).model_dump(mode="json")
    assert (told["num_bits"], told["type"], told["strategy"]) == (4, "int", "group")
    assert (told["group_size"], told["symmetric"]) == (grid.group_size, grid.symmetric)
    assert told["actorder"] in (None, "static")  # the only orders that vLLM loads
    assert told["dynamic"] is False


def test_the_config_is_what_an_engine_reads() -> None:
    grid = Integers(symmetric=False, group_size=64)
    told = config(weights_only(grid), ["lm_head", "model.layers.0.mlp.down_proj"])
    assert json.loads(json.dumps(told)) == told
    assert told["quant_method"] == "compressed-tensors"
    assert told["format"] == "pack-quantized"
    assert told["quantization_status"] == "compressed"
    assert told["ignore"] == ["lm_head", "model.layers.0.mlp.down_proj"]
    group = told["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"]
    assert group["format"] == "pack-quantized"
    assert group["input_activations"] is None
    assert (group["weights"]["num_bits"], group["weights"]["group_size"]) == (4, 64)
    assert group["weights"]["symmetric"] is False


def test_the_config_is_one_that_the_library_understands() -> None:
    from compressed_tensors.quantization import QuantizationConfig

    told = config(weights_only(Integers(symmetric=True, group_size=32)), ["lm_head"])
    read = QuantizationConfig.model_validate(told)
    assert read.config_groups["group_0"].weights == arguments(
        Integers(symmetric=True, group_size=32)
    )
    assert read.quantization_status == "compressed"
