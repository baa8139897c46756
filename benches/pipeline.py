"""From a teacher to a student that answers: distil, quantize, serve, measure, in one command.

`make pipeline`, or `python -m senryu.benches.pipeline [RECIPE] [--out DIR]`. Every stage is the
command that a person would type; what is done already is not done again. The last line is one JSON
object with the paths and figures of each stage.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from senryu.server.device import detect

from .cpu_defaults import measure

RECIPE = Path("examples/recipes/embedded.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all stages went through, else the status of the one that did not."""
    parser = argparse.ArgumentParser(prog="python -m senryu.benches.pipeline")
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline"))
    arguments = parser.parse_args(argv)
    student, packed = arguments.out / "distill" / "student", arguments.out / "student-w4a16"
    record: dict[str, Any] = {
        "bench": "pipeline",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect(os.environ).summary,
    }
    try:
        record["distill"] = _told(
            "distill", ["distill", str(arguments.recipe), "--out", str(arguments.out / "distill")]
        )
        own = ["--calibration", str(arguments.out / "distill")]  # what the student was taught with
        words = ["quantize", str(student), *own, "--out", str(packed)]
        record["quantize"] = _told("quantize", words) | {
            "bytes": _bytes(packed),
            "bytes_before": _bytes(student),
        }
        record["serve"] = _served(packed)
    except subprocess.CalledProcessError as failure:
        print(f"The stage stopped with status {failure.returncode}.", file=sys.stderr)
        # One that was killed has the negative number of its signal: as a shell says it.
        return failure.returncode if failure.returncode > 0 else 128 - failure.returncode
    except NoResultError as problem:
        print(problem, file=sys.stderr)
        return 1
    except (RuntimeError, httpx.HTTPError) as problem:
        print(f"The student could not be served: {problem}", file=sys.stderr)
        return 1
    record["seconds"] = round(sum(record[each]["seconds"] for each in STAGES), 1)
    print(json.dumps(record))
    return 0


STAGES = ("distill", "quantize", "serve")


class NoResultError(Exception):
    """A stage ended well and did not say what it made; one sentence."""


def _told(stage: str, words: list[str]) -> dict[str, Any]:
    """Run `senryu` with these words; its last line, and the seconds it took."""
    print(f"\n{stage}: senryu {' '.join(words)}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    command = [sys.executable, "-m", "senryu.server", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise NoResultError(
            f"The stage {stage!r} ended without saying what it made: run "
            f"`senryu {' '.join(words)}` by itself to see why."
        )
    last = lines[-1]
    told = json.loads(last) if last.startswith("{") else {"folder": last}
    return {"seconds": round(time.monotonic() - begun, 1), **told}


def _served(folder: Path) -> dict[str, Any]:
    """Start the server on the folder and measure it as a client meets it."""
    print(f"\nserve and measure: senryu serve --model {folder}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    speed = asdict(measure("student", {"SENRYU_MODEL": str(folder)}))
    return {"seconds": round(time.monotonic() - begun, 1), **speed}


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
