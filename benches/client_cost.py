"""What the client of `senryu bench` costs: CPU microseconds a streamed token.

`python -m senryu.benches.client_cost` lets it read from `senryu serve --engine scripted`, which is
pinned to one core, from another. A client that is busy all the time would time itself, so its CPU
time over the tokens says how many it can take: at 20 us that is 50,000 a second on one core. What
the reading of chat completions costs is taken alone, without a socket: no server of ours speaks it.

CPU time is that of this process, so other work on the machine changes only the speed of a cycle.
A table for people, the last line JSON for machines.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from senryu.server.device import detect

from .asks import Ask
from .client.load import Target, closed_loop, run
from .client.messages import MESSAGES
from .client.openai import OPENAI
from .client.sample import Sample
from .micro.front_end import Answer, plain, scripted_server, thinking_and_calling

_THINKS_AND_CALLS = {
    "thinking": {"type": "adaptive"},
    "tools": [{"name": name, "input_schema": {"type": "object"}} for name in ("read", "write")],
}
_CHUNK = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"scripted",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one kind of answer; the median, with all rounds beside it."""

    answer: str
    us_per_token: float
    us_per_token_rounds: list[float]
    tokens_per_second: float | None = None
    """That came meanwhile; the server's own speed, as long as the client is not busy."""


async def served(name: str, answer: Answer, wants: Mapping[str, object], streams: int) -> Cost:
    """What reading `streams` such answers at a time costs."""
    body = {"max_tokens": 2 * answer.tokens, "messages": [{"role": "user", "content": "Count."}]}
    conversations = [(Ask(body={**body, **wants}),)] * streams
    cores = os.sched_getaffinity(0)
    async with scripted_server(answer) as server:
        os.sched_setaffinity(0, {max(cores)})
        target = Target(url=f"http://127.0.0.1:{server.port}", api=MESSAGES, model="scripted")
        await closed_loop(target, conversations, concurrency=8)
        costs, speeds = [], []
        for _ in range(5):
            cpu, clock = time.process_time(), time.perf_counter()
            samples = await closed_loop(target, conversations, concurrency=streams)
            spent, took = time.process_time() - cpu, time.perf_counter() - clock
            tokens = sum(map(_tokens, samples))
            costs.append(spent / tokens * 1e6)
            speeds.append(tokens / took)
    os.sched_setaffinity(0, cores)
    return _cost(name, costs, statistics.median(speeds))


def _tokens(sample: Sample) -> int:
    if sample.failure or sample.usage is None:
        raise SystemExit(f"client_cost: an answer failed: {sample.failure}")
    return sample.usage.output


def read_alone(chunks: int = 50_000) -> Cost:
    """What chat completions cost beyond the socket, four chunks in a read."""
    reader = OPENAI.reader(Ask(body={"max_tokens": chunks}))
    costs = []
    for _ in range(5):
        cpu = time.process_time()
        for place in range(chunks // 4):
            reader.feed(_CHUNK * 4, float(place))
        costs.append((time.process_time() - cpu) / chunks * 1e6)
    return _cost("chat completions, reading alone", costs)


def _cost(name: str, costs: list[float], speed: float | None = None) -> Cost:
    return Cost(
        answer=name,
        us_per_token=statistics.median(costs),
        us_per_token_rounds=costs,
        tokens_per_second=speed,
    )


async def _measured(streams: int, tokens: int) -> list[Cost]:
    rich = thinking_and_calling(tokens)
    return [
        await served(f"text, {streams} streams", plain(tokens), {}, streams),
        await served("thought, text and a call", rich, _THINKS_AND_CALLS, streams),
        await served("text, 1 stream", plain(tokens * 8), {}, 1),
        read_alone(),
    ]


def main() -> None:
    costs = run(_measured(streams=64, tokens=1600))
    machine = detect({"SENRYU_DEVICE": "cpu"}).summary
    print(f"client, on one core of: {machine}")
    print(f"  {'answer':<34} {'CPU a token':>12}  {'that came':>14}")
    for cost in costs:
        rounds = cost.us_per_token_rounds
        came = f"{cost.tokens_per_second:,.0f}/s" if cost.tokens_per_second else ""
        print(
            f"  {cost.answer:<34} {cost.us_per_token:9.1f} us  {came:>14}"
            f"   ({min(rounds):.1f} to {max(rounds):.1f})"
        )
    record = {
        "bench": "client_cost",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "python": platform.python_version(),
        "costs": [asdict(cost) for cost in costs],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
