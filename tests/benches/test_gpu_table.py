"""The command for the GPU: what it would run, and the table that it makes of records."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from senryu.benches import gpu_table
from senryu.benches.gpu_table import rows, table

SCRIPT = Path(__file__).parents[2] / "benches" / "gpu_table.sh"


def printed(**environment: str) -> list[str]:
    """What it would run. It has not run on a GPU from here: this is all that can be tested."""
    done = subprocess.run(
        ["bash", str(SCRIPT), "--print"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return [line[2:] for line in done.stderr.splitlines() if line.startswith("+ ")]


def test_every_model_is_made_and_measured_and_the_large_ones_are_removed() -> None:
    commands = printed()
    measured = [line for line in commands if "senryu.benches.beside" in line]
    assert len(measured) == 6
    assert all("--servers senryu,vllm --concurrency 1,8,64,256" in line for line in measured)
    assert sum("senryu.quant embedded" in line for line in commands) == 2
    assert sum("senryu.benches.shapes" in line for line in commands) == 4
    assert sum(line.startswith("rm -r ") for line in commands) == 4
    assert "senryu.benches.gpu_table" in commands[-1]


def test_models_and_levels_can_be_fewer() -> None:
    commands = printed(MODELS="8b-w4a16", STREAMS="1", SERVERS="senryu", PYTHON="python3")
    (measured,) = [line for line in commands if "senryu.benches.beside" in line]
    assert measured.startswith("python3 ")
    assert "8b-w4a16" in measured
    assert "--servers senryu --concurrency 1 " in measured


def turn(name: str, seconds: float, level: int = 8) -> dict[str, Any]:
    return {
        "name": name,
        "round": 1,
        "concurrency": level,
        "requests": 8,
        "failed": 0,
        "tokens": 1000,
        "seconds": seconds,
        "ttft": 0.02,
        "cpu_seconds": 0.03,
        "gpu_mib": 2048,
        "tokens_per_second": 1000 / seconds,
        "cpu_us_per_token": 30,
    }


RECORD = {
    "turns": [turn("senryu", 2.0), turn("vllm", 3.0), turn("vllm", 3.0, 64)],
    "limits": {"weights": 4e9, "kv_per_token": 125_000, "contexts": {"8": 1000, "64": 1000}},
}


def test_a_row_is_ours_beside_the_ceiling_and_beside_vllms() -> None:
    (row,) = rows("8b", RECORD, 500e9)  # of 64 streams there is none of ours
    assert row["tokens_per_second"] == 500
    # A step reads 4 GB of weights and 8 x 1,000 x 125,000 bytes of KV: 10 ms for 8 tokens.
    assert row["percent_of_roofline"] == pytest.approx(62.5)
    assert row["over_vllm"] == pytest.approx(1.5)
    assert "| 8b | 8 | 500 | 62 % | 20 ms | 30 | 1.50 | 2 GiB | 4,000 MB |" in table([row])


def test_the_last_record_of_each_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "2026-01-01-beside.json").write_text("{}")
    (tmp_path / "one" / "2026-01-02-beside.json").write_text(json.dumps(RECORD))
    monkeypatch.setattr(gpu_table, "bandwidth", lambda kind: 500e9)
    monkeypatch.setattr(sys, "argv", ["gpu_table", str(tmp_path), "one", "two"])
    gpu_table.main()
    said = capsys.readouterr()
    assert "two: there is no record" in said.err
    (row,) = json.loads(said.out.splitlines()[-1])["rows"]
    assert row["streams"] == 8
    assert list(tmp_path.glob("*-gpu-table.json"))
