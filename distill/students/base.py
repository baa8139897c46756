"""Opens the model that a student is made of: its config, its tokenizer, its weights in float32.

Comes in: a model folder. Goes out: transformers' own objects, or DistillError with a sentence. It
refuses to know what is made of them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError

# Factors that a family puts on its logits after the head. Training computes hidden states times the
# head and nothing else, so that no step needs all logits at once.
_ON_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def open_config(folder: Path) -> Any:
    """The config of a causal language model that can be trained."""
    from transformers import AutoConfig

    from .layerwise_config import LayerwiseConfig, register

    register()
    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as problem:
        raise DistillError(
            f"{folder} holds no model that transformers knows: {problem}"
        ) from problem
    if config.model_type == LayerwiseConfig.model_type:
        from .layerwise import register_model

        register_model()
    if getattr(config, "quantization_config", None):
        raise DistillError(
            f"The weights in {folder} are quantized and cannot be trained or pruned: give the "
            "16-bit model that they were made of."
        )
    for name in _ON_LOGITS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise DistillError(
                f"A {config.model_type} changes its logits behind the head ({name}), which our "
                "training does not: take a model like Llama, Qwen or Mistral."
            )
    return config


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer, which has a chat template."""
    from transformers import AutoTokenizer

    from .layerwise_config import register

    register()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as problem:
        raise DistillError(f"The tokenizer in {folder} cannot be read: {problem}") from problem
    if not tokenizer.chat_template:
        raise DistillError(
            f"The tokenizer in {folder} has no chat template, so that the student could not hold a "
            "conversation: take the instruction-tuned model, or add chat_template.jinja."
        )
    return tokenizer


def open_weights(folder: Path, config: Any) -> Any:
    """The model in float32, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    from senryu.quant.export import no_bars

    try:
        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(
                str(folder), config=copy.deepcopy(config), dtype=torch.float32
            )
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise DistillError(
            f"{folder} cannot be opened as a causal language model: {_first_line(problem)}"
        ) from problem
    return finished(model)


def new_model(config: Any, seed: int) -> Any:
    """A model of random weights in float32. The same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return finished(model)


def changed_config(config: Any, fields: dict[str, Any]) -> Any:
    """The same family with other fields. Raises DistillError where the family forbids them."""
    told = config.to_dict()
    layers = fields.get("num_hidden_layers", config.num_hidden_layers)
    for name, value in by_layer(config).items():  # repeated or cut to fit
        told[name] = [value[place % len(value)] for place in range(layers)]
    for name, value in fields.items():
        if name != "head_dim" or getattr(config, "head_dim", None) is not None:
            told[name] = value
    try:
        changed = type(config).from_dict(told)
        # A Qwen2, for one, has no field for it.
        width = getattr(changed, "head_dim", None) or changed.hidden_size // (
            changed.num_attention_heads
        )
        if width != fields.get("head_dim", width):
            raise ValueError("its heads together are as wide as its residual stream")
    except Exception as problem:  # transformers' own validation has exceptions of its own
        raise DistillError(
            f"A {config.model_type} cannot have the sizes of the recipe ({_first_line(problem)}): "
            "change student.hidden or student.heads."
        ) from problem
    return changed


def by_layer(config: Any) -> dict[str, list[Any]]:
    """What a config tells layer by layer, such as the kinds of attention."""
    return {
        name: list(value)
        for name, value in vars(config).items()
        if isinstance(value, list | tuple)
        and len(value) == config.num_hidden_layers
        and name != "architectures"
        and not name.endswith("_token_id")
    }


def finished(model: Any) -> Any:
    """The model with what training expects of it: `.model` and `.lm_head`, and nothing in its
    generation config but the ids of tokens."""
    from transformers import GenerationConfig

    head = model.get_output_embeddings()
    if head is None:
        raise DistillError(f"A {model.config.model_type} has no language-model head to train.")
    for name, part in (("model", model.base_model), ("lm_head", head)):
        if not hasattr(model, name):
            # Past torch's registration, which would save the part a second time.
            object.__setattr__(model, name, part)
    # The teacher's advice on sampling may contradict itself, which forbids saving it.
    was = getattr(model, "generation_config", None) or model.config
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(was, name, None) or getattr(model.config, name, None) for name in names}
    model.generation_config = GenerationConfig(**ids)
    return model


def refuse_hidden_layers(model: Any) -> None:
    """Raises DistillError for a family that has its layers where training does not look."""
    from torch import nn

    if not isinstance(getattr(model.base_model, "layers", None), nn.ModuleList):
        raise DistillError(
            f"Training does not find the layers of a {model.config.model_type}: take a model like "
            "Llama, Qwen, Mistral, Gemma, OLMo or GPT-NeoX."
        )


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines[-1] if lines else type(problem).__name__).rstrip(".")
