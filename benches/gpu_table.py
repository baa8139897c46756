"""One table of the records that `gpu_table.sh` left: each model at each level beside its ceiling.

`python -m senryu.benches.gpu_table FOLDER MODEL ...`: of FOLDER/MODEL the last record is read. The
bandwidth of the memory is measured here and now, so nothing else may run. The table is Markdown,
the last line JSON, also in FOLDER.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from senryu.benches.beside.ratios import Turn, middle, ratio
from senryu.benches.roofline import Reads, bandwidth, ceiling, percent
from senryu.server.device import detect

_OURS, _OTHER = "senryu", "vllm"
_DERIVED = ("tokens_per_second", "cpu_us_per_token")
_HEAD = (
    *("model", "streams", "tok/s", "of roofline", "TTFT p50", "CPU us/token"),
    *("over vLLM's", "GPU memory", "weights read"),
)


def rows(model: str, record: dict[str, Any], rate: float) -> Iterator[dict[str, Any]]:
    """A row for each level. `rate`: bytes a second."""
    turns = [
        Turn(**{key: value for key, value in told.items() if key not in _DERIVED})
        for told in record["turns"]
    ]
    limits = record["limits"]
    reads = Reads(weights=limits["weights"], kv_per_token=limits["kv_per_token"])
    for level in sorted({turn.concurrency for turn in turns}):
        own = [turn for turn in turns if (turn.name, turn.concurrency) == (_OURS, level)]
        speed, ttft = middle([turn.speed for turn in own]), middle([turn.ttft for turn in own])
        if speed is None:
            continue
        cpu, memory = middle([turn.cpu_us for turn in own]), middle([t.gpu_mib for t in own])
        over = ratio(turns, _OURS, _OTHER, level, lambda turn: turn.speed)
        context = limits["contexts"][str(level)]  # a key of JSON
        most = ceiling(reads, bandwidth=rate, streams=level, context=context)
        yield {
            "model": model,
            "streams": level,
            "tokens_per_second": speed.median,
            "percent_of_roofline": percent(speed.median, most),
            "ttft_seconds": ttft and ttft.median,
            "cpu_us_per_token": cpu and cpu.median,
            "over_vllm": over and over.median,
            "gpu_mib": memory and memory.median,
            "weights": reads.weights,
        }


def table(found: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for row in found:
        cells = (
            row["model"],
            str(row["streams"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['percent_of_roofline']:.0f} %",
            _cell(row["ttft_seconds"], 1000, " ms"),
            _cell(row["cpu_us_per_token"]),
            "" if row["over_vllm"] is None else f"{row['over_vllm']:.2f}",
            _cell(row["gpu_mib"], 1 / 1024, " GiB"),
            _cell(row["weights"], 1e-6, " MB"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None, times: float = 1, unit: str = "") -> str:
    return "" if value is None else f"{times * value:,.0f}{unit}"


def main() -> None:
    folder, models = Path(sys.argv[1]), sys.argv[2:]
    device = detect()
    rate = bandwidth(device.kind)
    found: list[dict[str, Any]] = []
    for model in models:
        records = sorted((folder / model).glob("*-beside.json"))
        if not records:
            print(f"{model}: there is no record", file=sys.stderr)
            continue
        found += rows(model, json.loads(records[-1].read_text()), rate)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    print(f"{device.summary}, {date}, memory at {rate / 1e9:,.0f} GB/s (measured)\n")
    print(table(found), end="\n\n")
    record = {
        "bench": "gpu_table",
        "date": date,
        "machine": device.summary,
        "bandwidth": rate,
        "rows": found,
    }
    (folder / f"{date.replace(':', '')}-gpu-table.json").write_text(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
