"""A model that knows nothing and takes images: random weights under a real tokenizer.

Idefics3, since its processor needs no more than Pillow; its weights are a few megabytes.
"""

from pathlib import Path

from tiny_model import TEMPLATE

# The template of the tiny model without eyes, with contents in parts.
SEEING = TEMPLATE.replace(
    "{{ message.content }}",
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}",
)
SIDE = 56
"""Pixels of a tile: images are cut into up to 16."""


def make_tiny_eyes(folder: Path, tokenizer_of: Path) -> Path:
    """Write the model into `folder`, with the tokenizer of another model's folder. The same bytes
    every time."""
    import torch
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        LlamaConfig,
    )
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    words = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer.add_special_tokens({"additional_special_tokens": words})
    tokenizer.chat_template = SEEING
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = Idefics3Config(
        text_config=LlamaConfig(
            **sizes,
            vocab_size=len(tokenizer),
            num_key_value_heads=2,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        ),
        vision_config=Idefics3VisionConfig(**sizes, image_size=SIDE, patch_size=14),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.eos_token_id,
        scale_factor=2,
    )
    Idefics3ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SEEING).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder
