"""A model gets the dialect that its chat template shows, unless somebody names another."""

import pytest

from senryu.server.turn.dialects import choose_dialect

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}{{ m.content }}{% endfor %}"
QWEN = (
    CHATML + r"{% if tools %}<tool_call>\n{\"name\": n, \"arguments\": a}\n</tool_call>{% endif %}"
)
XML = CHATML + "{% if tools %}<tool_call>\n<function={{ c.arguments }}>\n</tool_call>{% endif %}"
LLAMA = (
    "{% if m.role == 'ipython' and m.content is mapping %}{{ m.content | tojson }}{% endif %}"
    "{{ tools }}"
)
STRINGS_ONLY = LLAMA.replace("mapping", "string")


@pytest.mark.parametrize(
    ("template", "name", "why"),
    [
        (QWEN, "hermes", "its chat template writes calls as JSON in <tool_call> tags"),
        (QWEN.replace(r"\"", '"'), "hermes", "its chat template writes calls as JSON in"),
        (LLAMA, "llama3", "its chat template takes results as objects, from `ipython`"),
        (STRINGS_ONLY, "plain", "its chat template knows no tools in a way that another dialect"),
        (CHATML, "plain", "its chat template knows no tools in a way that another dialect does"),
        (XML, "plain", "its chat template knows no tools in a way that another dialect does"),
    ],
)
def test_a_chat_template_shows_its_dialect(template: str, name: str, why: str) -> None:
    dialect, reason = choose_dialect(template, asked=None, named=None)
    assert dialect.name == name
    assert reason.startswith(why)


def test_a_setting_comes_before_the_folder_and_the_folder_before_the_template() -> None:
    dialect, why = choose_dialect(QWEN, asked="plain", named="llama3")
    assert (dialect.name, why) == ("plain", "it was asked for")
    dialect, why = choose_dialect(QWEN, asked=None, named="llama3")
    assert (dialect.name, why) == ("llama3", "the model folder names it")


@pytest.mark.parametrize("template", [QWEN, LLAMA, CHATML])
def test_a_model_thinks_when_its_template_knows_thoughts(template: str) -> None:
    assert choose_dialect(template, asked=None, named=None)[0].thought is None
    thoughtful = template + "{{ content.split('</think>')[-1] }}"
    marks = choose_dialect(thoughtful, asked=None, named=None)[0].thought
    assert marks
    assert marks.opening == "<think>\n"


@pytest.mark.parametrize("who", ["asked", "named"])
def test_a_name_that_no_dialect_has_is_a_sentence(who: str) -> None:
    names = {"asked": None, "named": None, who: "klingon"}
    with pytest.raises(ValueError, match="no dialect 'klingon': name one of hermes, llama3, plain"):
        choose_dialect(CHATML, **names)
