"""What the tests of dialects share: chat templates that behave like those of three families, and
a tokenizer that only renders."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from senryu.server.conversation.messages import (
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    Tool,
    ToolResultBlock,
    ToolUseBlock,
)
from senryu.server.turn.dialects.base import Chat
from senryu.server.turn.guard import GUARD

jinja2 = pytest.importorskip("jinja2")  # comes with transformers

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant{{ '\\n' }}"
)
# Tools go to the system prompt; thoughts of the turns before the last question are left out.
QWEN = """\
{% if tools or messages[0].role == 'system' %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}\
{% for tool in tools or () %}{{ '\n' }}{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{% set last = namespace(question=0) %}
{% for message in messages if message.role == 'user' %}\
{% set content = message.content %}
{% if not (content.startswith('<tool_response>') and content.endswith('</tool_response>')) %}
{% set last.question = messages.index(message) %}
{% endif %}
{% endfor %}
{% for message in messages if message.role != 'system' %}
{% set parts = message.content.split('</think>') %}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and parts | length > 1 %}
{% set thought = parts[0].split('<think>')[-1].strip('\n') %}
{% if messages.index(message) > last.question and thought %}
<think>
{{ thought }}
</think>

{% endif %}
{{ parts[-1].lstrip('\n') }}<|im_end|>
{% else %}
{{ message.content }}<|im_end|>
{% endif %}
{% endfor %}
<|im_start|>assistant{{ '\n' }}"""
# Tools go to the first question; results are written as JSON, whatever they are.
LLAMA = """\
{% set first = messages[0].content if messages[0].role == 'system' else '' %}
<|system|>{{ date_string }} {{ first | trim }}<|eot|>{% set said = namespace(tools=tools) %}
{% for message in messages if message.role != 'system' %}<|{{ message.role }}|>\
{% if message.role == 'ipython' %}{{ message.content | tojson }}<|eot|>{% else %}\
{% for tool in said.tools or () %}{{ tool | tojson(indent=4) }}

{% endfor %}{% set said.tools = none %}{{ message.content | trim }}<|eot|>{% endif %}
{% endfor %}<|assistant|>"""


class TemplateTokenizer:
    """Renders as transformers does, and encodes the rendered text's bytes."""

    def __init__(self, template: str) -> None:
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(
            value, ensure_ascii=False, indent=indent
        )
        self._template = environment.from_string(template)

    def render(self, chat: Chat, prefill: str = "") -> str:
        told: dict[str, Any] = {"messages": chat.messages, "tools": chat.tools or None}
        text: str = self._template.render(told, **chat.variables)
        return text + prefill

    def encode(self, text: str) -> list[int]:
        return list(text.replace(GUARD, "").encode())

    def encode_to(
        self, text: str, ends: Sequence[int], salt: str = ""
    ) -> tuple[list[int], list[int]]:
        shown = text.replace(GUARD, "")
        return self.encode(text), [len(shown[:end].encode()) for end in ends]


WEATHER = Tool(
    name="get_weather",
    description="The weather\nof a city.",
    input_schema={
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"], "default": "c"}},
        "required": ["city"],
    },
    input_examples=({"city": "Rome"},),
)


@pytest.fixture
def weather() -> Tool:
    """A tool with all that a client may say of one."""
    return WEATHER


@pytest.fixture
def called(weather: Tool) -> Conversation:
    """A question, a thought, a call and its results."""
    text = TextBlock(text="How is Paris?")
    thought = ThinkingBlock(thinking="Let me see.\n")
    call = ToolUseBlock(id="1", name=weather.name, input={"city": "Paris"})
    fine = ToolResultBlock(tool_use_id="1", content=(TextBlock(text="22 °C"),))
    failed = ToolResultBlock(tool_use_id="2", content=(TextBlock(text="no"),), is_error=True)
    return Conversation(
        messages=(
            Message(role="user", content=(text,)),
            Message(role="assistant", content=(thought, TextBlock(text="I'll look."), call)),
            Message(role="user", content=(fine, failed)),
        ),
        system=(TextBlock(text="Be brief."),),
        tools=(weather,),
    )


@pytest.fixture
def speaks() -> Callable[[str], TemplateTokenizer]:
    """The tokenizer of a model of this family: `speaks("qwen")`."""
    templates = {"chatml": CHATML, "qwen": QWEN, "llama": LLAMA}
    return lambda family: TemplateTokenizer(templates[family])
