"""A tiny parent, a 4-bit folder made of it by hand, held-out conversations, and a whole result."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_model import make_tiny_model

from senryu.distill.compare import Figure
from senryu.quant import packing
from senryu.quant.compare.comparison import Comparison, HeldOut, Side
from senryu.quant.compare.measures import Measures, Row, WeightError
from senryu.quant.compare.speed import Rate, Speed
from senryu.quant.compare.spoken import Call, Pair, Said, Speech
from senryu.quant.embedded import prepare
from senryu.quant.grids import Integers, nearest
from senryu.server.manifest import Manifest, record_files

WEIGHTS = "model.safetensors"
LOOK = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {
        "type": "object",
        "properties": {"deep": {"type": "boolean"}},
        "required": ["deep"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A 16-bit folder with a real tokenizer, and the same in 4 bits."""
    root = tmp_path_factory.mktemp("compared")
    parent = make_tiny_model(root / "parent", prepare())
    return parent, quantized(parent, root / "candidate")


def quantized(parent: Path, out: Path) -> Path:
    """Written with the tools of the room, so that no scheme is needed."""
    grid = Integers(symmetric=False, group_size=32)
    scheme = packing.weights_only(grid)
    shutil.copytree(parent, out)
    tensors = load_file(out / WEIGHTS)
    for name in [each for each in tensors if each.endswith("_proj.weight")]:
        packed = packing.pack(nearest(tensors.pop(name), grid), scheme)
        layer = name.removesuffix(".weight")
        tensors |= {f"{layer}.{part}": tensor for part, tensor in packed.items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = packing.config(scheme, ["lm_head"])
    (out / "config.json").write_text(json.dumps(config))
    Manifest(
        model_id="tiny-4-bit",
        display_name="Tiny",
        source="a test",
        licence=None,
        scheme="w4a16",
        group_size=32,
        parameters=None,
        created_at=None,
        files=record_files(out),
        notes=("Rounded to nearest.",),
        calibration={"name": "packaged", "tokens": 5, "kinds": {"tools": 1}},
    ).write(out)
    return out


def line(number: int, *messages: Any, held_out: bool = True) -> str:
    *past, answer = messages
    told = {
        "id": f"c{number}",
        "kind": "tools" if number % 2 else "chat",
        "language": "en",
        "held_out": held_out,
        "conversation": {"tools": [LOOK], "messages": past},
        "answer": answer,
    }
    return json.dumps(told)


def user(*blocks: Any) -> Any:
    content = [{"type": "text", "text": each} if isinstance(each, str) else each for each in blocks]
    return {"role": "user", "content": content}


def calls(number: int, **told: Any) -> Any:
    use = {"type": "tool_use", "id": f"toolu_{number}", "name": "look", "input": told}
    return {"role": "assistant", "content": [use]}


def result(number: int, text: str) -> Any:
    told = [{"type": "text", "text": text}]
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": told}


def says(text: str) -> Any:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three held-out conversations with three calls in all, one of them behind another."""
    file = tmp_path_factory.mktemp("source") / "held-out.jsonl"
    lines = [
        line(0, user("Who wrote the odd haiku of the old mill pond?"), says("Nobody knows.")),
        line(
            1,
            user("Look into the dark well, and then once more."),
            calls(1, deep=True),
            user(result(1, "It is dark.")),
            calls(2, deep=False),
        ),
        line(3, user("Look at the sky."), calls(3, deep=False)),
        line(5, user("Look away."), calls(4, deep=False), held_out=False),
    ]
    file.write_text("\n".join(lines))
    return file


def row(name: str = "all", kl: float = 0.1) -> Row:
    return Row(
        name=name,
        passages=3,
        tokens=1200,
        kl=Figure(kl, kl / 2, kl * 2),
        kl_median=kl / 4,
        kl_p99=kl * 9,
        agreement=Figure(0.9, 0.8, 0.95),
        perplexity=Figure(11.0),
        parent_perplexity=Figure(10.0),
    )


def said(text: str = "", *made: Call, valid: bool = True, called: bool = True) -> Said:
    return Said(text=text, tokens=7, ended=True, called=called, valid=valid, calls=made)


DEEP, FLAT = Call(name="look", input={"deep": True}), Call(name="look", input={"deep": False})
OTHER = Call(name="listen", input={})


def pair(mode: Any, parent: Said, candidate: Said, *recorded: Call, turn: str = "c1#1") -> Pair:
    return Pair(
        id=turn,
        mode=mode,
        language="en",
        asked="Look <there> & here",
        recorded=recorded,
        parent=parent,
        candidate=candidate,
    )


@pytest.fixture
def speech() -> Speech:
    """Of four begun calls three are valid, and then two; of two held ones both keep the tool."""
    return Speech(
        pairs=(
            pair("auto", said("a", DEEP), said("b", called=False, valid=False), DEEP),
            pair("auto", said("a", valid=False), said("b", FLAT), DEEP, turn="c2#1"),
            pair("begun", said("a", DEEP), said("b", valid=False), DEEP),
            pair("begun", said("a", DEEP), said("a", DEEP), DEEP, turn="c2#1"),
            pair("forced", said("a", DEEP), said("b", FLAT), DEEP),
            pair("forced", said("a", OTHER), said("b", OTHER), DEEP, turn="c2#1"),
            pair("json", said("{}"), said("{", valid=False)),
        )
    )


@pytest.fixture
def found(speech: Speech) -> Comparison:
    side = Side(name="tiny", scheme="bf16", bytes=1000, weight_bits=16.0, sha256="ab")
    return Comparison(
        parent=side,
        candidate=Side(
            name="tiny <b>", scheme="w4a16, group 32", bytes=440, weight_bits=4.5, sha256="cd"
        ),
        held_out=HeldOut(
            name="packaged", sha256="ef", kinds={"tools": 3}, languages=("en", "de"), tokens=1203
        ),
        measures=Measures(
            rows=(row(), row("answers"), row("tools", 0.3)),
            layers=(0.01, 0.02),
            weights=tuple(
                WeightError(name=f"model.layers.{at}.self_attn.{own}", error=0.1 + at)
                for at in range(2)
                for own in ("q_proj", "o_proj")
            ),
        ),
        speech=speech,
        speed=Speed(
            parent_load_seconds=10.0,
            candidate_load_seconds=5.0,
            rates=(
                Rate(streams=1, parent=(10.0, 10.0), candidate=(22.0, 24.0)),
                Rate(streams=64, parent=(100.0, 100.0), candidate=(80.0, 100.0)),
            ),
        ),
        calibration={"name": "packaged", "tokens": 16384, "languages": ["en"], "sha256": "01"},
        made=("Rounded by GPTQ & care.",),
        recipe={"tokens": 5},
        machine="2 cores",
        versions={"senryu": "0.1"},
        date="2026-11-22T10:00:00+00:00",
    )
