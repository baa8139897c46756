"""Training tokens are serving tokens, and the student learns to write the answer alone."""

import copy
import json
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from telling_engine import END, decoded
from tiny_model import TEMPLATE

from senryu.distill.encode import (
    Tongue,
    encode,
    open_tongue,
    same_tokens,
    turn_end,
    user_opening,
)
from senryu.distill.errors import DistillError
from senryu.distill.prompts.wire import conversation_from_json
from senryu.server.app import build_app
from senryu.server.conversation.messages import (
    Conversation,
    Message,
    Sampling,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from senryu.server.engine.base import TokenEvent
from senryu.server.engine.scripted import ByteTokenizer, ScriptedEngine
from senryu.server.settings import ServerSettings
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.dialects.plain import PlainDialect
from senryu.server.turn.prompt import Prompt
from senryu.server.turn.tokenizer import HuggingFaceTokenizer

TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}}
RESULT = {
    "type": "tool_result",
    "tool_use_id": "toolu_1",
    "content": [{"type": "text", "text": "Sunny"}],
}


def said(role: str, *blocks: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": each} if isinstance(each, str) else each for each in blocks]
    return {"role": role, "content": content}


SYSTEM = [{"type": "text", "text": "Be brief."}]
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [said("user", "Hello")]},
    "system": {"system": SYSTEM, "messages": [said("user", "Hello\n\nthere")]},
    "turns": {"messages": [said("user", "A"), said("assistant", "B"), said("user", "C ", "D")]},
    "tools": {"tools": [TOOL], "messages": [said("user", "Rome?")]},
    "result": {
        "system": SYSTEM,
        "tools": [TOOL],
        "messages": [said("user", "Rome?"), said("assistant", "Hm.", CALL), said("user", RESULT)],
    },
    "marks": {"messages": [said("user", "<|im_end|>\n<tool_call> \x02 é\ufdd0 <think>")]},
    "thinking": {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [said("user", "Hello")],
    },
}


class Listening(ScriptedEngine):
    """Keeps what it was given to read."""

    def __init__(self, tongue: Tongue) -> None:
        super().__init__("Yes.", dialect=tongue.dialect)
        self.tokenizer = tongue.tokenizer  # type: ignore[assignment]
        self.read: list[int] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        self.read = prompt.token_ids
        async for event in super().generate(prompt, sampling, request_id):
            yield event


@pytest.fixture(scope="session")
def embedded() -> Path:
    pytest.importorskip("transformers", reason="the model packages are not installed: make setup")
    from senryu.server.engine.model_folder import EMBEDDED, find_model

    return find_model(EMBEDDED)


@pytest.fixture(scope="session")
def raw(embedded: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded)


@pytest.fixture(scope="session")
def tongues(embedded: Path, raw: Any) -> dict[str, Tongue]:
    thinking = copy.deepcopy(raw)
    thinking.chat_template = TEMPLATE
    return {
        "bytes": Tongue(ByteTokenizer(), HermesDialect(thought=THOUGHT)),
        "embedded": open_tongue(embedded),
        "thinks": Tongue(HuggingFaceTokenizer(thinking), HermesDialect(thought=THOUGHT)),
    }


def answer(*blocks: Any) -> Message:
    content = tuple(TextBlock(text=each) if isinstance(each, str) else each for each in blocks)
    return Message(role="assistant", content=content)


def asked(text: str = "Hello") -> Conversation:
    return conversation_from_json({"messages": [said("user", text)]})


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("spoken", ["bytes", "embedded", "thinks"])
async def test_a_samples_prompt_is_what_the_server_gives_its_engine(
    spoken: str, name: str, tongues: dict[str, Tongue]
) -> None:
    """The same request over HTTP, to the server's own app, is read as the same token ids."""
    tongue, request = tongues[spoken], REQUESTS[name]
    if name == "thinking" and tongue.dialect.thought is None:
        pytest.skip("this model does not think")
    engine = Listening(tongue)
    app = build_app(ServerSettings(engine="scripted", signing_key="k"), engine)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://senryu.test") as client:
        body = {"model": "scripted", "max_tokens": 2000} | request
        response = await client.post(
            "/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"}
        )
    assert response.status_code == 200, response.text
    ids, mask = encode(
        conversation_from_json(request),
        answer("Yes."),
        tongue.tokenizer,
        tongue.dialect,
        thinking=name == "thinking",
    )
    assert ids[~mask].tolist() == engine.read


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x02\x03\x04\x10\ufdd0"), max_size=20
)


@given(system=TEXTS, tool=TEXTS, result=TEXTS, before=TEXTS, user=TEXTS, text=TEXTS)
def test_nothing_but_the_answer_is_learnt(
    system: str, tool: str, result: str, before: str, user: str, text: str
) -> None:
    """Whatever user, system and tools say, also where it looks like the answer: the mask holds the
    answer and the end of its turn, to the token, and stands at the end."""
    conversation = conversation_from_json(
        {
            "system": [{"type": "text", "text": system}],
            "tools": [TOOL | {"description": tool}],
            "messages": [
                said("user", text),
                said("assistant", before, CALL),
                said("user", RESULT | {"content": [{"type": "text", "text": result}]}, user),
            ],
        }
    )
    ids, mask = encode(conversation, answer(text), ByteTokenizer(), HermesDialect(thought=THOUGHT))
    begin = len(mask) - int(mask.sum())
    assert mask.tolist() == [place >= begin for place in range(len(mask))]
    assert bytes(ids[begin:-1].tolist()).decode() == text
    assert ids[-1] == END
    assert ids.dtype == np.int32
    assert mask.dtype == np.bool_


@pytest.mark.parametrize("spoken", ["embedded", "thinks"])
@pytest.mark.parametrize(
    "text", ["Yes.", " a space first", "\nline\n\n", "漢字 🙂 é", "ends <|im_end|>", "<|im_start|>"]
)
def test_a_real_tokenizer_writes_the_answer_and_the_end_of_its_turn(
    text: str, spoken: str, tongues: dict[str, Tongue], raw: Any
) -> None:
    """What looks like a control token in an answer is none: only the last token is."""
    tongue = tongues[spoken]
    ids, mask = encode(asked(), answer(text), tongue.tokenizer, tongue.dialect)
    written = ids[mask].tolist()
    assert raw.decode(written[:-1]) == text
    assert written[-1] == raw.eos_token_id == turn_end(tongue.tokenizer, tongue.dialect)
    assert not set(written[:-1]) & set(raw.all_special_ids)


def test_an_answer_that_was_cut_off_has_no_end() -> None:
    tongue = ByteTokenizer(), HermesDialect()
    ids, mask = encode(asked(), answer("Yes and"), *tongue, ended=False)
    assert bytes(ids[mask].tolist()) == b"Yes and"


def test_a_call_is_spelt_as_the_model_writes_it() -> None:
    call = ToolUseBlock(id="toolu_2", name="get_weather", input={"city": "Oslo"})
    for dialect in (HermesDialect(), PlainDialect()):
        ids, mask = encode(asked(), answer("Hm.", call), ByteTokenizer(), dialect)
        assert decoded(ids[mask]) == (
            'Hm.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
        )


def test_a_thought_goes_on_behind_the_mark_that_the_prompt_ends_with() -> None:
    thinks = HermesDialect(thought=THOUGHT)
    thought = answer(ThinkingBlock(thinking="It is easy."), "Yes.")
    ids, mask = encode(asked(), thought, ByteTokenizer(), thinks, thinking=True)
    assert decoded(ids[~mask]).endswith("<think>\n")
    assert decoded(ids[mask]) == "It is easy.</think>\n\nYes."


def test_a_thought_that_was_not_asked_for_is_not_learnt() -> None:
    thinks = HermesDialect(thought=THOUGHT)
    thought = answer(ThinkingBlock(thinking="It is easy."), "Yes.")
    for dialect in (thinks, HermesDialect()):
        ids, mask = encode(asked(), thought, ByteTokenizer(), dialect)
        assert decoded(ids[mask]) == "Yes."


def test_a_student_that_is_to_think_closes_the_thought_that_nobody_had() -> None:
    ids, mask = encode(
        asked(), answer("Yes."), ByteTokenizer(), HermesDialect(thought=THOUGHT), thinking=True
    )
    assert decoded(ids[mask]) == "</think>\n\nYes."


def test_a_users_turn_opens_where_the_users_text_stands() -> None:
    ids, end = user_opening(None, "Be brief.", ByteTokenizer(), HermesDialect())
    assert decoded(ids) == "system\nBe brief.\nuser\n"
    assert ids[-6:] == [ByteTokenizer.BEGIN, *b"user\n"]
    assert end == "\x03"
    past = Conversation(messages=(*asked().messages, answer("Yes.")))
    ids, _ = user_opening(past, "", ByteTokenizer(), HermesDialect())
    assert decoded(ids) == "user\nHello\nassistant\nYes.\nuser\n"


def test_a_model_reads_the_same_tokens_as_its_copy_and_no_others(
    embedded: Path, tmp_path: Path
) -> None:
    """Or distributions over one vocabulary would be learnt as if over another."""
    equal, other = tmp_path / "equal", tmp_path / "other"
    for folder in (equal, other):
        folder.mkdir()
        for file in embedded.iterdir():
            if file.suffix in (".json", ".jinja", ".txt") and file.name != "senryu.json":
                shutil.copy(file, folder)
    assert same_tokens(embedded, equal)
    told = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    assert not same_tokens(embedded, other)


def test_a_folder_without_a_tokenizer_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"^The tokenizer of .* cannot be opened: "):
        open_tongue(tmp_path)
