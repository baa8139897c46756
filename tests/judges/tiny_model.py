"""A model that knows nothing and can be served: random weights under a real tokenizer.

What an engine promises about form has to hold for it too, and it tries what no trained model would
write: every token is nearly as likely as any other.
"""

from pathlib import Path

TEMPLATE = """\
{%- if tools %}<|im_start|>system
Tools, one a line. Call one as <tool_call>
{"name": "...", "arguments": {...}}
</tool_call>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}
{#- It may think first, from <think> to </think>. #}"""


def make_tiny_model(folder: Path, tokenizer_of: Path) -> Path:
    """Write the model into `folder`, with the tokenizer of another model's folder. The same bytes
    every time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.bfloat16,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
