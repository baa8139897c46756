"""Whether a request with a hundred tools never seen before holds up those who are being answered.

`python -m senryu.benches.hundred_tools http://127.0.0.1:8765` asks a server that is running. One
stream is read all the time; beside it come a hundred new tools, in turns with a call (their schemas
are tried and compiled) and without one (only the prompt is read). Printed are the gaps between two
events of the stream meanwhile, and otherwise. A table for people, the last line JSON for machines.
"""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx

from senryu.server.device import detect

_ROUNDS = 3
_TYPES: tuple[dict[str, Any], ...] = (
    {"type": "string"},
    {"type": "integer"},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string"}},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Milliseconds between two events of the other stream."""

    events: int
    median: float
    longest: float


async def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8765"
    stamps: list[float] = []
    answers: dict[str, list[tuple[float, float]]] = {"any": [], "none": []}
    async with httpx.AsyncClient(
        base_url=url, timeout=600, headers={"x-api-key": "local"}
    ) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        await _ask(client, model, "any", seed=0)  # from here on schemas can be tried
        reading = asyncio.create_task(_read(client, model, stamps))
        for choice in ("any", "none") * _ROUNDS:
            await asyncio.sleep(4)
            begun = time.perf_counter()
            await _ask(client, model, choice, seed=time.time_ns())
            answers[choice].append((begun, time.perf_counter()))
        await asyncio.sleep(4)
        reading.cancel()
    gaps = [(later, (later - earlier) * 1000) for earlier, later in pairwise(stamps)]
    rows = {
        "with a call": _within(gaps, answers["any"]),
        "without": _within(gaps, answers["none"]),
        "otherwise": [gap for gap in gaps if not _inside(gap[0], answers["any"] + answers["none"])],
    }
    table = {name: _gaps([length for _, length in found]) for name, found in rows.items()}
    print(f"{'100 new tools':<16} {'events':>7} {'median':>9} {'longest':>9}")
    for name, row in table.items():
        print(f"{name:<16} {row.events:7} {row.median:6.0f} ms {row.longest:6.0f} ms")
    record = {
        "bench": "hundred_tools",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect({"SENRYU_DEVICE": "cpu"}).summary,
        "model": model,
        "answers_ms": {name: [_ms(each) for each in times] for name, times in answers.items()},
        "gaps_ms": {name: asdict(row) for name, row in table.items()},
    }
    print(json.dumps(record))


Gap = tuple[float, float]
Span = tuple[float, float]


def _within(gaps: list[Gap], spans: list[Span]) -> list[Gap]:
    return [gap for gap in gaps if _inside(gap[0], spans)]


def _inside(moment: float, spans: list[Span]) -> bool:
    return any(begun <= moment <= ended for begun, ended in spans)


def _ms(times: tuple[float, float]) -> float:
    return (times[1] - times[0]) * 1000


def _gaps(gaps: list[float]) -> Gaps:
    return Gaps(events=len(gaps), median=statistics.median(gaps), longest=max(gaps))


async def _read(client: httpx.AsyncClient, model: str, stamps: list[float]) -> None:
    """Streams one answer after the other; notes when each of its texts came."""
    while True:
        body = _body(model, "Count from one to two hundred.", 400) | {"stream": True}
        async with client.stream("POST", "/v1/messages", json=body) as reply:
            async for line in reply.aiter_lines():
                if "text_delta" in line:
                    stamps.append(time.perf_counter())


async def _ask(client: httpx.AsyncClient, model: str, choice: str, *, seed: int) -> None:
    """A question with a hundred tools that nobody has sent before."""
    tools = [_tool(seed, number) for number in range(100)]
    body = _body(model, "Go.", 8) | {"tools": tools, "tool_choice": {"type": choice}}
    (await client.post("/v1/messages", json=body)).raise_for_status()


def _tool(seed: int, number: int) -> dict[str, Any]:
    names = [f"p{place}_{number}_{seed % 1_000_000}" for place in range(4)]
    properties = dict(zip(names, _TYPES, strict=True))
    schema = {"type": "object", "properties": properties, "required": names[:2]}
    return {"name": f"tool_{number}", "description": "Does it.", "input_schema": schema}


def _body(model: str, text: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": text}],
    }


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx.HTTPError as error:
        sys.exit(f"no figures: {error}; start a server (make serve) and give its address")
