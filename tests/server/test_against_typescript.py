"""The official TypeScript client gets what the Python one gets.

It is installed once for the run into a temporary folder, from the registry that npm is set up with
(or its cache). Where node or npm is missing these tests are skipped.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from senryu.server.engine.scripted import POEM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("node") and shutil.which("npm")),
        reason="the TypeScript client needs node and npm, which are not on the PATH",
    ),
]

HERE = Path(__file__).with_name("typescript")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
THOUGHT = "They ask for Paris."

# What the client handed over for a story, when the model says the scripts one after the other.
Told = Callable[..., Any]


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, beside an installed client."""
    folder = tmp_path_factory.mktemp("typescript")
    for name in ("package.json", "judge.mjs"):
        shutil.copy(HERE / name, folder)
    command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "judge.mjs"


@pytest.fixture
def told(judge: Path, serve: Any, talking_engine: Any) -> Told:
    def told(story: str, *scripts: str, engine: Any = None, **settings: Any) -> Any:
        server = serve(engine or talking_engine(*scripts), **settings)
        command = ["node", str(judge), server.url, story]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return told


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers differ in nothing but their ids and seals, which are made anew."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            made = ("id", "signature", "parsed_output", "_request_id")
            return {key: bare(held) for key, held in value.items() if key not in made}
        return [bare(held) for held in value] if isinstance(value, list) else value

    return bool(bare(one) == bare(other))


def test_text_is_the_same_streamed_or_not(told: Told) -> None:
    answer = told("text", POEM)
    assert same(answer["plain"], answer["streamed"])
    assert answer["heard"]["text"] == answer["plain"]["content"][0]["text"] == POEM


def test_calls_are_the_same_streamed_or_not(told: Told) -> None:
    answer = told("tools", f"Let me look.\n{CALL}\n{CALL}")
    assert same(answer["plain"], answer["streamed"])
    said, *calls = answer["streamed"]["content"]
    assert said["text"].strip() == "Let me look."
    assert [(call["name"], call["input"]) for call in calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Paris"}),
    ]
    assert answer["streamed"]["stop_reason"] == "tool_use"
    assert answer["heard"]["inputJson"].count("Paris") == 2


def test_thoughts_are_the_same_streamed_or_not(told: Told) -> None:
    answer = told("thinking", f"{THOUGHT}\n</think>\n\nIt is sunny.")
    assert same(answer["plain"], answer["streamed"])
    thought, text = answer["streamed"]["content"]
    assert thought["thinking"] == answer["heard"]["thinking"]
    assert thought["thinking"].strip() == THOUGHT
    assert thought["signature"] == answer["heard"]["signature"] != ""
    assert text["text"] == "It is sunny."


def test_the_parse_helper_reads_the_shape(told: Told) -> None:
    assert told("parse", '{"city": "Paris", "degrees": 21}') == {"city": "Paris", "degrees": 21}


def test_the_tool_runner_runs_to_the_end(told: Told) -> None:
    answer = told("runner", CALL, "It is sunny.", CALL, "It is sunny.")
    assert answer["last"]["content"][0]["text"] == "It is sunny."
    assert answer["ran"] == ["Paris", "Paris"]
    assert answer["streamed"] == ["tool_use", "end_turn"]


def test_a_count_is_the_usage_of_the_same_request(told: Told) -> None:
    answer = told("count", POEM)
    assert answer["counted"]["input_tokens"] == answer["usage"]["input_tokens"]


def test_models_are_listed_and_found(told: Told) -> None:
    assert told("models", POEM) == {"listed": ["scripted"], "found": "scripted"}


def test_errors_are_the_clients_classes(told: Told) -> None:
    answer = told("errors", POEM, api_key="local")
    classes = {name: (error["class"], error["status"]) for name, error in answer.items()}
    assert classes == {
        "invalid": ("BadRequestError", 400),
        "unknown": ("NotFoundError", 404),
        "thread": ("ThreadUnsupportedRequestError", 400),
        "streamed": ("NotFoundError", 404),
        "stranger": ("AuthenticationError", 401),
    }
    assert all(error["requestID"].startswith("req_") for error in answer.values())
    assert answer["invalid"]["type"] == "invalid_request_error"
    assert "model: nope" in answer["unknown"]["message"]


def test_an_engine_that_breaks_in_a_stream_is_an_error(told: Told, breaking_engine: Any) -> None:
    error = told("broken", engine=breaking_engine(POEM, before=2))
    assert error["class"] == "APIError"
    assert "try it again" in error["message"]
