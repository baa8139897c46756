"""Whatever a model writes under a grammar keeps what was promised of the answer.

A stand-in for a model draws tokens at random among those that the grammar lets pass, with a liking
for the marks: what it writes is read as the server would read it.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from senryu.server.conversation.messages import Demands, Thinking, Tool, ToolChoice
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.dialects.llama3 import Llama3Dialect
from senryu.server.turn.grammar import answer_grammar, form_on_trial, structural_tag, unheld

HERMES = HermesDialect(thought=THOUGHT)
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[a-z]{0,6}$"},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NUMBER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS = (Tool(name="weather", input_schema=CITY), Tool(name="count", input_schema=NUMBER))
SCHEMAS = {tool.name: tool.input_schema for tool in TOOLS}
CALL = re.compile(
    r'<tool_call>\n\{"name": "(?P<name>\w+)", "arguments": (?P<input>.*?)\}\n</tool_call>', re.S
)

Write = Callable[..., str | None]


def choice(mode: Any, **more: Any) -> ToolChoice:
    return ToolChoice(mode=mode, **more)


@pytest.mark.parametrize(
    "demands",
    [Demands(), Demands(tool_choice=choice("none")), Demands(thinking=Thinking())],
)
def test_a_free_answer_has_no_grammar(demands: Demands) -> None:
    assert structural_tag(HERMES, demands, thinking_budget=None) is None


def test_the_same_demands_give_the_same_bytes_in_the_clients_order() -> None:
    demands = Demands(callable_tools=TOOLS)
    again = Demands(callable_tools=tuple(reversed(tuple(reversed(TOOLS)))))
    tag = structural_tag(HERMES, demands, thinking_budget=None)
    assert tag == structural_tag(HERMES, again, thinking_budget=None)
    assert tag
    assert tag.index('"city"') < tag.index('"unit"') < tag.index('"n"')


def test_only_the_tool_that_is_to_be_called_is_in_the_grammar() -> None:
    demands = Demands(callable_tools=TOOLS, tool_choice=choice("tool", name="count"))
    tag = structural_tag(HERMES, demands, thinking_budget=None)
    assert tag
    assert "weather" not in tag
    assert '\\"count\\"' in tag


def test_a_text_is_free_until_a_call_opens() -> None:
    tag = structural_tag(HERMES, Demands(callable_tools=TOOLS), thinking_budget=None)
    assert tag
    form = json.loads(tag)["format"]
    assert form["type"] == "dispatch"
    ((mark, calls),) = form["rules"]
    assert mark == HERMES.calls.opening
    assert [each["begin"].count('"weather"') for each in calls["tags"]] == [1, 0]


def test_a_tool_that_is_not_enforced_takes_any_object() -> None:
    loose = Tool(name="weather", input_schema=CITY, enforced=False)
    tag = structural_tag(HERMES, Demands(callable_tools=(loose,)), thinking_budget=None)
    assert tag
    assert '"json_schema": {"type": "object", "additionalProperties": true}' in tag


@pytest.mark.parametrize(("budget", "words"), [(1024, 1014), (None, 4086)])
def test_a_thought_has_its_budget_less_the_mark_that_closes_it(
    budget: int | None, words: int
) -> None:
    """A token for each of its ten bytes at the worst."""
    demands = Demands(thinking=Thinking(budget=budget))
    tag = answer_grammar(HERMES, demands, allowed=8192)
    assert tag
    assert json.loads(tag)["format"]["elements"][0]["content"]["max_tokens"] == words


def test_an_answer_that_has_no_room_has_no_grammar() -> None:
    assert answer_grammar(HERMES, Demands(callable_tools=TOOLS), allowed=0) is None
    assert answer_grammar(HERMES, Demands(), allowed=9) is None


def test_one_form_is_tried_for_all_turns_of_a_conversation() -> None:
    one = Demands(callable_tools=TOOLS)
    same = [
        Demands(callable_tools=TOOLS, thinking=Thinking(budget=1024)),
        Demands(callable_tools=TOOLS, tool_choice=choice("any")),
    ]
    assert {form_on_trial(HERMES, each) for each in same} == {form_on_trial(HERMES, one)}


def test_only_what_may_be_called_is_tried() -> None:
    alone = Demands(callable_tools=TOOLS[1:])
    chosen = Demands(callable_tools=TOOLS, tool_choice=choice("tool", name="count"))
    assert form_on_trial(HERMES, chosen) == form_on_trial(HERMES, alone)
    none = Demands(callable_tools=TOOLS, tool_choice=choice("none"))
    assert form_on_trial(HERMES, none) is None
    assert form_on_trial(HERMES, Demands(thinking=Thinking())) is None


LONG = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}}


@pytest.mark.parametrize(
    ("demands", "named"),
    [
        (Demands(callable_tools=TOOLS, output_schema=CITY), []),
        (Demands(callable_tools=(Tool(name="a", input_schema=LONG),)), ["tools.input_schema"]),
        (Demands(callable_tools=(replace(TOOLS[0], enforced=False),)), ["tools.input_schema"]),
        (Demands(output_schema=LONG), ["output_config.format"]),
        (
            Demands(
                callable_tools=(*TOOLS, Tool(name="a", input_schema=LONG)),
                tool_choice=choice("tool", name="count"),
            ),
            [],
        ),
        (
            Demands(
                callable_tools=(Tool(name="a", input_schema=LONG),), tool_choice=choice("none")
            ),
            [],
        ),
    ],
)
def test_what_an_answer_is_held_to_in_part_only_is_named(
    demands: Demands, named: list[str]
) -> None:
    assert list(unheld(demands)) == named


@pytest.fixture(scope="module")
def write() -> Write:
    """Writes one text under a grammar; None when it did not come to an end."""
    xgrammar = pytest.importorskip("xgrammar", reason="the engine is not installed: make setup")
    import torch
    from transformers import AutoTokenizer

    from senryu.server.engine.model_folder import EMBEDDED, find_model

    tokenizer = AutoTokenizer.from_pretrained(find_model(EMBEDDED))
    vocabulary = len(tokenizer)
    known = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
    compiler = xgrammar.GrammarCompiler(known, max_threads=1)
    mask = xgrammar.allocate_token_bitmask(1, vocabulary)
    end = tokenizer.eos_token_id

    def write(
        tag: str, *, seed: int, liked: Sequence[str] = (), likes: float = 0.1, most: int = 250
    ) -> str | None:
        generator = torch.Generator().manual_seed(seed)
        chance = random.Random(seed)
        matcher = xgrammar.GrammarMatcher(compiler.compile_structural_tag(tag))
        favoured = [tokenizer.encode(mark, add_special_tokens=False) for mark in liked]
        queue: list[int] = []
        written: list[int] = []
        while len(written) < most and not matcher.is_terminated():
            matcher.fill_next_token_bitmask(mask)
            scores = torch.randn(1, vocabulary, generator=generator)
            scores[0, end] += 2  # short texts are as good as long ones
            xgrammar.apply_token_bitmask_inplace(scores, mask)
            token = int(scores.argmax())
            assert scores[0, token] > float("-inf"), "the grammar lets nothing pass"
            if not queue and favoured and chance.random() < likes:
                queue = list(chance.choice(favoured))
            if queue and scores[0, queue[0]] > float("-inf"):
                token = queue.pop(0)
            else:
                queue = []
            assert matcher.accept_token(token)
            written.append(token)
        if not matcher.is_terminated():
            return None
        text: str = tokenizer.decode(written[:-1] if written[-1] == end else written)
        return text

    return write


def texts(write: Write, demands: Demands, *, budget: int | None = None, **how: Any) -> list[str]:
    tag = structural_tag(HERMES, demands, thinking_budget=budget)
    assert tag
    written = [write(tag, seed=seed, **how) for seed in range(25)]
    whole = [text for text in written if text is not None]
    assert whole, "some came to an end"
    return whole


def read_calls(text: str) -> list[str]:
    """The names of the calls that are all of `text`, each with an input that fits."""
    names = []
    for found in CALL.finditer(text):
        jsonschema.validate(json.loads(found["input"], strict=False), SCHEMAS[found["name"]])
        names.append(found["name"])
    assert not CALL.sub("", text).strip(), text
    return names


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestWhatIsWrittenUnderAGrammar:
    @pytest.mark.parametrize("mode", ["any", "tool"])
    @pytest.mark.parametrize("parallel", [True, False])
    def test_forced_is_nothing_but_calls(self, write: Write, mode: str, parallel: bool) -> None:
        forced = choice(mode, name="count" if mode == "tool" else None, parallel=parallel)
        demands = Demands(callable_tools=TOOLS, tool_choice=forced)
        counts = set()
        for text in texts(write, demands, liked=["\n<tool_call>"]):
            names = read_calls(text)
            counts.add(len(names))
            assert mode == "any" or set(names) == {"count"}
        assert 0 not in counts
        assert parallel or counts == {1}

    def test_auto_is_text_that_a_call_ends(self, write: Write) -> None:
        demands = Demands(callable_tools=TOOLS)
        seen = set()
        for text in texts(write, demands, liked=["<tool_call>"]):
            _, mark, rest = text.partition("<tool_call>")
            seen.add(bool(mark))
            if mark:
                assert read_calls(mark + rest)
        assert True in seen

    def test_where_a_mark_is_json_a_text_may_hold_it_and_not_begin_with_it(
        self, write: Write
    ) -> None:
        mark = Llama3Dialect().calls.opening
        demands = Demands(callable_tools=TOOLS)
        tag = structural_tag(Llama3Dialect(), demands, thinking_budget=None)
        assert tag
        texts = [write(tag, seed=seed, liked=[mark], likes=0.3) for seed in range(25)]
        begun = {text.startswith(mark) for text in texts if text is not None}
        assert begun == {True, False}
        assert any(mark in text[1:] for text in texts if text is not None)
        for text in texts:
            if text is not None and text.startswith(mark):
                called = json.loads(text)
                jsonschema.validate(called["parameters"], SCHEMAS[called["name"]])

    def test_none_never_opens_a_call(self, write: Write) -> None:
        demands = Demands(callable_tools=TOOLS, tool_choice=choice("none"))
        for text in texts(write, demands, liked=["<tool_call>"]):
            assert "<tool_call>" not in text

    def test_a_form_is_kept_to(self, write: Write) -> None:
        for text in texts(write, Demands(output_schema=CITY)):
            jsonschema.validate(json.loads(text, strict=False), CITY)

    def test_with_tools_the_answer_is_calls_or_the_form(self, write: Write) -> None:
        demands = Demands(callable_tools=TOOLS, output_schema=NUMBER)
        forms = 0
        for text in texts(write, demands):
            if text.startswith("<tool_call>"):
                read_calls(text)
            else:
                jsonschema.validate(json.loads(text), NUMBER)
                forms += 1
        assert forms

    @pytest.mark.parametrize(
        "demands",
        [
            Demands(),
            Demands(callable_tools=TOOLS),
            Demands(callable_tools=TOOLS, tool_choice=choice("any", parallel=False)),
            Demands(output_schema=NUMBER),
        ],
        ids=["free", "tools", "forced", "form"],
    )
    def test_a_thought_is_closed_when_its_budget_is_spent(
        self, write: Write, demands: Demands
    ) -> None:
        for text in texts(write, demands, budget=14, liked=["<tool_call>", "</think>"]):
            thought, closing, answer = text.partition(THOUGHT.closing)
            assert closing
            assert "<tool_call>" not in thought or not demands.callable_tools
            if demands.output_schema:
                jsonschema.validate(json.loads(answer), demands.output_schema)
            if demands.tool_choice.forced:
                assert read_calls(answer)


def test_one_call_at_a_time_where_a_family_knows_no_more() -> None:
    tag = structural_tag(Llama3Dialect(), Demands(callable_tools=TOOLS), thinking_budget=None)
    assert tag
    assert '"stop_after_first": true' in tag
