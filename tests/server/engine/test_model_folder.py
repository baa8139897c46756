"""A model is found wherever it may lie, and its folder tells the engine what it must know."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senryu.server.engine.base import EngineError
from senryu.server.engine.model_folder import find_model, read_facts
from senryu.server.manifest import Manifest, describe_folder

TOOLS = """{% for tool in tools %}{{ tool | tojson }}{% endfor %}
<tool_call>
{"name": "...", "arguments": {...}}
</tool_call>"""
CONFIG = {
    "max_position_embeddings": 2048,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "dtype": "bfloat16",
}


def model(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    return folder


# --- finding -----------------------------------------------------------------------------------


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "models" / "tiny")
    assert find_model(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert find_model("models/tiny") == Path("models/tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~/models/tiny") == folder


@pytest.mark.parametrize("name", ["/no/such/folder", "tiny", "./models/tiny", "a/b/c", "a b/c", ""])
def test_what_is_no_folder_and_no_hub_id_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"There is no model folder .*: give a folder with"):
        find_model(name)


def test_a_hub_id_without_the_model_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EngineError, match=r"Fetching org/model needs .*senryu\[cpu\]"):
        find_model("org/model")


def test_a_hub_id_is_downloaded_once_into_the_hubs_own_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(repo: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert find_model("Org/Model-1.5_x") == tmp_path
    ((repo, patterns),) = asked
    assert repo == "Org/Model-1.5_x"
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith((".bin", ".gguf", ".pth", "*")) for pattern in patterns[:4])


def test_a_hub_id_that_cannot_be_fetched_is_one_sentence(tmp_path: Path) -> None:
    """With the hub's own switch for being offline, which it reads when it is imported."""
    pytest.importorskip("huggingface_hub")
    code = (
        "from senryu.server.engine.model_folder import find_model\n"
        "from senryu.server.engine.base import EngineError\n"
        "try: find_model('org/model')\n"
        "except EngineError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("The model org/model cannot be fetched (")
    assert line.endswith("): check the id and the network, or give a local folder")


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Another program in place of Python, where the embedded model would be prepared."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_the_embedded_model_lies_where_the_quant_room_says_in_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, 'echo "$@"; echo /models/embedded')
    assert find_model("embedded") == Path("/models/embedded")


@pytest.mark.parametrize("script", ["exit 1", "echo /models/half; exit 1", "true"])
def test_an_embedded_model_that_cannot_be_prepared_is_refused(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, script)
    with pytest.raises(EngineError, match="could not be prepared; the lines above say why"):
        find_model("embedded")


# --- reading -----------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_is_read_off_its_config(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    facts = read_facts(folder, served_name=None, asked=str(folder))
    assert (facts.folder, facts.name, facts.scheme) == (str(folder), "tiny", "bf16")
    assert facts.trained_window == 2048
    assert facts.created_at == "1970-01-01T00:00:00Z"


def test_a_model_that_sees_tells_of_its_text_apart(tmp_path: Path) -> None:
    config = {"vision_config": {}, "text_config": {"max_position_embeddings": 1024}}
    facts = read_facts(model(tmp_path / "seeing", **config), served_name=None, asked="seeing")
    assert facts.trained_window == 1024


def test_a_manifest_knows_better(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    Manifest(
        model_id="senryu/tiny",
        display_name="Tiny",
        source="here",
        licence=None,
        scheme="w4a16",
        group_size=32,
        parameters=None,
        created_at="2026-01-02T03:04:05Z",
    ).write(folder)
    facts = read_facts(folder, served_name=None, asked=str(folder))
    assert (facts.name, facts.scheme) == ("senryu/tiny", "w4a16, group 32")
    assert facts.created_at == "2026-01-02T03:04:05Z"


def test_the_name_is_the_one_that_was_set_or_the_hub_id_or_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path / "org" / "0123abcd")
    assert read_facts(folder, served_name=None, asked="Qwen/Qwen3-4B").name == "Qwen/Qwen3-4B"
    assert read_facts(folder, served_name="mine", asked="Qwen/Qwen3-4B").name == "mine"
    monkeypatch.chdir(tmp_path)
    assert read_facts(folder, served_name=None, asked="org/0123abcd").name == "0123abcd"


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"is not a model folder, it has no config\.json"):
        read_facts(tmp_path, served_name=None, asked=str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "\ud800"])
def test_a_damaged_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(EngineError, match=r"config\.json"):
        read_facts(tmp_path, served_name=None, asked=str(tmp_path))


def test_a_home_that_nobody_has_is_a_sentence() -> None:
    with pytest.raises(EngineError, match="There is no model folder ~nobody-has-this-name/x"):
        find_model("~nobody-has-this-name/x")


@pytest.mark.parametrize(
    ("files", "asked", "dialect", "why"),
    [
        ({}, None, "plain", "its chat template knows no tools"),
        ({"chat_template.jinja": TOOLS}, None, "hermes", "its chat template writes"),
        ({"tokenizer_config.json": json.dumps({"chat_template": TOOLS})}, None, "hermes", "its"),
        (
            {"tokenizer_config.json": json.dumps({"chat_template": [{"template": TOOLS}]})},
            None,
            "hermes",
            "its",
        ),
        ({"chat_template.jinja": TOOLS}, "llama3", "llama3", "it was asked for"),
    ],
)
def test_a_models_dialect_is_read_off_its_chat_template_unless_asked_for(
    tmp_path: Path, files: dict[str, str], asked: str | None, dialect: str, why: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    facts = read_facts(tmp_path, served_name=None, asked="x", dialect=asked)
    assert facts.dialect.name == dialect
    assert why in facts.dialect_why


def test_a_model_folder_may_name_its_dialect(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    replace(describe_folder(tmp_path), dialect="hermes").write(tmp_path)
    facts = read_facts(tmp_path, served_name=None, asked="x")
    assert (facts.dialect.name, facts.dialect_why) == ("hermes", "the model folder names it")


def test_a_dialect_that_nobody_knows_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="there is no dialect 'klingon': name one of hermes"):
        read_facts(tmp_path, served_name=None, asked="x", dialect="klingon")
