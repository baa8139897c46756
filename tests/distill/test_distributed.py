"""Two processes under torchrun learn what one learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lessons import Recorder, short, some, tiny_student

from senryu.distill import curve, distributed
from senryu.distill.errors import DistillError
from senryu.distill.train import train


def test_alone_it_is_nothing_special() -> None:
    with distributed.joined() as ranks:
        assert ranks.first
        assert ranks.world == 1
        assert distributed.put(torch.ones(2), torch.zeros(2)).tolist() == [1.0, 1.0]
        assert ranks.added(torch.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
def test_long_gradients_are_shortened(limit: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 3.0)
    assert distributed.clip([weight], limit) == 6.0
    assert weight.grad.norm().item() == pytest.approx(0.5 if limit == 0.5 else 6.0, abs=1e-4)


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """The same losses and weights but for rounding; broken off, the two go on from where they
    were; and too few rows for them are refused in one sentence."""
    model = tiny_student()
    recipe = short(ema=0.5)
    train(model, some(), recipe, tmp_path / "one", progress=Recorder())
    script = Path(__file__).with_name("two_trainers.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    told = subprocess.run(
        [*torchrun, "--standalone", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1] / "judges"),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert told.returncode == 0, told.stderr[-3000:]
    result = json.loads(told.stdout.splitlines()[-1])
    assert "too few for 2 processes" in result["refused"]
    assert result["resumed_from"] == 3
    losses = [[each.loss for each in curve.read(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    weights = torch.load(tmp_path / "two.pt", weights_only=True)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), atol=2e-4, rtol=1e-3)


def test_more_processes_than_gpus_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(distributed, "detect", lambda: type("Gpu", (), {"kind": "gpu"})())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DistillError, match="--nproc-per-node"), distributed.joined():
        pass
