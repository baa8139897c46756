"""Promises of `quant/making.py`: what is made in which order, and what is refused first."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import safe_open
from tiny_kinds import some_tokens, tiny, tiny_folder

from senryu.quant.calibration import CalibrationSet
from senryu.quant.errors import QuantizeError
from senryu.quant.folder import scheme_of
from senryu.quant.making import Digests, make, units
from senryu.quant.parent import open_parent
from senryu.quant.recipe import QadRecipe, QuantizeRecipe, SchemeRecipe

from .conftest import Recorder

# torch's own, when compressed-tensors first meets it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

DIGESTS = Digests(whole="1", layers="1")


def shown(length: int = 512) -> CalibrationSet:
    return CalibrationSet(
        name="of a test",
        sequences=tuple(some_tokens(6, length)),
        sha256="0" * 64,
        counts={},
        languages=(),
        left_out=0,
        asked=6 * length,
        length=length,
        seed=0,
        held_out=False,
    )


def made(folder: Path, tmp_path: Path, recorder: Recorder, **told: Any) -> list[str]:
    recipe = QuantizeRecipe(scheme=SchemeRecipe(**told))
    (tmp_path / "out").mkdir()
    scheme = scheme_of(recipe)
    parent, work = open_parent(folder), tmp_path / "work"
    return make(tmp_path / "out", parent, scheme, recipe, shown(), DIGESTS, work, recorder)


def test_layers_come_first_and_writing_last(tmp_path: Path, recorder: Recorder) -> None:
    folder = tiny_folder(tmp_path / "llama", max_position_embeddings=512)
    notes = made(folder, tmp_path, recorder)
    assert recorder.stages == ["read the calibration set", "quantize", "write"]
    assert recorder.finished == units(open_parent(folder), QuantizeRecipe()) == 4
    assert notes == ["Rounded by GPTQ, 4 bits, asymmetric, groups of 32."]


def test_training_is_counted_by_its_steps(tmp_path: Path) -> None:
    parent = open_parent(tiny_folder(tmp_path / "llama"))
    asked = QuantizeRecipe(qad=QadRecipe(tokens=3000, batch_tokens=1024, sequence=256))
    assert units(parent, asked) == 3 + 3 + 1


@pytest.mark.parametrize(("kind", "key"), [("qwen2", "k_proj"), ("qwen3", "k_norm")])
def test_a_cache_in_8_bits_holds_the_greatest_keys_and_values(
    kind: str, key: str, tmp_path: Path, recorder: Recorder
) -> None:
    folder = tiny_folder(tmp_path / kind, kind, max_position_embeddings=512)
    made(folder, tmp_path, recorder, name="w4a16", kv_cache="fp8")
    model = tiny(kind, max_position_embeddings=512)
    seen: dict[str, float] = {}
    attention = model.model.layers[0].self_attn
    for name in (key, "v_proj"):
        attention.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: float(output.abs().max())})
        )
    with torch.no_grad():
        model.model(input_ids=torch.stack(shown().sequences))
    last = sorted((tmp_path / "out").glob("*.safetensors"))[-1]
    with safe_open(last, framework="pt") as stored:
        for name, part, by in ((key, "k_scale", 2**0.5), ("v_proj", "v_scale", 1.0)):
            scale = float(stored.get_tensor(f"model.layers.0.self_attn.{part}"))
            # The model that is measured is the one with 4 bits.
            assert scale == pytest.approx(seen[name] * by / 448, rel=0.3)


def test_attention_whose_cache_cannot_be_measured_is_refused_first(
    tmp_path: Path, recorder: Recorder
) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "pad_token_id": 0}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "dtype": torch.bfloat16}
    Phi3ForCausalLM(Phi3Config(**sizes, **heads)).bfloat16().save_pretrained(tmp_path / "phi3")
    with pytest.raises(QuantizeError, match="no layers k_proj and v_proj"):
        made(tmp_path / "phi3", tmp_path, recorder, kv_cache="fp8")
    assert not (tmp_path / "work").exists()
