"""Promises of `quant/whole.py`: what a library found lies like what `layers.py` finds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_kinds import some_tokens, tiny, tiny_folder

from senryu.quant.errors import QuantizeError
from senryu.quant.grids import Codes, Integers, nearest
from senryu.quant.layers import Work, quantize_layers
from senryu.quant.parent import linear_layers, open_parent
from senryu.quant.progress import Silent
from senryu.quant.schemes.w4a16 import W4A16
from senryu.quant.whole import quantize_whole

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
TOKENS = some_tokens(4, 8)


@dataclass
class Library:
    """Rounds to nearest, so that our own way finds the same codes."""

    name: str = "library"
    multiple: int = 32
    group_size: int = 32
    symmetric: bool = False
    asked: list[Any] = field(default_factory=list)

    def codes(
        self, folder: Path, rows: list[Any], kept: list[str], progress: Any
    ) -> Iterator[tuple[str, Codes]]:
        self.asked.append((folder, rows, kept))
        grid = Integers(symmetric=False, group_size=32)
        whole = tiny()
        for name in linear_layers(whole):
            if name not in kept:
                yield name, nearest(whole.get_submodule(name).weight, grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "llama")


def test_the_files_are_those_of_our_own_way(folder: Path, tmp_path: Path) -> None:
    kept = ["model.layers.1.mlp.up_proj"]
    parent = open_parent(folder)
    quantize_whole(parent, Library(), TOKENS, Work(tmp_path / "a"), "1", Silent(), kept=kept)
    plain = W4A16(rounding="nearest")
    quantize_layers(parent, plain, None, Work(tmp_path / "b"), "1", Silent(), kept=kept)
    for index in range(3):
        a, b = (load_file(Work(tmp_path / each).layer(index)) for each in "ab")
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_the_library_is_asked_once_for_the_rows_and_what_stays(
    folder: Path, tmp_path: Path
) -> None:
    library, work = Library(), Work(tmp_path / "work")
    kept = ["model.layers.1.mlp.up_proj", "model.layers.0.mlp.up_proj"]
    for _ in range(2):
        quantize_whole(open_parent(folder), library, TOKENS, work, "1", Silent(), kept=kept)
    ((where, rows, stay),) = library.asked
    assert where == folder
    assert torch.equal(torch.stack(rows), TOKENS)
    assert stay == sorted(kept)


def test_without_a_calibration_set_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="library needs a calibration set"):
        quantize_whole(open_parent(folder), Library(), None, Work(tmp_path / "w"), "1", Silent())


def test_a_shape_is_refused_before_the_library_starts(tmp_path: Path) -> None:
    odd = tiny_folder(tmp_path / "odd", intermediate_size=80)
    library = Library()
    with pytest.raises(QuantizeError, match="multiples of 32"):
        quantize_whole(open_parent(odd), library, TOKENS, Work(tmp_path / "w"), "1", Silent())
    assert not library.asked
