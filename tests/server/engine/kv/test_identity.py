"""Kept blocks are known again by the same model in the same engine, and by no other."""

import os
from pathlib import Path

import pytest

from senryu.server.engine.kv.identity import namespace, weights_identity
from senryu.server.manifest import FileRecord, Manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for file in tmp_path.iterdir():
        os.utime(file, (1_000, 1_000))
    return tmp_path


def manifest(digest: str) -> Manifest:
    return Manifest(
        model_id="m",
        display_name="M",
        source="here",
        licence=None,
        scheme="w4a16",
        group_size=32,
        parameters=None,
        created_at=None,
        files={"model.safetensors": FileRecord(size=7, sha256=digest)},
    )


def test_the_same_folder_is_the_same_model(folder: Path) -> None:
    assert weights_identity(folder) == weights_identity(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_was_written_anew_is_another_model(folder: Path, name: str) -> None:
    """Be it as large as the one before."""
    before = weights_identity(folder)
    os.utime(folder / name, (1_000, 1_001))
    assert weights_identity(folder) != before


def test_a_model_that_was_replaced_beside_its_old_manifest_is_another_model(folder: Path) -> None:
    """Nobody reads the weights when the server starts, so nobody would see it by the digests."""
    manifest("a" * 64).write(folder)
    before = weights_identity(folder)
    os.utime(folder / "model.safetensors", (1_000, 2_000))
    assert weights_identity(folder) != before


def test_what_a_manifest_records_tells_models_apart(folder: Path) -> None:
    manifest("a" * 64).write(folder)
    os.utime(folder / "senryu.json", (1_000, 1_000))
    before = weights_identity(folder)
    manifest("b" * 64).write(folder)
    os.utime(folder / "senryu.json", (1_000, 1_000))
    assert weights_identity(folder) != before


def test_a_manifest_that_cannot_be_read_is_no_manifest(folder: Path) -> None:
    (folder / "senryu.json").write_text("[]")
    assert weights_identity(folder)


def test_whatever_changes_how_it_is_computed_changes_the_name() -> None:
    facts = {"dtype": "bfloat16", "block": 32}
    names = {
        namespace("a", facts),
        namespace("b", facts),
        namespace("a", {**facts, "dtype": "float16"}),
        namespace("a", {**facts, "vllm": "0.32.1"}),
    }
    assert len(names) == 4
    assert namespace("a", facts) == namespace("a", dict(reversed(facts.items())))
