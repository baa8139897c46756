"""The quant room's front door: `senryu quantize` and `python -m senryu.quant`.

Comes in: words from the command line. Goes out: an exit status, results on stdout and progress on
stderr. It refuses to know how anything is done; the doors to torch open when work begins.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare.recipe import CompareRecipe
    from .progress import Progress
    from .recipe import QuantizeRecipe

_EPILOG = """\
schemes:
{schemes}
  bf16      16 bits, of the embedded model only

Work that was stopped goes on where it was when the same command is given again. A recipe holds
everything that the options say and more: docs/quantizing.md.
"""


def main(argv: list[str]) -> int:
    """0 when done, 1 when the model or the machine stood in the way, 2 when the words were wrong,
    3 when the gate stayed shut."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv or ["--help"])
        _refuse(parser, arguments)
    except SystemExit as leave:  # argparse has said why
        return leave.code if isinstance(leave.code, int) else 2
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("Stopped. Run the command again, and it goes on where it was.", file=sys.stderr)
        return 130
    except RuntimeError as problem:
        kind = type(problem).__name__
        if kind == "OutOfMemoryError":
            problem = RuntimeError(
                "The GPU's memory does not hold this: quantize on the CPU, with SENRYU_DEVICE=cpu "
                "and an empty CUDA_VISIBLE_DEVICES, or leave qad and budgets out."
            )
        elif kind not in ("PreparationError", "QuantizeError"):
            raise
        print(problem, file=sys.stderr)
        return 1
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        print(
            f"The system stood in the way ({where}{problem.strerror or type(problem).__name__}): "
            "make room or name another folder, and run the command again.",
            file=sys.stderr,
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    from .schemes import SCHEMES

    schemes = "\n".join(f"  {name:<9} {says}" for name, (_, says, *_) in SCHEMES.items())
    parser = argparse.ArgumentParser(
        prog="senryu quantize",
        description="Make a model folder smaller, and say what was lost.",
        epilog=_EPILOG.format(schemes=schemes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model folder in 16 bits, a hub id, or `embedded`: the model in the package",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the result goes")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="a TOML file")
    how = parser.add_argument_group("what becomes of the weights")
    how.add_argument("--scheme", choices=[*SCHEMES, "bf16"], help="default: w4a16")
    how.add_argument("--group-size", type=int, metavar="N", help="weights that share a scale")
    how.add_argument("--symmetric", action="store_true", default=None, help="no zero points")
    how.add_argument("--rounding", choices=("gptq", "nearest"), help="default: gptq")
    how.add_argument("--scaling", choices=("none", "awq"), help="default: none")
    how.add_argument("--kv-cache", choices=("auto", "fp8"), help="measure scales of the cache too")
    how.add_argument(
        "--calibration", metavar="SOURCE", help="samples of `senryu distill`, or a JSONL file"
    )
    how.add_argument("--calibration-tokens", type=int, metavar="N", help="default: 16384")
    how.add_argument(
        "--size-budget", type=float, metavar="SHARE", help="keep layers in 16 bits while they fit"
    )
    how.add_argument(
        "--kl-budget", type=float, metavar="NATS", help="keep as few as stay this close to bf16"
    )
    how.add_argument(
        "--qad",
        type=int,
        nargs="?",
        const=200_000,
        metavar="TOKENS",
        help="then distil through the quantizer; so many tokens, or 200000",
    )
    how.add_argument(
        "--samples",
        action="append",
        metavar="SOURCE",
        help="what qad trains on besides the calibration set; may be given more than once",
    )
    judged = parser.add_argument_group("what was lost")
    judged.add_argument(
        "--compare", action="store_true", help="measure it and write report.html into the folder"
    )
    judged.add_argument(
        "--gate", action="store_true", help="and say in the folder whether it may be served"
    )
    return parser


_FLAGS = {
    "scheme": ("scheme", "name"),
    "group_size": ("scheme", "group_size"),
    "symmetric": ("scheme", "symmetric"),
    "rounding": ("scheme", "rounding"),
    "scaling": ("scheme", "scaling"),
    "kv_cache": ("scheme", "kv_cache"),
    "calibration": ("calibration", "source"),
    "calibration_tokens": ("calibration", "tokens"),
    "size_budget": ("mixed", "size_budget"),
    "kl_budget": ("mixed", "kl_budget"),
    "qad": ("qad", "tokens"),
    "samples": ("qad", "samples"),
}
"""What a flag changes in the recipe."""


def _refuse(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    told = [getattr(arguments, flag) for flag in _FLAGS if flag != "scheme"]
    plain = all(value is None for value in told)
    plain = plain and not (arguments.recipe or arguments.compare or arguments.gate)
    if arguments.model != "embedded" and arguments.scheme == "bf16":
        parser.error("a folder in bf16 stays as it is: choose a scheme with fewer bits")
    if arguments.out is None and not (arguments.model == "embedded" and plain):
        parser.error("give --out DIR, the folder to write")
    if arguments.out is None and arguments.scheme not in (None, "w4a16", "bf16"):
        parser.error("give --out DIR, the folder to write")
    if arguments.out is not None and arguments.scheme == "bf16":
        parser.error("the embedded model in bf16 has its own place: leave --out away")


def _run(arguments: argparse.Namespace) -> int:
    from .progress import Bar

    with Bar() as progress:
        if arguments.out is None:
            from .embedded import prepare

            print(prepare(scheme=arguments.scheme or "w4a16", progress=progress))
            return 0
        from .folder import quantize_folder

        recipe = _recipe(arguments)
        judged = _judged(arguments)
        _say_where(recipe, progress)
        source = _source(arguments.model, progress)
        name = None if Path(arguments.model).expanduser().is_dir() else arguments.model
        made = quantize_folder(source, arguments.out, recipe, name=name, progress=progress)
        if judged is not None:
            from .judging import judge

            return judge(source, made, recipe, judged, arguments.gate, progress)
    print(made)
    return 0


def _say_where(recipe: QuantizeRecipe, progress: Progress) -> None:
    """Before hours of work: whether the result will run here. It may be meant for elsewhere."""
    from .folder import scheme_of
    from .machine import this_machine

    scheme, machine = scheme_of(recipe), this_machine()
    if machine is not None and machine not in scheme.runs_on:
        here = "this CPU" if machine == "cpu" else f"this GPU ({machine})"
        progress.say(
            f"vLLM has no kernel for {scheme.name} on {here}: serve the result on "
            f"{' or '.join(scheme.runs_on)}, or quantize to w4a16."
        )


def _judged(arguments: argparse.Namespace) -> CompareRecipe | None:
    """How the result will be measured, read before hours of work."""
    if not (arguments.compare or arguments.gate):
        return None
    from .compare.recipe import CompareRecipe, read_recipe

    return read_recipe(arguments.recipe) if arguments.recipe else CompareRecipe()


def _source(model: str, progress: Any) -> Path:
    """The 16-bit folder that the words mean. Raises QuantizeError."""
    from .errors import QuantizeError

    if model == "embedded":
        from .embedded import prepare

        return prepare(scheme="bf16", progress=progress)
    from senryu.server.engine.base import EngineError
    from senryu.server.engine.model_folder import find_model

    try:
        return find_model(model)
    except EngineError as problem:
        raise QuantizeError(f"{problem}.") from problem


def _recipe(arguments: argparse.Namespace) -> QuantizeRecipe:
    """The file's, with what the flags change."""
    from .recipe import QuantizeRecipe, read_recipe

    recipe = read_recipe(arguments.recipe) if arguments.recipe else QuantizeRecipe()
    for flag, (table, key) in _FLAGS.items():
        value = getattr(arguments, flag)
        if value is not None:
            value = tuple(value) if isinstance(value, list) else value
            part = replace(getattr(recipe, table), **{key: value})
            recipe = replace(recipe, **{table: part})
    return recipe
