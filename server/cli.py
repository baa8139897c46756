"""The front door: the `senryu` command. Verbs lead to rooms, which open only when named.

`senryu --help` imports nothing beyond this file and argparse.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from senryu.server import lifeline

# verb -> (module with `main(argv) -> int`, what it does)
VERBS = {
    "serve": ("senryu.server.serve", "answer the Messages API with one local model"),
    "chat": ("senryu.server.chat", "talk to whatever is serving"),
    "keys": ("senryu.server.keys_cli", "make, list and end the keys of several people"),
    "usage": ("senryu.server.usage_cli", "show who used how much, and what it cost"),
    "admin": ("senryu.server.admin_cli", "back up, restore and check what the server keeps"),
    "doctor": ("senryu.server.doctor", "check device, versions, model, a generation and the cache"),
    "distill": ("senryu.distill.cli", "train a small student from a teacher's outputs"),
    "quantize": ("senryu.quant.cli", "make a model folder smaller, and say what was lost"),
    "compare": ("senryu.quant.compare.cli", "measure what a quantized model lost"),
    "bench": ("senryu.benches.cli", "measure tokens per second over HTTP"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; its exit status. 2 is a mistake in the command, 1 a failure, 130 Ctrl-C, and 141
    a reader that left, as `head` does."""
    parser = argparse.ArgumentParser(
        prog="senryu",
        description="A small language model that answers the Anthropic Messages API.",
        epilog="Each verb explains itself: senryu VERB --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"senryu {_version()}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (_, text) in VERBS.items():
        # The rest belongs to the room, which has a parser of its own.
        verbs.add_parser(verb, help=text, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(arguments[:1] or ["--help"])
    try:
        room = importlib.import_module(VERBS[chosen.verb][0])
        status: int = room.main(arguments[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still unwritten would be tried again, loudly, when Python ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        return 141
    return status


def _version() -> str:
    try:
        return metadata.version("senryu")
    except metadata.PackageNotFoundError:
        return "(not installed)"


# A process that vLLM spawns imports this file before all else: see lifeline.
if "--multiprocessing-fork" in sys.orig_argv:
    lifeline.hold()

if __name__ == "__main__":
    sys.exit(main())
