"""Promises of `quant/calibration.py` and of the packaged set: balanced, repeatable, never mixed."""

import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.distill.encode import Tongue, encode, open_tongue
from senryu.distill.prompts.duplicates import Distinct, words
from senryu.distill.prompts.wire import conversation_to_json, message_to_json
from senryu.distill.samples import Sample
from senryu.distill.shards import ShardStore
from senryu.quant import calibration
from senryu.quant.calibration import (
    Spoken,
    conversations,
    in_order,
    packed,
    read_calibration,
)
from senryu.quant.errors import QuantizeError
from senryu.server.conversation.messages import (
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
)
from senryu.server.engine.scripted import ByteTokenizer
from senryu.server.turn.dialects.base import Chat
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect

KINDS = {"agents", "chat", "code", "languages", "structured", "thinking", "tools"}


def said(role: Any, *blocks: Any) -> Message:
    content = [TextBlock(text=each) if isinstance(each, str) else each for each in blocks]
    return Message(role=role, content=tuple(content))


def spoken(name: str, kind: str = "chat", language: str = "en", text: str = "Hello") -> Spoken:
    return Spoken(
        id=name,
        kind=kind,
        language=language,
        conversation=Conversation(messages=(said("user", text),)),
        answer=said("assistant", f"This is {name}."),
    )


def line(each: Spoken, held_out: bool = False) -> dict[str, Any]:
    return {
        "id": each.id,
        "kind": each.kind,
        "language": each.language,
        "origin": "written",
        "held_out": held_out,
        "conversation": conversation_to_json(each.conversation),
        "answer": message_to_json(each.answer),
    }


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    return file


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Twenty conversations of one's own, four of them held out."""
    lines = [
        line(spoken(f"s{at}", kind="tools" if at % 2 else "chat"), at >= 16) for at in range(20)
    ]
    return write(tmp_path / "own.jsonl", *lines)


class Bytes(ByteTokenizer):
    """Refuses, as a template may, what has a system prompt."""

    def render(self, chat: Chat, prefill: str = "") -> str:
        if chat.messages[0]["role"] == "system":
            raise ValueError("System role not supported")
        return super().render(chat, prefill)


@pytest.fixture
def tongue(monkeypatch: pytest.MonkeyPatch) -> Tongue:
    """Instead of a model folder's: bytes for tokens, and thoughts."""
    tongue = Tongue(Bytes(), HermesDialect(thought=THOUGHT))
    monkeypatch.setattr(calibration, "open_tongue", lambda model: tongue)
    return tongue


@pytest.fixture(scope="session")
def embedded() -> Path:
    pytest.importorskip("transformers", reason="the model packages are not installed: make setup")
    from senryu.server.engine.model_folder import EMBEDDED, find_model

    return find_model(EMBEDDED)


@pytest.fixture(scope="module")
def packaged() -> list[dict[str, Any]]:
    text = files("senryu.quant").joinpath("packaged", "calibration.jsonl").read_text("utf-8")
    assert len(text.encode()) <= 700 * 1024
    return [json.loads(each) for each in text.splitlines()]


def blocks(told: dict[str, Any]) -> list[dict[str, Any]]:
    turns = [*told["conversation"]["messages"], told["answer"]]
    return [block for turn in turns for block in turn["content"]]


def text_of(block: dict[str, Any]) -> str:
    match block["type"]:
        case "text" | "thinking" as kind:
            return str(block[kind])
        case "tool_use":
            return f"{block['name']} {json.dumps(block['input'], ensure_ascii=False)}"
        case _:
            return "\n".join(map(text_of, block["content"]))


# The packaged set


def test_each_packaged_line_is_what_it_says(packaged: list[dict[str, Any]]) -> None:
    assert 250 <= len(packaged) <= 350
    assert len({each["id"] for each in packaged}) == len(packaged)
    keys = {"id", "kind", "language", "origin", "held_out", "conversation", "answer"}
    for each in packaged:
        assert each.keys() == keys
        assert each["kind"] in KINDS
        assert each["origin"] in ("written", "embedded")
        assert each["id"].startswith(each["origin"])
    sides = conversations(None, held_out=False), conversations(None, held_out=True)
    for told, found in zip(sides, (False, True), strict=True):
        lines = [each for each in packaged if each["held_out"] is found]
        for one, its_line in zip(told, lines, strict=True):
            assert conversation_to_json(one.conversation) == its_line["conversation"]
            assert message_to_json(one.answer) == its_line["answer"]


def test_the_parties_of_a_packaged_conversation_take_turns(packaged: list[dict[str, Any]]) -> None:
    for each in packaged:
        turns = [*each["conversation"]["messages"], each["answer"]]
        roles = [turn["role"] for turn in turns]
        assert roles == ["user", "assistant"] * (len(roles) // 2), each["id"]
        assert all(turn["content"] for turn in turns), each["id"]


def test_each_packaged_call_is_of_a_tool_on_offer_and_fits_its_schema(
    packaged: list[dict[str, Any]],
) -> None:
    calls = 0
    for each in packaged:
        schemas = {
            one["name"]: one["input_schema"] for one in each["conversation"].get("tools", ())
        }
        for block in blocks(each):
            if block["type"] == "tool_use":
                jsonschema.validate(block["input"], schemas[block["name"]])
                calls += 1
    assert calls > 150


def test_each_packaged_call_but_the_last_ones_has_its_result(
    packaged: list[dict[str, Any]],
) -> None:
    """Right behind it and in its order, as a client has to send them."""
    for each in packaged:
        turns = [*each["conversation"]["messages"], each["answer"]]
        for asked, answered in itertools.pairwise(turns):
            calls = [block["id"] for block in asked["content"] if block["type"] == "tool_use"]
            results = [
                block["tool_use_id"]
                for block in answered["content"]
                if block["type"] == "tool_result"
            ]
            assert calls == results, each["id"]


def test_no_two_packaged_conversations_say_the_same(packaged: list[dict[str, Any]]) -> None:
    distinct = Distinct(0.6)
    for each in packaged:
        told = words("\n".join(map(text_of, blocks(each))))
        assert distinct.repeated(told) is None, each["id"]
        distinct.add(told)


def test_each_kind_and_language_is_packaged_on_both_sides(packaged: list[dict[str, Any]]) -> None:
    for key, least in (("kind", len(KINDS)), ("language", 14)):
        sides = [
            {each[key] for each in packaged if each["held_out"] is side} for side in (False, True)
        ]
        assert sides[0] == sides[1]
        assert len(sides[0]) >= least
    held_out = sum(each["held_out"] for each in packaged)
    assert 0.12 <= held_out / len(packaged) <= 0.3


def test_of_each_packaged_call_that_is_held_out_the_right_one_is_known(
    packaged: list[dict[str, Any]],
) -> None:
    offered = [each for each in packaged if each["held_out"] and each["conversation"].get("tools")]
    assert all(each["origin"] == "written" for each in offered)
    calling = [
        each
        for each in offered
        if any(block["type"] == "tool_use" for block in each["answer"]["content"])
    ]
    again = [
        each for each in calling if any(block["type"] == "tool_result" for block in blocks(each))
    ]
    assert len(calling) >= 20
    assert len(again) >= 8


def test_the_embedded_model_reads_every_packaged_kind_as_it_is_served(embedded: Path) -> None:
    found = read_calibration(None, embedded, tokens=2500, length=10**5)
    tongue = open_tongue(embedded)
    everything = in_order(conversations(None, held_out=False), 0)
    # All but the last, which is cut where there are enough.
    for each, ids in zip(everything, found.sequences[:-1], strict=False):
        thinks = any(isinstance(block, ThinkingBlock) for block in each.answer.content)
        whole, _ = encode(each.conversation, each.answer, tongue.tokenizer, tongue.dialect, thinks)
        assert np.array_equal(ids.numpy(), whole)
    assert found.left_out == 0
    assert len(found.counts) >= 4
    assert found.tokens == 2500
    record = found.record()
    assert record["name"] == "packaged"
    assert json.loads(json.dumps(record)) == record


# Order


def test_every_beginning_of_the_order_has_its_share_of_each_kind() -> None:
    everything = conversations(None, held_out=False)
    whole = Counter(each.kind for each in everything)
    for seed in range(5):
        ordered = in_order(everything, seed)
        assert sorted(each.id for each in ordered) == sorted(each.id for each in everything)
        for end in range(1, len(ordered), 7):
            seen = Counter(each.kind for each in ordered[:end])
            for kind, count in whole.items():
                assert abs(seen[kind] - end * count / len(ordered)) <= 3
        early = ordered[: len(ordered) // 4]
        assert {each.kind for each in early} == KINDS
        assert len({each.language for each in early}) >= 8


@given(
    kinds=st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    seed=st.integers(0, 2**64),
)
@settings(max_examples=50, deadline=None)
def test_the_order_is_one_for_a_seed_however_the_lines_lay(kinds: list[str], seed: int) -> None:
    told = [spoken(f"n{at}", kind=kind) for at, kind in enumerate(kinds)]
    ordered = in_order(told, seed)
    assert in_order(told[::-1], seed) == ordered
    assert sorted(each.id for each in ordered) == sorted(each.id for each in told)


@pytest.mark.usefixtures("tongue")
def test_one_seed_gives_the_same_bytes_and_another_does_not(own: Path) -> None:
    one, again, other = (
        read_calibration(own, Path("model"), tokens=300, seed=seed) for seed in (0, 0, 1)
    )
    assert one.sha256 == again.sha256 != other.sha256
    for mine, its in zip(one.sequences, again.sequences, strict=True):
        assert torch.equal(mine, its)
    whole = [each.numpy() for each in one.sequences]
    told = b"".join(len(each).to_bytes(8, "little") + each.tobytes() for each in whole)
    assert one.sha256 == hashlib.sha256(told).hexdigest()


# Tokens


def test_tokens_are_those_that_the_server_would_have(
    tmp_path: Path, tongue: Tongue, own: Path
) -> None:
    told = {each.id: each for each in conversations(own, held_out=False)}
    ids = {
        tuple(encode(each.conversation, each.answer, tongue.tokenizer, tongue.dialect)[0].tolist())
        for each in told.values()
    }
    found = read_calibration(own, tmp_path, tokens=10**6)
    assert {tuple(each.tolist()) for each in found.sequences} == ids
    assert all(each.dtype == torch.int64 for each in found.sequences)


def test_a_thought_before_an_answer_is_read_with_it(tmp_path: Path, tongue: Tongue) -> None:
    thought = Spoken(
        id="t",
        kind="thinking",
        language="en",
        conversation=Conversation(messages=(said("user", "Is 391 prime?"),)),
        answer=said("assistant", ThinkingBlock(thinking="17 * 23."), "No."),
    )
    file = write(tmp_path / "own.jsonl", line(thought))
    (ids,) = read_calibration(file, tmp_path, tokens=1000).sequences
    text = bytes(each for each in ids.tolist() if each < 256).decode()
    assert "<think>\n17 * 23.</think>\n\nNo." in text


@pytest.mark.usefixtures("tongue")
def test_a_long_conversation_becomes_several_sequences_and_loses_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "own.jsonl", line(spoken("long", text="word " * 100)))
    (whole,) = read_calibration(file, tmp_path, tokens=10**6, length=10**6).sequences
    found = read_calibration(file, tmp_path, tokens=10**6, length=100)
    assert torch.equal(torch.cat(found.sequences), whole)
    sizes = {len(each) for each in found.sequences}
    assert max(sizes) <= 100
    assert max(sizes) - min(sizes) <= 1
    assert found.counts == {"chat": len(found.sequences)}


@pytest.mark.usefixtures("tongue")
def test_as_many_tokens_as_asked_or_all_there_are(own: Path) -> None:
    found = read_calibration(own, Path("model"), tokens=123)
    assert found.tokens == 123
    everything = read_calibration(own, Path("model"), tokens=10**6)
    assert len(everything.sequences) == 16
    assert everything.record()["asked_tokens"] == 10**6
    assert everything.tokens < 10**6


def test_rows_are_full_and_hold_the_tokens_in_their_order() -> None:
    sequences = [torch.arange(5), torch.arange(5, 12)]
    assert packed(sequences, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert packed(sequences, 5).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    for few in (sequences, []):
        with pytest.raises(QuantizeError, match="do not fill one row of 13"):
            packed(few, 13)


# Sides


@pytest.mark.usefixtures("tongue")
def test_what_is_held_out_is_never_calibrated_with(own: Path) -> None:
    sides = [conversations(own, held_out=side) for side in (False, True)]
    assert [len(side) for side in sides] == [16, 4]
    assert not {each.id for each in sides[0]} & {each.id for each in sides[1]}
    found = [
        {
            tuple(each.tolist())
            for each in read_calibration(own, Path("model"), held_out=side, tokens=10**6).sequences
        }
        for side in (False, True)
    ]
    assert found[0]
    assert found[1]
    assert not found[0] & found[1]


# Samples of distill/


def sample(name: str, held_out: bool = False, kind: Any = "chat") -> Sample:
    return Sample(
        id=f"{name}-0",
        kind=kind,
        source="test",
        held_out=held_out,
        conversation=Conversation(messages=(said("user", f"Who is {name}?"),)),
        answer=said("assistant", "Nobody."),
        token_ids=np.arange(6, dtype=np.int32),
        loss_mask=np.arange(6) > 3,
        top_ids=np.zeros((2, 0), np.int32),
        top_logprobs=np.zeros((2, 0), np.float32),
        tail=np.ones(2, np.float32),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    store = ShardStore(folder / "samples")
    store.append([sample("a"), sample("b", kind="tools"), sample("c", held_out=True)])
    store.flush()
    return folder


@pytest.mark.usefixtures("tongue")
def test_samples_calibrate_from_their_own_folder_or_the_runs(run: Path) -> None:
    for folder in (run, run / "samples"):
        assert [each.id for each in conversations(folder, held_out=False)] == ["a-0", "b-0"]
        assert [each.id for each in conversations(folder, held_out=True)] == ["c-0"]
    found = read_calibration(run, Path("model"), tokens=10**6)
    assert found.name == "my-run"
    assert found.counts == {"chat": 1, "tools": 1}
    assert found.languages == ("und",)


def test_a_damaged_shard_is_named(run: Path) -> None:
    (shard,) = (run / "samples").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(QuantizeError, match=rf"^The shard .*{shard.name} is damaged"):
        conversations(run, held_out=False)


# What cannot be used


@pytest.mark.usefixtures("tongue")
def test_what_the_template_refuses_is_left_out_and_counted(tmp_path: Path, own: Path) -> None:
    plain, systemic = spoken("plain"), line(spoken("systemic"))
    systemic["conversation"]["system"] = [{"type": "text", "text": "Be brief."}]
    file = write(tmp_path / "some.jsonl", line(plain), systemic)
    found = read_calibration(file, tmp_path, tokens=10**6)
    assert (len(found.sequences), found.left_out) == (1, 1)
    assert found.record()["left_out"] == 1
    write(file, systemic)
    with pytest.raises(QuantizeError, match=r"takes none of the 1 .*System role not supported"):
        read_calibration(file, tmp_path, tokens=10**6)


GOOD = line(spoken("good"))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be"),
        ("null", "not subscriptable"),
        (json.dumps({**GOOD, "held_out": "no"}), "held_out is neither true nor false"),
        (json.dumps({key: GOOD[key] for key in GOOD if key != "answer"}), "'answer' is missing"),
        (json.dumps({**GOOD, "kind": 3}), "kind is no text"),
        (json.dumps({**GOOD, "answer": {"role": "user", "content": []}}), "not the assistant's"),
        (json.dumps({**GOOD, "answer": {"role": "assistant", "content": 3}}), "not iterable"),
        (json.dumps({**GOOD, "conversation": {"messages": []}}), "has no messages"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_broken_line_is_named_with_its_number(tmp_path: Path, broken: str, told: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n\n{broken}\n", encoding="utf-8")
    with pytest.raises(
        QuantizeError, match=rf"^Line 3 of the calibration set own\.jsonl holds no .*{told}"
    ):
        conversations(file, held_out=False)


def test_a_set_that_is_not_there_or_no_text_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"^There is no calibration set .*nowhere\.jsonl"):
        conversations(tmp_path / "nowhere.jsonl", held_out=False)
    odd = tmp_path / "odd.jsonl"
    odd.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuantizeError, match="is not a text in UTF-8"):
        conversations(odd, held_out=False)


def test_an_empty_side_is_one_sentence(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl")
    for source in (empty, tmp_path):
        with pytest.raises(QuantizeError, match="has no conversation that is not held out"):
            conversations(source, held_out=False)
    one = write(tmp_path / "one.jsonl", GOOD)
    with pytest.raises(QuantizeError, match="has no conversation that is held out"):
        conversations(one, held_out=True)


@pytest.mark.parametrize(("tokens", "length"), [(0, 512), (100, 0), (-1, 512)])
def test_no_tokens_are_no_calibration(tokens: int, length: int) -> None:
    with pytest.raises(QuantizeError, match="is empty"):
        read_calibration(None, Path("model"), tokens=tokens, length=length)


def test_a_model_without_a_tokenizer_is_one_sentence(tmp_path: Path, own: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(QuantizeError, match=r"^The tokenizer of .* cannot be opened"):
        read_calibration(own, folder, tokens=100)


def test_reading_the_packaged_set_needs_no_torch() -> None:
    script = (
        "import sys; from senryu.quant.calibration import conversations; "
        "conversations(None, held_out=True); "
        "print(sorted({'torch', 'transformers', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
