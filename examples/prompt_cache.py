"""A long prompt is read once: the second question about it begins where the first one ended.

Start the server first: make serve
"""

import os
import time
from typing import Any

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:8765"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "local"),
)
RULES = "".join(
    f"Rule {number}: in room {number} the lamp is "
    f"{('red', 'green', 'blue')[number % 3]}, and nobody may change it.\n"
    for number in range(1, 60)
)


def ask(question: str) -> None:
    """Asks about the rules, and says what was read of them and how long the first word took."""
    system: Any = [{"type": "text", "text": RULES, "cache_control": {"type": "ephemeral"}}]
    started = time.monotonic()
    first_word = 0.0
    with client.messages.stream(
        model="claude-haiku",
        max_tokens=24,
        system=system,
        messages=[{"role": "user", "content": question}],
    ) as stream:
        for _ in stream.text_stream:
            first_word = first_word or time.monotonic() - started
        usage = stream.get_final_message().usage
        print(f"{question}\n{stream.get_final_text()}")
    print(
        f"  read from the cache: {usage.cache_read_input_tokens}, "
        f"written to it: {usage.cache_creation_input_tokens}, "
        f"neither: {usage.input_tokens}; first word after {first_word:.2f} s"
    )


ask("Which lamp is in room 7?")
ask("And in room 8?")
