"""Tiny teachers of several families, made on the spot, and samples to measure on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from senryu.distill.recipe import Recipe, StudentRecipe, TeacherRecipe
from senryu.distill.samples import Sample
from senryu.server.conversation.messages import Conversation, Message

VOCABULARY = 64
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # so that every layer does something
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")

MakeTeacher = Callable[..., Path]


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="w3",
        bos_token="w1",
        eos_token="w2",
        chat_template=TEMPLATE,
    )


@pytest.fixture
def make_teacher(tmp_path: Path) -> MakeTeacher:
    """`make_teacher("qwen2", num_hidden_layers=3)`: a folder with random weights."""

    def make(family: str = "llama", *, change: Any = None, **fields: Any) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = tmp_path / f"teacher-{family}"
        known = {"head_dim": 32} if family != "qwen2" else {}
        config = AutoConfig.for_model(family, **SIZES | known | fields)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "norm" in name:  # as they are after training: not all alike
                    weight.uniform_(0.5, 1.5)
            if change is not None:
                change(model)
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def teacher(make_teacher: MakeTeacher) -> Path:
    """A Llama of six layers."""
    return make_teacher()


@pytest.fixture
def open_folder() -> Callable[[Path], Any]:
    """Any folder through transformers alone, in float32."""

    def open_folder(folder: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()

    return open_folder


@pytest.fixture
def calibration() -> list[Sample]:
    """Random tokens: the teachers know no others."""
    draw = np.random.default_rng(0)
    return [sample(draw.integers(3, VOCABULARY, 24)) for _ in range(4)]


def sample(ids: Any) -> Sample:
    length = len(ids)
    return Sample(
        id="0-0",
        kind="chat",
        source="test",
        held_out=False,
        conversation=Conversation(messages=()),
        answer=Message(role="assistant", content=()),
        token_ids=np.asarray(ids, dtype=np.int32),
        loss_mask=np.ones(length, dtype=bool),
        top_ids=np.zeros((length, 0), dtype=np.int32),
        top_logprobs=np.zeros((length, 0), dtype=np.float32),
        tail=np.ones(length, dtype=np.float32),
    )


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits(ids: torch.Tensor) -> Callable[[Any], torch.Tensor]:
    """What a model makes of `ids`, through the parts that training uses."""

    def logits(model: Any) -> torch.Tensor:
        model.eval()
        with torch.no_grad():
            return model.lm_head(model.model(input_ids=ids).last_hidden_state)

    return logits


@pytest.fixture
def recipe_of() -> Callable[..., Recipe]:
    """A whole recipe around a student: `recipe_of(shape="depth", layers=2)`."""

    def recipe_of(**student: Any) -> Recipe:
        return Recipe(
            teacher=TeacherRecipe(
                licence="MIT", allows_training=True, terms="The licence says so."
            ),
            student=StudentRecipe(**student),
        )

    return recipe_of
