"""How long `count_tokens` takes for a request of 100,000 tokens, new and as it grows.

`python -m senryu.benches.count_tokens http://127.0.0.1:8765` asks a server that is running. Two
conversations are counted: an agent's, with twenty tools and many turns, and one about a single long
document. Each is counted once, and then ten times with one more turn at its end. A table for
people, the last line JSON for machines.
"""

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from senryu.server.device import detect

_TEXT = "the model reads a file and says what it found in line number of code test it all"
_WORDS = tuple(_TEXT.split(" "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Milliseconds from the request's first byte to the answer's last."""

    conversation: str
    tokens: int
    first_ms: float
    growing_ms: float
    growing_ms_rounds: list[float]


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8765"
    seed = time.time_ns()  # never the conversation of an earlier run, which would be known
    print(f"{'conversation':<16} {'tokens':>8} {'first':>9} {'growing':>9}")
    costs = []
    with httpx.Client(base_url=url, timeout=120, headers={"x-api-key": "local"}) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        for name, make in (("agent", _agent), ("one document", _document)):
            cost = _measure(client, name, model, make(random.Random(seed)))  # noqa: S311 - words
            costs.append(cost)
            print(
                f"{name:<16} {cost.tokens:8,} {cost.first_ms:6.0f} ms {cost.growing_ms:6.0f} ms"
                f"   ({min(cost.growing_ms_rounds):.0f} to {max(cost.growing_ms_rounds):.0f})",
                flush=True,
            )
    record = {
        "bench": "count_tokens",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect({"SENRYU_DEVICE": "cpu"}).summary,
        "model": model,
        "costs": [asdict(cost) for cost in costs],
    }
    print(json.dumps(record))


def _measure(client: httpx.Client, name: str, model: str, body: dict[str, Any]) -> Cost:
    tokens, first = _count(client, model, body)
    rounds = []
    for turn in range(10):
        body["messages"] += [
            {"role": "assistant", "content": f"That was step {turn}."},
            {"role": "user", "content": f"Go on with step {turn + 1}."},
        ]
        tokens, took = _count(client, model, body)
        rounds.append(took)
    return Cost(
        conversation=name,
        tokens=tokens,
        first_ms=first,
        growing_ms=statistics.median(rounds),
        growing_ms_rounds=rounds,
    )


def _count(client: httpx.Client, model: str, body: dict[str, Any]) -> tuple[int, float]:
    content = json.dumps(body | {"model": model}).encode()
    begun = time.perf_counter()
    reply = client.post("/v1/messages/count_tokens", content=content)
    took = (time.perf_counter() - begun) * 1000
    tokens: int = reply.raise_for_status().json()["input_tokens"]
    return tokens, took


def _agent(rng: random.Random) -> dict[str, Any]:
    """Twenty tools, a system prompt, and 64 calls with a file as their result."""
    say = _speaker(rng)
    properties = {name: {"type": "string", "description": say(30)} for name in ("path", "text")}
    schema = {"type": "object", "properties": properties, "required": ["path"]}
    tools = [
        {"name": f"tool_{n}", "description": say(150), "input_schema": schema} for n in range(20)
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": say(200)}]
    for turn in range(64):
        call = {
            "type": "tool_use",
            "id": f"toolu_{turn}",
            "name": f"tool_{turn % 20}",
            "input": {"path": f"/src/{turn}.py", "text": say(20)},
        }
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": say(850)}
        messages += [
            {"role": "assistant", "content": [{"type": "text", "text": say(30)}, call]},
            {"role": "user", "content": [result]},
        ]
    return {"system": say(2000), "tools": tools, "messages": messages}


def _document(rng: random.Random) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": _speaker(rng)(64_000)}]}


def _speaker(rng: random.Random) -> Callable[[int], str]:
    """Lines of a dozen words, numbers among them."""

    def words(count: int) -> Iterator[str]:
        for number in range(count):
            yield str(rng.randrange(1000)) if number % 7 == 3 else rng.choice(_WORDS)
            yield ".\n" if number % 12 == 11 else " "

    return lambda count: "".join(words(count)).strip()


if __name__ == "__main__":
    try:
        main()
    except httpx.HTTPError as error:
        sys.exit(f"\nno count: {error}; start a server (make serve) and give its address")
