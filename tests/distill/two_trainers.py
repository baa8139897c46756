"""What test_distributed.py runs under torchrun: a training that breaks off and goes on."""

import contextlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from lessons import Recorder, short, some, tiny_student

from senryu.distill.curve import Point
from senryu.distill.errors import DistillError
from senryu.distill.train import train


class Stop(Exception):
    pass


def stop(point: Point) -> None:
    if point.step == 4:
        raise Stop


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    refused = ""
    try:
        train(tiny_student(), some(), short(batch_tokens=32), folder / "no", progress=Recorder())
    except DistillError as problem:
        refused = str(problem)
    model = tiny_student()
    recipe = short(ema=0.5)
    with contextlib.suppress(Stop):
        train(model, some(), recipe, folder / "two", progress=Recorder(), on_step=stop)
    told = train(model, some(), recipe, folder / "two", progress=Recorder())
    if dist.get_rank() == 0:
        torch.save(model.state_dict(), folder / "two.pt")
        print(json.dumps({"refused": refused, "resumed_from": told.resumed_from}))
    dist.destroy_process_group()


main(Path(sys.argv[1]))
