"""Figures are those of a plain reference in float64."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from senryu.quant.compare.measures import CHUNK, Passage, measure, weight_errors
from senryu.quant.errors import QuantizeError

LONG, VOCABULARY = CHUNK + 40, 64


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """A parent whose layers do something, and the same with noise in its linear layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    parent = LlamaForCausalLM(config)
    torch.manual_seed(1)
    for weight in parent.parameters():
        if weight.ndim == 2:
            weight.data *= 8
    other = copy.deepcopy(parent)
    for layer in other.model.layers:
        for weight in layer.parameters():
            if weight.ndim == 2:
                weight.data += 0.05 * weight.data.std() * torch.randn_like(weight)
    return parent.eval(), other.eval()


def passage(name: str, kind: str, length: int) -> Passage:
    torch.manual_seed(length)
    answer = torch.arange(length) >= length - 5
    ids = torch.randint(VOCABULARY, (length,))
    return Passage(id=name, kind=kind, token_ids=ids, answer=answer)


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return [passage("a-0", "chat", 40), passage("a-1", "tools", LONG), passage("b-0", "chat", 2)]


@torch.no_grad()
def by_hand(models: Any, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    told, guessed = (model(ids[None]).logits[0, :-1].double().log_softmax(-1) for model in models)
    kl = (told.exp() * (told - guessed)).sum(-1)
    after = ids[1:, None]
    surprises = [-each.gather(-1, after)[:, 0] for each in (told, guessed)]
    return kl, told.argmax(-1) == guessed.argmax(-1), surprises[0], surprises[1]


def test_figures_are_those_of_a_plain_reference(models: Any, passages: list[Passage]) -> None:
    found = measure(*models, passages)
    told = [by_hand(models, each.token_ids) for each in passages]
    kl, agreed, mine, its = (torch.cat([each[part] for each in told]) for part in range(4))
    row = found.all
    assert (row.passages, row.tokens) == (3, 39 + LONG - 1 + 1)
    assert row.kl.value == pytest.approx(float(kl.mean()), rel=1e-4)
    assert row.kl_median == pytest.approx(float(kl.quantile(0.5)), rel=1e-3)
    assert row.kl_p99 == pytest.approx(float(kl.quantile(0.99)), rel=1e-3)
    assert row.agreement.value == pytest.approx(float(agreed.double().mean()))
    assert row.parent_perplexity.value == pytest.approx(math.exp(mine.mean()), rel=1e-4)
    assert row.perplexity.value == pytest.approx(math.exp(its.mean()), rel=1e-4)
    assert row.perplexity_ratio == pytest.approx(math.exp(its.mean() - mine.mean()), rel=1e-4)
    assert 0 < row.agreement.value < 1


def test_kinds_and_answers_have_rows_of_their_own(models: Any, passages: list[Passage]) -> None:
    found = measure(*models, passages)
    assert [row.name for row in found.rows] == ["all", "answers", "chat", "tools"]
    tools, answers = found.row("tools"), found.row("answers")
    assert tools
    assert answers
    kl, *_ = by_hand(models, passages[1].token_ids)
    assert tools.kl.value == pytest.approx(float(kl.mean()), rel=1e-4)
    last = [by_hand(models, each.token_ids)[0][-5:] for each in passages]
    assert answers.tokens == 5 + 5 + 1
    assert answers.kl.value == pytest.approx(float(torch.cat(last).mean()), rel=1e-4)
    assert found.row("code") is None


def test_intervals_are_over_conversations(models: Any) -> None:
    """Turns of one are much alike, and names that merely hold a hyphen are not turns of one."""
    turns = [passage("a-0", "chat", 40), passage("a-1", "chat", 50)]
    others = [passage("written-2d301a", "chat", 40), passage("written-99abcd", "chat", 50)]
    assert measure(*models, turns).all.kl.low is None
    assert measure(*models, others).all.kl.low is not None


def test_layers_drift_apart_as_their_outputs_do(models: Any, passages: list[Passage]) -> None:
    found = measure(*models, passages)
    sums, tokens = [0.0, 0.0], 0
    for each in passages:
        with torch.no_grad():
            kept = [m(each.token_ids[None], output_hidden_states=True) for m in models]
        # The last of these is behind the final norm; a hook sees what is in front of it.
        for at in range(1):
            mine, its = (k.hidden_states[at + 1][0].double() for k in kept)
            sums[at] += float(((its - mine).norm(dim=-1) / mine.norm(dim=-1)).sum())
        tokens += len(each.token_ids)
    assert found.layers[0] == pytest.approx(sums[0] / tokens, rel=1e-4)
    assert len(found.layers) == 2
    assert found.layers[1] > 0


@torch.no_grad()
def test_weights_are_compared_one_by_one(models: Any) -> None:
    errors = weight_errors(*models)
    assert errors
    assert len(errors) == 14
    name = "model.layers.1.mlp.up_proj"
    mine, its = (model.get_submodule(name).weight.double() for model in models)
    wanted = float((its - mine).norm() / mine.norm())
    assert next(each.error for each in errors if each.name == name) == pytest.approx(wanted)


def test_weights_that_were_scaled_on_purpose_are_not_compared(models: Any) -> None:
    parent, other = models
    scaled = copy.deepcopy(other)
    scaled.model.layers[0].input_layernorm.weight.data[3] *= 2
    assert weight_errors(parent, scaled) is None


def test_a_model_is_not_apart_from_itself(models: Any, passages: list[Passage]) -> None:
    found = measure(models[0], copy.deepcopy(models[0]), passages)
    assert found.all.kl.value == pytest.approx(0, abs=1e-9)
    assert found.all.agreement.value == 1
    assert set(found.layers) == {0.0}


def test_no_hook_is_left_behind(models: Any, passages: list[Passage]) -> None:
    layers = [layer for model in models for layer in model.model.layers]
    before = [len(layer._forward_hooks) for layer in layers]  # transformers has some of its own
    measure(*models, passages[:1])
    assert [len(layer._forward_hooks) for layer in layers] == before


def test_passages_are_read_as_far_as_the_window(models: Any) -> None:
    small = [copy.copy(models[0]), models[1]]
    small[0].config = copy.deepcopy(models[0].config)
    small[0].config.max_position_embeddings = 16
    assert measure(*small, [passage("a-0", "chat", 40)]).all.tokens == 15


def test_nothing_to_read_is_said(models: Any) -> None:
    with pytest.raises(QuantizeError, match="no held-out text"):
        measure(*models, [passage("a-0", "chat", 1)])


def test_numbers_that_are_none_are_said(models: Any, passages: list[Passage]) -> None:
    broken = copy.deepcopy(models[1])
    broken.model.norm.weight.data[0] = float("nan")
    with pytest.raises(QuantizeError, match="NaN"):
        measure(models[0], broken, passages[:1])


def test_strangers_are_said(models: Any) -> None:
    foreign = Passage(
        id="a-0",
        kind="chat",
        token_ids=torch.tensor([1, VOCABULARY]),
        answer=torch.tensor([False, True]),
    )
    with pytest.raises(QuantizeError, match=f"token {VOCABULARY}"):
        measure(*models, [foreign])
    shorter = copy.deepcopy(models[1])
    shorter.model.layers = shorter.model.layers[:1]
    with pytest.raises(QuantizeError, match="has 1 layers and the parent 2"):
        measure(models[0], shorter, [passage("a-0", "chat", 9)])


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"hidden_size": 32}, "have 32 numbers"), ({"intermediate_size": 32}, "another shape")],
)
def test_models_of_other_shapes_are_said(models: Any, changed: Any, words: str) -> None:
    config = LlamaConfig(**{**models[0].config.to_dict(), "head_dim": 32, **changed})
    with pytest.raises(QuantizeError, match=words):
        measure(models[0], LlamaForCausalLM(config), [passage("a-0", "chat", 9)])
