"""Servers in turns: who has one when, what ratios are made of, and a whole run without a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from senryu.benches.asks import Ask
from senryu.benches.beside import __main__ as beside
from senryu.benches.beside.asks import Reader, Unsuited, as_ids, greedy, loads
from senryu.benches.beside.ratios import Turn, middle, order, ratio, table
from senryu.benches.workloads import find
from senryu.server.engine.scripted import ScriptedEngine


def turn(name: str, number: int, seconds: float, **changed: Any) -> Turn:
    told: dict[str, Any] = {"concurrency": 8, "requests": 16, "failed": 0, "tokens": 1000}
    told |= {"ttft": 0.25, "cpu_seconds": 0.1} | changed
    return Turn(name=name, round=number, seconds=seconds, **told)


def test_turns_go_forth_and_back() -> None:
    assert order(["a", "b"], 3) == [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")]


def test_a_ratio_is_taken_within_a_round() -> None:
    """The second round ran on a machine half as fast: both did."""
    turns = [turn("a", 1, 1), turn("b", 1, 2), turn("b", 2, 4), turn("a", 2, 2.5)]
    found = ratio(turns, "a", "b", 8, lambda each: each.speed)
    assert found
    assert (found.median, found.low, found.high) == pytest.approx((1.8, 1.6, 2.0))


def test_a_round_without_one_of_them_has_no_ratio() -> None:
    turns = [turn("a", 1, 1), turn("b", 2, 2)]
    assert ratio(turns, "a", "b", 8, lambda each: each.speed) is None
    assert ratio([*turns, turn("b", 1, 2)], "a", "b", 64, lambda each: each.speed) is None
    assert middle([None, None]) is None


def test_cpu_of_a_token_is_not_known_of_a_server_that_is_not_ours() -> None:
    assert turn("a", 1, 1).cpu_us == pytest.approx(100)
    assert turn("a", 1, 1, cpu_seconds=None).cpu_us is None
    assert turn("a", 1, 1, tokens=0).cpu_us is None


def test_the_table_shows_all_of_them_and_what_failed() -> None:
    turns = [turn("a", 1, 1), turn("b", 1, 2, failed=3, ttft=None, cpu_seconds=None)]
    shown = table(turns).splitlines()
    one, other = (" ".join(line.split()) for line in shown[1:3])
    assert one == "8 a 1000.0 1000.0 1000.0 250 ms 100 1.00x 1.00x"
    assert other == "8 b 500.0 500.0 500.0 2.00x"
    assert shown[3].strip() == "3 of its requests failed"


async def test_all_are_asked_the_same_greedily_and_none_twice() -> None:
    engine = ScriptedEngine("Hello.")
    reader = Reader(engine.tokenizer, engine.card.dialect)
    chat, sizes = find("chat"), {"input": 300, "output": 16}
    found = await loads(chat, reader, [1, 16], requests=None, shape=sizes, seed="s")
    assert [(load.concurrency, load.requests) for load in found] == [(1, 8), (16, 32)]
    asks = [ask for load in found for conversation in load.conversations for ask in conversation]
    assert all(ask.body["temperature"] == 0 for ask in asks)
    assert len({json.dumps(ask.body) for ask in asks}) == 40
    told = as_ids(found[0], reader)
    assert {each["max_tokens"] for each in told["asks"]} == {16}
    assert len(told["asks"]) == 8
    assert len(told["warm_up"]) == 1
    lengths = [len(each["ids"]) for each in told["asks"]]
    assert all(296 <= length <= 300 for length in lengths), lengths


async def test_what_cannot_be_asked_of_all_is_refused() -> None:
    engine = ScriptedEngine("Hello.")
    reader = Reader(engine.tokenizer, engine.card.dialect)
    for name in ("tools", "json", "agentic"):
        with pytest.raises(Unsuited):
            await loads(find(name), reader, [1], requests=1, shape={}, seed="s")
    with pytest.raises(Unsuited, match="cannot be read"):
        reader.token_ids({"messages": []})


def test_greedy_changes_nothing_else() -> None:
    ask = Ask(body={"max_tokens": 3, "messages": []}, form="json")
    assert greedy(ask).body == {"max_tokens": 3, "messages": [], "temperature": 0}
    assert greedy(ask).form == "json"


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, Any]:
    status = beside.main(list(flags))
    said = capsys.readouterr().out
    shown, _, last = said.strip().rpartition("\n")
    return status, shown, json.loads(last)


def test_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours with the scripted engine, and a server that is not there."""
    pytest.importorskip("torch", reason="the model packages are not installed: make setup")
    monkeypatch.setenv("SENRYU_ENGINE", "scripted")
    monkeypatch.setattr(beside, "SETTLING", 0)
    monkeypatch.setenv("SENRYU_PROFILE", "latency")
    monkeypatch.setenv("SENRYU_API_KEY", "")
    monkeypatch.delenv("SENRYU_API_KEY")
    gone = "http://127.0.0.1:9"
    status, shown, record = run(
        capsys,
        *("--servers", f"senryu,{gone}", "--model", "tiny", "--concurrency", "1,4"),
        *("--requests", "4", "--output", "8", "--results", str(tmp_path)),
    )
    assert status == 1, "one could not be measured"
    assert [(each["name"], each["round"], each["concurrency"]) for each in record["turns"]] == [
        ("senryu", 1, 1),
        ("senryu", 1, 4),
        ("senryu", 2, 1),
        ("senryu", 2, 4),
    ]
    assert all(each["failed"] == 0 and each["tokens"] == 4 * 8 for each in record["turns"])
    assert all(each["cpu_seconds"] is not None for each in record["turns"])
    assert len(record["failures"]) == 2
    assert record["settings"] == {"SENRYU_PROFILE": "latency"}
    assert "senryu" in shown
    (file,) = tmp_path.glob("*-beside.json")
    assert json.loads(file.read_text()) == record


def test_mistakes_are_told_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for flags, word in (
        (["--servers", "ollama"], "none of senryu, vllm, bare, llama"),
        (["--servers", "llama", "--model", "tiny"], "the embedded model only"),
    ):
        with pytest.raises(SystemExit):
            beside.main(flags)
        assert word in capsys.readouterr().err
    assert beside.main(["--concurrency", "x"]) == 2
    assert beside.main(["--model", "no/such/folder/at/all"]) == 2
