"""Every workload asks good requests, that share no beginning but where it is about that."""

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from senryu.benches.asks import Ask
from senryu.benches.workloads import ALL, find
from senryu.benches.workloads.base import Order, Shape, Workload
from senryu.benches.workloads.chat import CHAT
from senryu.benches.workloads.shared import SHARED_PREFIX
from senryu.server.wire.requests import MessagesRequest

SYNTHETIC = sorted(name for name, each in ALL.items() if each.exact)


async def count(body: Mapping[str, Any]) -> int | None:
    """A token a word, everywhere in the body."""
    return len(re.findall(r"\w+", json.dumps(body)))


async def written(
    workload: Workload, number: int = 3, seed: str = "7", shape: Shape | None = None
) -> list[Ask]:
    order = Order(shape=shape or workload.shape, conversations=number, seed=seed)
    conversations = await workload.write(order, count)
    assert len(conversations) == number
    assert {len(each) for each in conversations} == {workload.turns}
    return [ask for conversation in conversations for ask in conversation]


def opening(ask: Ask) -> str:
    """What a model reads first."""
    body = ask.body
    system = body.get("system", "")
    text = system if isinstance(system, str) else " ".join(each["text"] for each in system)
    return text[:60]


@pytest.mark.parametrize("name", sorted(ALL))
async def test_the_server_takes_every_request(name: str) -> None:
    for ask in await written(ALL[name]):
        MessagesRequest.model_validate({**ask.body, "model": "m", "stream": True})
        assert ask.max_tokens == ALL[name].shape.output
        assert not {"model", "stream"} & ask.body.keys()


@pytest.mark.parametrize("name", SYNTHETIC)
async def test_a_prompt_is_as_long_as_the_shape_says(name: str) -> None:
    shape = ALL[name].shape
    for ask in await written(ALL[name]):
        assert ask.counted == await count(ask.body) == shape.input + shape.prefix


@pytest.mark.parametrize("name", sorted(ALL))
async def test_the_same_seed_asks_the_same(name: str) -> None:
    first, again = (await written(ALL[name]), await written(ALL[name]))
    assert [ask.body for ask in first] == [ask.body for ask in again]


@pytest.mark.parametrize("name", sorted(ALL))
async def test_another_seed_shares_no_beginning(name: str) -> None:
    """Or a repeat would read what the one before it left in the cache."""
    first = {opening(ask) for ask in await written(ALL[name], seed="7 1")}
    other = {opening(ask) for ask in await written(ALL[name], seed="7 2")}
    assert not first & other


@pytest.mark.parametrize("name", sorted(set(ALL) - {"shared-prefix", "agentic"}))
async def test_no_two_requests_share_a_beginning(name: str) -> None:
    asks = await written(ALL[name], number=20)
    assert len({opening(ask) for ask in asks}) == 20


async def test_shared_prefixes_are_shared_and_marked_and_questions_are_not() -> None:
    asks = await written(SHARED_PREFIX, number=5)
    (system,) = asks[0].body["system"]
    assert system["cache_control"] == {"type": "ephemeral"}
    assert all(ask.body["system"] == [system] for ask in asks)
    assert len({ask.body["messages"][0]["content"] for ask in asks}) == 5
    alone = await count(asks[0].body | {"system": [system | {"text": "a"}]})
    assert alone is not None
    assert alone - 1 + SHARED_PREFIX.shape.prefix == asks[0].counted


async def test_a_session_grows_and_is_summed_up_once() -> None:
    asks = await written(ALL["agentic"], number=1)
    sizes = [len(json.dumps(ask.body)) for ask in asks]
    grown = [after > before for before, after in itertools.pairwise(sizes)]
    assert grown.count(False) == 1
    for before, after in itertools.pairwise(asks):
        assert before.body["tools"] == after.body["tools"]
    assert not any(tool.get("defer_loading") for tool in asks[0].body["tools"])


async def test_a_longer_session_can_be_ordered() -> None:
    async def longest(tokens: int) -> int:
        asks = await written(ALL["agentic"], number=1, shape=Shape(input=tokens, output=8))
        return max(len(json.dumps(ask.body)) for ask in asks)

    small, large = await longest(4_000), await longest(64_000)
    assert large > 8 * small


async def test_forms_are_asked_for() -> None:
    (call,) = await written(ALL["tools"], number=1)
    assert call.form == "call"
    assert call.body["tool_choice"] == {"type": "any"}
    (answer,) = await written(ALL["json"], number=1)
    assert answer.form == "json"
    assert answer.body["output_config"]["format"]["type"] == "json_schema"


def test_a_name_that_is_none_is_told_what_there_is() -> None:
    assert find("chat") is CHAT
    with pytest.raises(ValueError, match="'nix' is no workload: there are chat, long"):
        find("nix")


GOOD = {"max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def lines(folder: Path, *bodies: Any) -> str:
    file = folder / "asks.jsonl"
    told = [each if isinstance(each, str) else json.dumps(each) for each in bodies]
    file.write_text("\n".join(told))
    return str(file)


async def test_requests_of_a_file_are_sent_as_they_are(tmp_path: Path) -> None:
    path = lines(
        tmp_path, GOOD | {"model": "theirs", "stream": False}, "", GOOD | {"max_tokens": 9}
    )
    workload = find(f"file:{path}")
    first, second = await written(workload, number=2)
    assert first.body == GOOD
    assert second.max_tokens == workload.shape.output == 9
    assert workload.has == 2


async def test_a_file_goes_on_where_the_last_order_ended_and_begins_again(tmp_path: Path) -> None:
    path = lines(tmp_path, *(GOOD | {"max_tokens": number} for number in (1, 2, 3)))
    order = Order(shape=Shape(input=0, output=3), conversations=2, seed="", first=2)
    asked = await find(f"file:{path}").write(order, count)
    assert [ask.max_tokens for (ask,) in asked] == [3, 1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"a"', "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ({"messages": [1]}, "max_tokens has to be"),
        (GOOD | {"max_tokens": True}, "max_tokens has to be"),
        (GOOD | {"max_tokens": 0}, "max_tokens has to be"),
        (GOOD | {"messages": []}, "messages has to be a list"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, bad: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"asks.jsonl, line 3: {said}"):
        find(f"file:{lines(tmp_path, GOOD, '', bad)}")


def test_a_file_that_is_none_and_one_that_is_empty_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        find(f"file:{tmp_path / 'nix'}")
    with pytest.raises(ValueError, match="holds no request"):
        find(f"file:{lines(tmp_path, '')}")
    (tmp_path / "asks.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8"):
        find(f"file:{tmp_path / 'asks.jsonl'}")
