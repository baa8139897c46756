"""The doctor's report: what is off is a marked line, and never a traceback."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.doctor import Finding, examine_engine, main
from senryu.server.engine.base import FinishReason, TokenEvent
from senryu.server.engine.scripted import ByteTokenizer, ScriptedEngine
from senryu.server.turn.dialects.base import Chat
from senryu.server.turn.dialects.plain import PlainDialect
from senryu.server.turn.prompt import Prompt

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class Choosy(ByteTokenizer):
    """A chat template that refuses messages of some roles."""

    def __init__(self, *refused: str) -> None:
        self._refused = refused

    def render(self, chat: Chat, prefill: str = "") -> str:
        for role in [message["role"] for message in chat.messages] + ["tools"] * bool(chat.tools):
            if role in self._refused:
                raise ValueError(f"the model's chat template refuses this: no {role}")
        return super().render(chat, prefill)


class Remembering(ScriptedEngine):
    """Finds this share of a prompt that it has read before, and calls what it has to call."""

    def __init__(self, script: str | Sequence[str], share: float) -> None:
        super().__init__(script)
        self._share = share
        self._read: list[list[int]] = []

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        known = prompt.token_ids in self._read
        self._read.append(prompt.token_ids)
        cached = int(len(prompt) * self._share) if known else 0
        said = CALL if sampling.grammar else "Paris."
        yield TokenEvent((1,), said, FinishReason.STOP, cached)


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture(autouse=True)
def _settings_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_a_model_that_answers_and_remembers_is_well() -> None:
    findings = await examine_engine(Remembering("", 0.9))
    assert all(finding.ok for finding in findings)
    found = named(findings)
    assert found["generation"].text == "What is the capital of France? -> 'Paris.'"
    assert "prompt tokens came from the cache" in found["prefix cache"].text


async def test_what_the_chat_template_makes_of_a_question_is_one_line() -> None:
    template = named(await examine_engine(ScriptedEngine()))["chat template"]
    assert template.ok
    assert r"user\nWhat is the capital of France?" in template.text
    assert "\n" not in template.text


async def test_a_call_that_was_forced_is_shown_with_its_input() -> None:
    call = named(await examine_engine(Remembering("", 0.9)))["tool call"]
    assert call.text == 'get_weather({"city": "Paris"}) (dialect hermes)'


async def test_a_call_that_does_not_come_is_a_finding() -> None:
    call = named(await examine_engine(ScriptedEngine("No.")))["tool call"]
    assert not call.ok
    assert "the model had to make one (dialect hermes), and its answer is" in call.text


async def test_a_template_that_refuses_tools_is_a_finding() -> None:
    engine = Remembering("", 0.9)
    engine.tokenizer = Choosy("tools")
    call = named(await examine_engine(engine))["tool call"]
    assert not call.ok
    assert "no tools; clients that send tools will get a 400" in call.text


async def test_it_is_said_whether_the_model_thinks() -> None:
    thinks = named(await examine_engine(ScriptedEngine()))["thinking"]
    assert thinks.text == "this model thinks when it is asked to, up to </think>"
    plain = named(await examine_engine(ScriptedEngine(dialect=PlainDialect())))["thinking"]
    assert plain.text == "this model does not think before it answers"


async def test_a_cache_that_forgets_is_a_finding() -> None:
    cache = named(await examine_engine(Remembering("", 0.1)))["prefix cache"]
    assert not cache.ok
    assert "read again and again" in cache.text


async def test_a_template_that_refuses_a_system_prompt_is_a_finding() -> None:
    engine = Remembering("", 0.9)
    engine.tokenizer = Choosy("system")
    found = named(await examine_engine(engine))
    assert not found["system prompt"].ok
    assert "no system; clients that send one will get a 400" in found["system prompt"].text
    assert found["generation"].ok
    assert found["prefix cache"].ok


async def test_a_template_that_refuses_a_question_is_a_finding() -> None:
    engine = ScriptedEngine()
    engine.tokenizer = Choosy("user")
    *_, last = await examine_engine(engine)
    assert (last.ok, last.name) == (False, "chat template")


async def test_an_answer_of_nothing_is_a_finding() -> None:
    assert not named(await examine_engine(ScriptedEngine(" "), recites=True))["generation"].ok


def test_the_scripted_engine_is_well_and_has_no_cache(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "scripted", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "prefix cache   this engine has none" in said
    assert "tool call      this engine recites and calls nothing" in said
    assert said.endswith("all is well\n")


def test_a_window_that_is_too_small_to_ask_is_a_finding(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--engine", "scripted", "--device", "cpu", "--window", "50"]) == 1
    said = capsys.readouterr().out
    assert "! generation     not tried: the window holds 50 tokens and the question needs" in said
    assert said.endswith("something is off: see the lines marked with !\n")


def test_the_help_is_the_doctors_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Open the engine that `senryu serve` would open, ask it something" in said
    assert "--window" in said
    for other in ("--port", "--host", "--api-key", "--print-config", "--max-streams"):
        assert other not in said


def test_a_wrong_setting_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--window", "0"]) == 2
    assert capsys.readouterr().err == "senryu doctor: window: 0 must be greater than 0\n"


def test_a_reader_that_leaves_early_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "doctor", "--engine", "scripted"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()  # before its first line: importing takes longer
        said = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert said == ""
