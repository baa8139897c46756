"""`python -m senryu.benches.micro`: a table for people, the last line JSON for machines."""

import asyncio
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata

from senryu.server.device import detect

from .front_end import FrontEndCost, measure


def main() -> None:
    cost = asyncio.run(measure())
    machine = detect({"SENRYU_DEVICE": "cpu"}).summary
    versions = {name: metadata.version(name) for name in ("senryu", "fastapi", "uvicorn", "uvloop")}
    print(table(cost, machine))
    record = {
        "bench": "front_end",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "python": platform.python_version(),
        "versions": versions,
        **asdict(cost),
    }
    print(json.dumps(record))


def table(cost: FrontEndCost, machine: str) -> str:
    repeats, richer = cost.us_per_token_repeats, cost.us_per_token_thinking_and_calling_repeats
    return "\n".join(
        [
            f"front end, scripted engine, server on one core of: {machine}",
            f"  CPU a streamed token, 64 streams  {cost.us_per_token:8.1f} us"
            f"   ({min(repeats):.1f} to {max(repeats):.1f} over {len(repeats)} rounds)",
            f"  the same, with tools and thinking {cost.us_per_token_thinking_and_calling:8.1f} us"
            f"   ({min(richer):.1f} to {max(richer):.1f})",
            f"  tokens a second                   {cost.tokens_per_second:8.0f}",
            f"  requests a second, 1-token answer {cost.requests_per_second:8.0f}"
            f"   ({cost.us_per_request:.0f} us of CPU each)",
            f"  memory over {cost.tokens:,} tokens"
            f"      {cost.memory_before_mib:8.1f} MiB -> {cost.memory_after_mib:.1f} MiB",
        ]
    )


if __name__ == "__main__":
    main()
