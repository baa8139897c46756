"""Servers are started on the settings that ours has, say who they are, and are stopped."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import httpx
import pytest

from senryu.benches import llama_server
from senryu.benches.llama_server import llama_command
from senryu.benches.servers import DidNotStart, Running, server, vllm_flags
from senryu.quant import gguf_model


def test_ours_is_started_with_variables_and_tells_its_process() -> None:
    scripted = {"SENRYU_ENGINE": "scripted", "SENRYU_SERVED_NAME": "told"}
    with server("senryu", environment=scripted) as running:
        assert running.started
        assert running.api == "messages"
        assert httpx.get(f"{running.url}/v1/models").json()["data"][0]["id"] == "told"
        assert running.pid
        assert running.cpu_seconds() > 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url)
    assert not Path(f"/proc/{running.pid}").exists()


def test_a_url_is_nobodys_to_stop() -> None:
    with server("http://127.0.0.1:9/") as running:
        assert running == Running(
            name="http://127.0.0.1:9/", url="http://127.0.0.1:9", version="", started=False
        )
        with pytest.raises(ValueError, match="not known"):
            running.cpu_seconds()


def test_what_cannot_be_started_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server.shutil, "which", lambda name: None)
    with pytest.raises(DidNotStart, match="llama-server is not installed"), server("llama"):
        pass
    with pytest.raises(DidNotStart, match="neither vllm nor llama"), server("ollama"):
        pass
    monkeypatch.setenv("SENRYU_PORT", "no number")
    with pytest.raises(DidNotStart, match=r"status 2: .*port"), server("senryu"):
        pass


def test_a_model_that_is_not_installed_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gguf_model, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(DidNotStart, match="weights are not installed"), server("llama"):
        pass


def test_llama_server_goes_before_ours_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "llama-server"
    installed.write_text(f"#!{sys.executable}\nprint('version: 42')\n")
    installed.chmod(installed.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(gguf_model, "find_file", lambda: Path("m.gguf"))
    monkeypatch.setenv("PATH", str(tmp_path))
    command, version, api = llama_command(4)
    assert (command[0], version, api) == (str(installed), "version: 42", "messages")
    assert command[command.index("--ctx-size") + 1] == "8192"
    assert command[command.index("--parallel") + 1] == "4"


def test_packages_are_installed_once_and_again_where_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The npm of this test notes that it was called, and fails the first time."""
    npm, node = tmp_path / "npm", tmp_path / "node"
    npm.write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n[ "$(wc -l < "$CALLS")" -gt 1 ]\n')
    node.write_text("#!/bin/sh\n")
    for program in (npm, node):
        program.chmod(0o755)
    calls = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("SENRYU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_model, "find_file", lambda: Path("m.gguf"))
    monkeypatch.setattr(llama_server.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(
        llama_server.shutil, "which", lambda name: str(tmp_path / name) if name[0] == "n" else None
    )
    with pytest.raises(llama_server.NoLlama, match="npm could not"):
        llama_command(64)
    command, version, api = llama_command(64)
    llama_command(64)
    assert calls.read_text().count("install --ignore-scripts") == 2
    assert api == "openai"
    assert version.startswith("node-llama-cpp 3.")
    assert Path(command[1]).is_file()
    assert command[command.index("--context") + 1] == "1024", "room for a short answer at least"


def test_the_lock_of_packages_names_no_registry_and_fits_the_list() -> None:
    folder = Path(llama_server.__file__).parent / "llama"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    lock = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert lock[""]["dependencies"] == wanted
    assert not any("resolved" in package for package in lock.values())
    assert all(lock[f"node_modules/{name}"]["version"] == want for name, want in wanted.items())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="there is no npm")
def test_llama_cpp_answers_through_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(shutil.which("node") or "").parent),)))
    asked = {
        # "The" and "L'" are as likely as each other where it may answer in French.
        "messages": [
            {
                "role": "user",
                "content": "What is the capital of France? Answer in English, in one sentence.",
            }
        ],
        "max_tokens": 24,
    }
    with server("llama", parallel=2) as running:
        url = f"{running.url}/v1/chat/completions"
        whole = httpx.post(url, json=asked, timeout=120).json()
        lines = httpx.post(url, json=asked | {"stream": True}, timeout=120).text.split("\n\n")
        refused = httpx.post(url, json={"messages": 1})
    assert whole["choices"][0]["message"]["content"] == "The capital of France is Paris."
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"].get("content", "") for each in chunks for choice in each["choices"]]
    assert "".join(deltas) == "The capital of France is Paris."
    assert chunks[-1]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] >= 7
    assert refused.status_code == 400


def test_vllms_own_server_gets_the_settings_of_our_engine_and_none_of_our_parts() -> None:
    flags = vllm_flags(
        {
            "model": "a folder",
            "block_size": 32,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "limit_mm_per_prompt": {"image": 2},
            "max_model_len": -1,
            "disable_log_stats": True,
            "scheduler_cls": "ours",
            "speculative_config": {"method": "ngram"},
        }
    )
    assert flags == [
        "--model=a folder",
        "--no-enable-prefix-caching",
        "--enforce-eager",
        '--limit-mm-per-prompt={"image": 2}',
        "--max-model-len=-1",
        "--block-size=32",
        '--speculative-config={"method": "ngram"}',
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--enable-prompt-tokens-details",
    ]
