"""`senryu serve` checks before it opens anything, says what it chose, serves, and ends cleanly."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from senryu.server.engine.base import Choice, EngineCard
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.layers import documented
from senryu.server.serve import FLAGS, banner, main, parser
from senryu.server.settings import ServerSettings
from senryu.server.turn.dialects.hermes import HermesDialect


@pytest.fixture(autouse=True)
def _settings_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the file nor the variables of the person who runs the tests, nor their cache."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SENRYU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SENRYU_CACHE", str(tmp_path / "cache"))


# --- the banner --------------------------------------------------------------------------------


def card(engine: ScriptedEngine) -> None:
    engine.card = EngineCard(
        model="senryu/tiny",
        window=8192,
        created_at="1970-01-01T00:00:00Z",
        dialect=HermesDialect(),
        choices=(
            Choice("device", "A Processor, 2 cores", "no NVIDIA GPU"),
            Choice("KV memory", "1.0 GiB", "a twelfth of memory"),
        ),
    )


def test_the_banner_says_what_was_chosen_and_why_and_what_to_paste(engine: ScriptedEngine) -> None:
    card(engine)
    shown = banner(ServerSettings(), engine, 4242, keyless=True)
    for line in (
        "senryu serves senryu/tiny on http://127.0.0.1:4242",
        "  device     A Processor, 2 cores  (no NVIDIA GPU)",
        "  KV memory  1.0 GiB  (a twelfth of memory)",
        "  export ANTHROPIC_BASE_URL=http://127.0.0.1:4242",
        "  export ANTHROPIC_API_KEY=local",
        '  anthropic.Anthropic(base_url="http://127.0.0.1:4242", api_key="local")',
        '  new Anthropic({ baseURL: "http://127.0.0.1:4242", apiKey: "local" })',
    ):
        assert line in shown.splitlines()
    assert "ANTHROPIC_AUTH_TOKEN=" in shown
    assert "ANTHROPIC_MODEL=senryu/tiny" in shown
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS=8192" in shown
    assert "refuse" not in shown


def test_the_banner_never_shows_the_key(engine: ScriptedEngine) -> None:
    shown = banner(ServerSettings(api_key="s3cret"), engine, 1, keyless=False)
    assert "s3cret" not in shown
    assert 'local"' not in shown
    assert "=local" not in shown


def test_with_a_key_the_lines_to_paste_work_where_the_key_is_exported(
    engine: ScriptedEngine,
) -> None:
    shown = banner(ServerSettings(api_key="s3cret"), engine, 4242, keyless=False)
    lines = shown.split("environment:\n")[1].split("\n\n")[0]
    told = subprocess.run(
        ["sh", "-c", f'{lines}\nprintf "%s %s" "$ANTHROPIC_BASE_URL" "$ANTHROPIC_API_KEY"'],
        env={"SENRYU_API_KEY": "s3cret with a space"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "http://127.0.0.1:4242 s3cret with a space"
    assert 'ANTHROPIC_AUTH_TOKEN="$SENRYU_API_KEY"' in shown
    assert 'api_key=os.environ["SENRYU_API_KEY"]' in shown
    assert "apiKey: process.env.SENRYU_API_KEY" in shown
    assert "export it here too" in lines


@pytest.mark.parametrize(
    ("host", "bound"),
    [("0.0.0.0", "0.0.0.0:1"), ("::", "[::]:1"), ("0::0", "[0::0]:1"), ("", "0.0.0.0:1")],
)
def test_every_address_is_noted_and_the_one_to_paste_works_here(
    engine: ScriptedEngine, host: str, bound: str
) -> None:
    lines = banner(ServerSettings(host=host, api_key="k"), engine, 1, keyless=False).splitlines()
    assert "senryu serves scripted on http://127.0.0.1:1" in lines
    assert "  export ANTHROPIC_BASE_URL=http://127.0.0.1:1" in lines
    assert any(line.startswith(f"  listening on every address, {bound}") for line in lines)


def test_a_model_id_that_a_shell_would_split_is_quoted(engine: ScriptedEngine) -> None:
    engine.card = replace(engine.card, model="my model; rm")
    assert "ANTHROPIC_MODEL='my model; rm' " in banner(ServerSettings(), engine, 1, keyless=True)


def test_an_address_of_the_sixth_kind_stands_in_brackets(engine: ScriptedEngine) -> None:
    assert "http://[::1]:1" in banner(ServerSettings(host="::1"), engine, 1, keyless=True)


# --- before anything is opened -----------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "senryu.example", ""])
def test_without_a_key_nobody_else_may_reach_the_server(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--engine", "scripted", "--host", host]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"senryu serve: host: {host} can be reached from other machines; ")
    assert "--api-key" in said


def test_a_port_that_is_taken_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--engine", "scripted", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"senryu serve: port: 127.0.0.1:{port} cannot be used (Address already in use); "
        "choose another with --port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "http"], "port: 'http' (--port) is not of type int"),
        (["--engine", "llama"], "engine: 'llama' is not one of auto, vllm, scripted"),
        (["--config", "none.toml"], "none.toml cannot be read: No such file or directory"),
        (["--api-key", ""], "api_key: an empty key protects nothing"),
    ],
)
def test_a_wrong_setting_exits_2_with_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"senryu serve: {said}")
    assert shown.count("\n") == 1


def test_a_model_that_is_not_there_exits_1_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "/no/such/model", "--device", "cpu", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("senryu serve: ")
    assert said.count("\n") == 1


def test_print_config_shows_every_setting_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "senryu.toml").write_text("[server]\nwindow = 100\n")
    monkeypatch.setenv("SENRYU_API_KEY", "s3cret")
    assert main(["--print-config", "--port", "1", "--no-compile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[server]"
    assert len(lines) == 1 + len(documented(ServerSettings))
    assert {
        "window = 100  # senryu.toml",
        "api_key = (set)  # SENRYU_API_KEY",
        "port = 1  # --port",
        "compile = false  # --compile",
        'host = "127.0.0.1"  # default',
        "# kv_memory_gib is left out",
    } <= set(lines)


def test_every_flag_is_a_setting_with_its_text() -> None:
    texts = documented(ServerSettings)
    shown = " ".join(parser().format_help().split())
    for name in FLAGS:
        assert f"--{name.replace('_', '-')}" in shown
        assert texts[name].split(".")[0][:20] in shown


def test_the_help_shows_choices_and_types_and_names_nothing_that_cannot_be_typed() -> None:
    shown = " ".join(parser().format_help().split())
    for flag in (
        "--engine {auto,vllm,scripted} `auto`",
        "--device {auto,gpu,cpu} `auto`",
        "--dtype {auto,bfloat16,float16,float32} Type",
        "--port N The",
        "--kv-memory-gib GIB Memory",
        "--model MODEL A",
        "--config PATH",
        "(default: 8765)",
    ):
        assert flag in shown
    assert "None" not in shown


# --- the whole command -------------------------------------------------------------------------


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "serve", "--engine", "scripted", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    """The address in the banner, read up to its last line."""
    assert process.stdout
    url = ""
    for line in process.stdout:
        if line.startswith("senryu serves "):
            url = line.split()[-1]
        if line.startswith("Ctrl-C"):
            return url
    raise AssertionError(f"no banner: {process.stderr and process.stderr.read()}")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(
    ending: signal.Signals, command: subprocess.Popen[str]
) -> None:
    url = url_of(command)
    assert httpx.get(f"{url}/health").status_code == 200
    command.send_signal(ending)
    _, said = command.communicate(timeout=20)
    assert said == ""
    assert command.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_the_command_finishes_the_answer_that_it_is_giving(tmp_path: Path) -> None:
    """A long answer is under way when the server is told to stop."""
    body = {
        "model": "scripted",
        "max_tokens": 5_000,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "serve", "--engine", "scripted", "--port", "0"],
        env={**os.environ, "SENRYU_SCRIPTED_TOKENS": "5000"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url = url_of(process)
            with httpx.stream("POST", f"{url}/v1/messages", json=body, timeout=20) as reply:
                chunks = reply.iter_bytes()
                received = next(chunks)
                process.send_signal(signal.SIGTERM)
                time.sleep(0.05)
                received += b"".join(chunks)
            assert received.endswith(b'data: {"type":"message_stop"}\n\n')
            _, said = process.communicate(timeout=20)
            assert said.count("\n") == 1, "the line of that request, and no more"
        finally:
            process.kill()
