"""What is lost at 4 bits here, and in the libraries that others use: the same parent, the same
tokens.

`python -m senryu.benches.against_quantizers [--parent FOLDER] [--qad FOLDER] [--only NAME ...]`
rounds one 16-bit folder with each quantizer, one after the other, each in a process of its own.
AutoRound and llm-compressor come in environments that are made below `--environments` the first
time (each some gigabyte): the latter pins what vLLM cannot use. Only files cross: the calibration
rows, the parent, and the folders that come out. What these stand for is measured here, on held-out
text, by the means of `senryu compare`. A folder given with `--qad` was trained on its own, on more
tokens than the others read: it is only measured here. A table for people, the last line JSON for
machines. Run it on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from senryu.benches.environments import python_with
from senryu.quant.errors import QuantizeError
from senryu.server.device import detect
from senryu.server.manifest import cache_folder

PROGRAMS = Path(__file__).parent / "quantizers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """A program that is asked for one folder."""

    program: str
    packages: tuple[str, ...] = ()
    """What its environment is made of; none: it runs in ours."""
    rounding: str = ""


QUANTIZERS = {
    "rtn": Quantizer(program="with_senryu.py", rounding="nearest"),
    "gptq": Quantizer(program="with_senryu.py", rounding="gptq"),
    "autoround": Quantizer(
        program="with_autoround.py",
        packages=("auto-round==0.16.1", "compressed-tensors==0.17.0"),
    ),
    "llm-compressor": Quantizer(
        program="with_llmcompressor.py", packages=("llmcompressor==0.14.0.1",)
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    parent = arguments.parent or _embedded()
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        rows, passages, record = _tokens(arguments, parent, Path(scratch))
        folders: dict[str, Path] = {}
        costs: dict[str, dict[str, Any]] = {}
        for name in arguments.only:
            folder = Path(scratch) / name
            asked = {
                "parent": str(parent.absolute()),
                "rows": str(rows),
                "out": str(folder),
                "group": arguments.group,
                "symmetric": arguments.symmetric,
                "iterations": arguments.iterations,
                "rounding": QUANTIZERS[name].rounding,
            }
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                costs[name] = _apart(QUANTIZERS[name], asked, arguments.environments / name)
            except (OSError, ValueError, subprocess.CalledProcessError) as problem:
                print(f"{name} gave no folder ({problem}); its lines above say why.")
                failed[name] = str(problem)
                continue
            folders[name] = folder
        if arguments.qad:
            folders["qad"] = arguments.qad
        results = {}
        for name, told in _losses(parent, folders, passages):
            if isinstance(told, QuantizeError):
                print(f"{name} gave a folder that cannot be measured: {told}")
                failed[name] = str(told)
            else:
                results[name] = {**told, **costs.get(name, {})}
    for line in _table(results):
        print(line)
    record |= {
        "group": arguments.group,
        "symmetric": arguments.symmetric,
        "iterations": arguments.iterations,
        "results": results,
        "failed": failed,
    }
    print(json.dumps(record))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m senryu.benches.against_quantizers")
    parser.add_argument("--parent", type=Path, help="a 16-bit folder; the embedded model's if none")
    parser.add_argument("--qad", type=Path, help="the folder of a `senryu quantize` with QAD")
    parser.add_argument("--only", nargs="+", choices=QUANTIZERS, default=list(QUANTIZERS))
    parser.add_argument("--calibration", type=Path, help="as `senryu quantize` takes it")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=8_192, help="tokens that are measured on")
    parser.add_argument("--group", type=int, choices=(32, 64, 128), default=32)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--iterations", type=int, default=200, help="AutoRound's steps a layer")
    parser.add_argument(
        "--environments", type=Path, default=cache_folder() / "benches" / "environments"
    )
    return parser


def _embedded() -> Path:
    from senryu.quant.embedded import prepare

    return prepare(scheme="bf16")


def _tokens(
    arguments: argparse.Namespace, parent: Path, scratch: Path
) -> tuple[Path, list[Any], dict[str, Any]]:
    """The file of calibration rows, the held-out passages, and what the record says of both."""
    import numpy as np
    import torch

    from senryu.quant.calibration import packed, read_calibration
    from senryu.quant.compare.measures import Passage

    source, length = arguments.calibration, arguments.length
    shown = read_calibration(source, parent, tokens=arguments.tokens, length=length)
    judged = read_calibration(
        source, parent, tokens=arguments.held_out, length=length, held_out=True
    )
    rows = scratch / "rows.npy"
    np.save(rows, packed(shown.sequences, length).numpy())
    passages = [
        Passage(
            id=str(number),
            kind="held out",
            token_ids=ids,
            answer=torch.zeros(len(ids), dtype=torch.bool),
        )
        for number, ids in enumerate(judged.sequences)
    ]
    record = {
        "bench": "against_quantizers",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect(os.environ).summary,
        "versions": _versions(),
        "parent": parent.resolve().name,
        "calibration": shown.record(),
        "held_out": judged.record(),
    }
    return rows, passages, record


def _versions() -> dict[str, str]:
    """Of what measures; each result has those of what made it."""
    named = ("torch", "transformers", "compressed-tensors")
    return {name: metadata.version(name) for name in named}


def _apart(quantizer: Quantizer, asked: Mapping[str, Any], environment: Path) -> dict[str, Any]:
    """Have one program fill `asked["out"]`, in a process of its own: its seconds, memory and
    versions. Raises ValueError, OSError or CalledProcessError."""
    python = Path(sys.executable)
    if quantizer.packages:
        python = python_with(quantizer.packages, environment)
    done = subprocess.run(
        [str(python), str(PROGRAMS / quantizer.program), json.dumps(asked)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # all that it needs lies in the parent's folder
    )
    return _told(done.stdout)


def _told(said: str) -> dict[str, Any]:
    """The last line that is a program's own: libraries print what they like, at their end too."""
    for line in reversed(said.splitlines()):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and {"seconds", "peak_bytes", "versions"} <= told.keys():
            return told
    raise ValueError("it did not say what it cost")


def _losses(
    parent: Path, folders: Mapping[str, Path], passages: Sequence[Any]
) -> Iterator[tuple[str, dict[str, Any] | QuantizeError]]:
    """What each folder's weights lost against the parent, or why that cannot be told."""
    from dataclasses import asdict

    from senryu.quant.compare.measures import measure
    from senryu.quant.restore import restore

    whole = restore(parent)
    for name, folder in folders.items():
        try:
            row = measure(whole, restore(folder), passages).all
        except QuantizeError as problem:
            yield name, problem
            continue
        yield (
            name,
            {
                "kl": asdict(row.kl),
                "agreement": asdict(row.agreement),
                "perplexity_ratio": row.perplexity_ratio,
                "tokens": row.tokens,
            },
        )


def _table(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| quantizer | KL to the parent, nats | same first token | minutes | host memory |"
    yield "| --- | --- | --- | --- | --- |"
    for name, told in results.items():
        kl = _with_bounds(told["kl"], "{:.4f}")
        agreed = _with_bounds(told["agreement"], "{:.1%}")
        minutes = f"{told['seconds'] / 60:.1f}" if "seconds" in told else "-"
        peak = f"{told['peak_bytes'] / 2**30:.2f} GiB" if "peak_bytes" in told else "-"
        yield f"| {name} | {kl} | {agreed} | {minutes} | {peak} |"


def _with_bounds(figure: Mapping[str, float | None], form: str) -> str:
    value, low, high = (figure[each] for each in ("value", "low", "high"))
    if low is None or high is None:
        return form.format(value)
    return f"{form.format(value)} ({form.format(low)} to {form.format(high)})"


if __name__ == "__main__":
    sys.exit(main())
