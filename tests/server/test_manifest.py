"""Promises of `server/manifest.py`: a model folder tells what it is, or that it is damaged."""

import dataclasses
import json
from pathlib import Path

import pytest

from senryu.server.manifest import (
    MANIFEST_NAME,
    FileRecord,
    Manifest,
    cache_folder,
    describe_folder,
    record_files,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A finished model folder with two small files and a manifest."""
    (tmp_path / "config.json").write_text('{"dtype": "bfloat16"}')
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 100)
    manifest_of(tmp_path).write(tmp_path)
    return tmp_path


def manifest_of(folder: Path) -> Manifest:
    return Manifest(
        model_id="senryu/tiny",
        display_name="Tiny · ちいさい",
        source="made on the spot",
        licence="Apache-2.0",
        scheme="w4a16",
        group_size=32,
        parameters=700,
        created_at="2026-11-22T00:00:00+00:00",
        files=record_files(folder),
        recipe_digest="ab" * 32,
        notes=("One sentence.",),
    )


def test_what_was_written_is_read_back_equal(model: Path) -> None:
    assert Manifest.read(model) == manifest_of(model)


def test_a_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None


def test_the_manifest_never_lists_itself(model: Path) -> None:
    assert sorted(record_files(model)) == ["config.json", "model.safetensors"]


def test_writing_leaves_no_partial_file_behind(model: Path) -> None:
    assert sorted(each.name for each in model.iterdir()) == [
        "config.json",
        "model.safetensors",
        MANIFEST_NAME,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"format": 1}',
        '{"format": 99}',
        '{"format": 1, "model_id": 3, "display_name": "", "source": "", "scheme": ""}',
        '{"format": 1, "model_id": "", "display_name": "", "source": "", "scheme": "",'
        ' "files": {"a": {"size": 1}}}',
        '{"format": 1, "model_id": "", "display_name": "", "source": "", "scheme": "", "files": 7}',
    ],
)
def test_a_damaged_manifest_is_one_sentence_that_names_it(model: Path, text: str) -> None:
    (model / MANIFEST_NAME).write_text(text)
    with pytest.raises(ValueError, match=r"is damaged .*: delete the folder") as raised:
        Manifest.read(model)
    assert str(model / MANIFEST_NAME) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_damage_too(model: Path) -> None:
    (model / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is damaged"):
        Manifest.read(model)


def test_facts_that_a_later_senryu_adds_are_passed_over(model: Path) -> None:
    data = json.loads((model / MANIFEST_NAME).read_text())
    (model / MANIFEST_NAME).write_text(json.dumps({**data, "smell": "roses"}))
    assert Manifest.read(model) == manifest_of(model)


def test_a_whole_folder_verifies(model: Path) -> None:
    manifest_of(model).verify(model)


def test_a_shortened_file_is_named_even_without_hashing(model: Path) -> None:
    manifest = manifest_of(model)
    (model / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged \(7 bytes instead of 700"):
        manifest.verify(model, hashes=False)


def test_a_changed_byte_is_found_by_hashing(model: Path) -> None:
    manifest = manifest_of(model)
    (model / "model.safetensors").write_bytes(b"Weights" + b"weights" * 99)
    manifest.verify(model, hashes=False)
    with pytest.raises(ValueError, match="SHA-256 is not the recorded one"):
        manifest.verify(model)


def test_a_missing_file_is_named(model: Path) -> None:
    manifest = manifest_of(model)
    (model / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing: delete the folder"):
        manifest.verify(model, hashes=False)


def test_describing_a_folder_with_a_manifest_gives_the_manifest(model: Path) -> None:
    assert describe_folder(model) == manifest_of(model)


def compressed(weights: dict[str, object], layout: str, inputs: object = None) -> dict[str, object]:
    group = {"weights": weights, "input_activations": inputs, "format": layout}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("config", "scheme", "group_size"),
    [
        ({"dtype": "bfloat16"}, "bf16", None),
        ({"torch_dtype": "float16"}, "fp16", None),
        ({"text_config": {"torch_dtype": "float32"}}, "fp32", None),
        ({}, "unknown", None),
        (
            {"q": compressed({"num_bits": 4, "type": "int", "group_size": 32}, "pack-quantized")},
            "w4a16",
            32,
        ),
        (
            {"q": compressed({"num_bits": 8, "type": "int"}, "int-quantized", {"num_bits": 8})},
            "w8a8",
            None,
        ),
        (
            {"q": compressed({"num_bits": 8, "type": "float"}, "float", {"num_bits": 8})},
            "fp8",
            None,
        ),
        (
            {
                "q": compressed(
                    {"num_bits": 4, "type": "float", "group_size": 16},
                    "nvfp4-pack-quantized",
                    {"num_bits": 4},
                )
            },
            "nvfp4",
            16,
        ),
        (
            {
                "q": compressed(
                    {"num_bits": 4, "type": "float", "group_size": 32}, "mxfp4-pack-quantized"
                )
            },
            "mxfp4a16",
            32,
        ),
        ({"q": {"quant_method": "compressed-tensors"}}, "compressed-tensors", None),
        ({"q": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "gptq-int4", 128),
        ({"q": {"quant_method": "gptq", "bits": 8, "group_size": -1}}, "gptq-int8", None),
        ({"q": {"quant_method": "awq", "bits": 4, "group_size": 64}}, "awq-int4", 64),
        (
            {
                "q": {
                    "quant_method": "bitsandbytes",
                    "load_in_4bit": True,
                    "bnb_4bit_quant_type": "nf4",
                }
            },
            "nf4",
            None,
        ),
        ({"q": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "int8", None),
        ({"q": {"quant_method": "fp8"}}, "fp8", None),
        ({"q": {"quant_method": "mxfp4"}}, "mxfp4", None),
        (
            {"q": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}},
            "nvfp4",
            16,
        ),
    ],
)
def test_a_folder_that_somebody_else_made_is_described_by_its_config(
    tmp_path: Path, config: dict[str, object], scheme: str, group_size: int | None
) -> None:
    if "q" in config:
        config = {"dtype": "bfloat16", "quantization_config": config["q"]}
    folder = tmp_path / "Their-Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    told = describe_folder(folder)
    assert (told.scheme, told.group_size) == (scheme, group_size)
    assert (told.model_id, told.source, dict(told.files)) == ("Their-Model", "local folder", {})


def test_a_folder_without_config_is_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a model folder, it has no config\.json"):
        describe_folder(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\ud800"])
def test_an_unreadable_config_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"config\.json .*copy the model into the folder again"):
        describe_folder(tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/someone")
    monkeypatch.delenv("SENRYU_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/srv/someone/.cache/senryu")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache_folder() == Path("/fast/senryu")
    monkeypatch.setenv("SENRYU_CACHE", "~/models")
    assert cache_folder() == Path("/srv/someone/models")


def test_a_manifest_cannot_be_changed_by_accident(model: Path) -> None:
    manifest = manifest_of(model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.scheme = "bf16"  # type: ignore[misc]
    assert FileRecord(size=1, sha256="a") == FileRecord(size=1, sha256="a")
