"""`senryu bench` as a person types it: what it measures, what it refuses, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from senryu.benches import ceilings
from senryu.benches.cli import main
from senryu.benches.record import read
from senryu.server.engine.scripted import ScriptedEngine

SMALL = ("--requests", "3", "--repeats", "2", "--seed", "7", "--warm-up", "1")
CALL = '<tool_call>\n{"name": "find_order", "arguments": {"number": 7, "year": 1}}\n</tool_call>'


class Said:
    """What a command printed."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def line(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def bench(*words: str) -> Said:
        status = main(words)
        return Said(status, *capsys.readouterr())

    return bench


def test_it_measures_a_server_and_writes_what_it_found(
    bench: Any, serve: Any, tmp_path: Path
) -> None:
    url = serve(window=100_000).url
    out = tmp_path / "out"
    words = ("--url", f"{url}/v1/", "--concurrency", "1,2", "--input", "400", "--slo", "ttft=60")
    said = bench(*words, *SMALL, "--out", str(out))
    assert said.status == 0, said.err
    assert f"messages at {url}, model scripted" in said.out
    assert "usage: true" in said.out
    record = read((out / "record.json").read_text(), "it")
    assert [str(each.level) for each in record.levels] == ["concurrency 1", "concurrency 2"]
    for level in record.levels:
        assert (level.requests, level.failed, len(level.repeats)) == (6, 0, 2)
        for repeat in level.repeats:
            assert repeat.prompt_tokens == 3 * 400
            assert repeat.met_slo == 3
    assert read(json.dumps(said.line), "it").levels[0].repeats == record.levels[0].repeats
    samples = (out / "samples.jsonl").read_text().splitlines()
    assert len(samples) == 12
    assert {json.loads(each)["counted"] for each in samples} == {400}
    assert (out / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "concurrency 2, repeat 2 of 2: " in said.err


def test_the_command_in_the_record_asks_the_same_again_and_keeps_the_key_to_itself(
    bench: Any, serve: Any
) -> None:
    url = serve(api_key="a secret").url
    said = bench("--url", url, "--key", "a secret", "--rate", "200", *SMALL[:4])
    assert said.status == 0, said.err
    command = said.line["command"]
    assert command.startswith(f"senryu bench --url {url} --rate 200 --requests 3 --repeats 2")
    assert f"--seed {said.line['plan']['seed']}" in command
    assert "secret" not in said.out + said.err
    assert said.line["levels"][0]["level"] == {"kind": "rate", "value": 200.0}


@pytest.mark.parametrize("workload", ["chat", "long", "shared-prefix", "agentic", "json", "tools"])
def test_every_workload_is_answered_by_our_server(bench: Any, serve: Any, workload: str) -> None:
    """What the script says is a call, and no JSON: that is counted, and no crash."""
    engine = ScriptedEngine(CALL if workload == "tools" else "Nothing to say.")
    url = serve(engine, window=200_000).url
    said = bench("--url", url, "--workload", workload, "--concurrency", "2", *SMALL)
    (level,) = said.line["levels"]
    failures = [each for repeat in level["repeats"] for each in repeat["failures"]]
    if workload == "json":
        assert said.status == 1
        assert {each["kind"] for each in failures} == {"malformed"}
        assert "malformed, such as: " in said.out
    else:
        assert said.status == 0, said.out
        assert not failures
    assert level["usage"] == "true"


def test_requests_of_a_file_are_asked(bench: Any, serve: Any, tmp_path: Path) -> None:
    file = tmp_path / "asks.jsonl"
    body = {"max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}
    file.write_text(f"{json.dumps(body)}\n" * 20)
    said = bench("--url", serve().url, "--workload", f"file:{file}", "--concurrency", "1", *SMALL)
    assert said.status == 0, said.err
    assert said.line["levels"][0]["repeats"][0]["stop_reasons"] == {"max_tokens": 3}
    assert not said.line["notes"]


def test_without_an_address_our_own_server_is_started_and_sent_a_batch(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SENRYU_ENGINE", "scripted")
    monkeypatch.setenv("SENRYU_DATA", str(tmp_path))
    said = bench("--workload", "batch", "--requests", "4", "--repeats", "1", "--output", "5")
    assert said.status == 0, said.err
    assert "starting senryu serve" in said.err
    (level,) = said.line["levels"]
    (repeat,) = level["repeats"]
    assert level["level"] == {"kind": "batch", "value": 4.0}
    assert (repeat["good"], repeat["output_tokens"], repeat["ttft"]) == (4, 20, None)
    assert level["usage"] == "true"


def test_with_its_weights_each_level_is_also_a_share_of_what_the_machine_allows(
    bench: Any, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 bytes of weights and 512 a token, at a megabyte a second."""
    head = json.dumps({"w": {"dtype": "I8", "shape": [512], "data_offsets": [0, 512]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(
        len(head).to_bytes(8, "little") + head + bytes(512)
    )
    config = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(ceilings, "bandwidth", lambda kind: 1e6)
    words = ("--url", serve().url, "--concurrency", "2", "--weights", str(tmp_path), *SMALL)
    said = bench(*words)
    assert said.status == 0, said.err
    repeats = said.line["levels"][0]["repeats"]
    prompt, output = (
        sum(each[name] for each in repeats) / 6 for name in ("prompt_tokens", "output_tokens")
    )
    (allowed,) = said.line["roofline"]
    expected = 2 * 1e6 / (512 + 2 * (prompt + output / 2) * 512)
    assert allowed["tokens_per_second"] == pytest.approx(expected, rel=1e-5)
    assert "roofline" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workload", "nix"), "'nix' is no workload: there are chat, long"),
        (("--workload", "file:nix"), "nix cannot be read"),
        (("--concurrency", "0"), "--concurrency: 0 is not more than 0"),
        (("--rate", "x"), "--rate: 'x' is no number"),
        (("--slo", "itl=1"), "--slo: 'itl=1' is none of"),
        (("--prefix", "10"), "--prefix: requests of chat share nothing"),
        (("--workload", "batch", "--rate", "1"), "sends one batch"),
        (("--workload", "batch", "--api", "openai"), "only the Messages API has batches"),
        (("--url", "localhost:8765"), "does not begin with http"),
        (("--weights", "nix"), "--weights: nix has no config.json"),
        (("--requests", "0"), "'0' is no number from 1 on"),
        (("--patience", "nan"), "'nan' is no number of seconds"),
        (("--rate", "1", "--concurrency", "1"), "not allowed with"),
        (("--nix",), "unrecognized arguments"),
        (("compare", "nix", "nix"), "nix cannot be read: No such file"),
        (("compare", "nix"), "required: B"),
    ],
)
def test_a_mistake_is_one_sentence(bench: Any, words: tuple[str, ...], said: str) -> None:
    found = bench(*words)
    assert found.status == 2
    assert said in found.err
    assert not found.out


def test_where_nothing_can_be_written_nothing_is_measured(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = bench("--url", "http://127.0.0.1:1", "--out", str(tmp_path / "file"))
    assert found.status == 2
    assert "--out: " in found.err
    assert "File exists" in found.err


def test_requests_of_a_file_have_no_other_size(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "asks.jsonl"
    file.write_text('{"max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]}')
    found = bench("--workload", f"file:{file}", "--input", "9")
    assert found.status == 2
    assert "sent as they are" in found.err


def test_a_server_that_is_down_is_one_sentence(bench: Any) -> None:
    found = bench("--url", "http://127.0.0.1:1")
    assert found.status == 1
    assert len(found.err.strip().splitlines()) == 1
    assert "http://127.0.0.1:1" in found.err


def test_a_server_that_answers_nothing_well_is_shown_and_status_1(bench: Any, serve: Any) -> None:
    """It has no such route: each request is a failure with what the server says."""
    found = bench("--url", serve().url, "--api", "openai", "--concurrency", "1", *SMALL)
    assert found.status == 1
    assert "concurrency 1: 6 of 6 refused 404" in found.out


def test_workloads_are_listed(bench: Any) -> None:
    found = bench("workloads")
    assert found.status == 0
    for name in ("chat", "long", "shared-prefix", "agentic", "tools", "json", "batch", "file:"):
        assert f"\n{name}" in f"\n{found.out}"


def test_two_records_are_compared_by_file_and_by_folder(
    bench: Any, record: Any, tmp_path: Path
) -> None:
    (tmp_path / "record.json").write_text(record(speeds=(10.0, 11.0)).text())
    (tmp_path / "b.json").write_text(record(speeds=(20.0, 21.0)).line())
    found = bench("compare", str(tmp_path), str(tmp_path / "b.json"))
    assert found.status == 0, found.err
    assert found.line["rows"][0]["faster"] == "B"
    (tmp_path / "c.json").write_text("{}")
    found = bench("compare", str(tmp_path), str(tmp_path / "c.json"))
    assert found.status == 2
    assert "is no record" in found.err


def test_ctrl_c_prints_and_saves_what_was_measured(serve: Any, tmp_path: Path) -> None:
    """The first level is measured; in the second somebody loses patience."""
    engine = ScriptedEngine("one two three")
    url = serve(engine).url
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["--url", url, "--rate", "50,0.01", "--requests", "2", "--repeats", "1"]
    with log.open("w") as stream:
        running = subprocess.Popen(
            [
                *(sys.executable, "-m", "senryu.benches", *words),
                *("--warm-up", "0", "--seed", "1", "--out", str(out)),
            ],
            stdout=subprocess.PIPE,
            stderr=stream,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            text=True,
        )
    deadline = time.monotonic() + 60
    while "rate 50/s, repeat 1" not in log.read_text():
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    time.sleep(0.5)  # the next request is due in a minute or two
    running.send_signal(signal.SIGINT)
    shown, _ = running.communicate(timeout=60)
    assert running.returncode == 130, log.read_text()
    assert "It was stopped in rate 0.01/s, repeat 1 of 1" in shown
    record = read(shown.strip().splitlines()[-1], "it")
    assert record.interrupted
    assert str(record.levels[0].level) == "rate 50/s"
    assert record.levels[0].requests == 2
    assert {each.name for each in out.iterdir()} == {
        *("record.json", "samples.jsonl", "report.html")
    }
