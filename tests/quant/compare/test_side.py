"""Of a folder that nobody described, the files that are loaded count."""

from pathlib import Path

from senryu.quant.compare.run import _side
from senryu.server.manifest import describe_folder


def test_the_same_weights_in_another_format_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    before = _side(tmp_path, describe_folder(tmp_path), {})
    for name in ("pytorch_model.bin", "model.gguf", "consolidated.bin", "report.json"):
        (tmp_path / name).write_bytes(b"0" * 100)
    told = _side(tmp_path, describe_folder(tmp_path), {})
    assert told.bytes == before.bytes == 12
    assert told.sha256 == "not recorded"
