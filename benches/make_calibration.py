"""Makes the embedded half of quant/'s packaged calibration set anew.

`python -m senryu.benches.make_calibration FILE RUN...` reads the packaged file and the folders of
finished `senryu distill` runs of the embedded teacher. Lines that we wrote ourselves stay as they
are; those of the teacher are chosen again from the runs' samples. The same folders give the same
file. It refuses to know models: what it judges by stands in the samples.

Chosen are answers that the teacher ended itself, that are neither very short nor go in circles,
that it was least surprised by, and that say what no other line says.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senryu.distill.prompts.duplicates import Distinct, words
from senryu.distill.prompts.wire import conversation_to_json, message_to_json
from senryu.distill.samples import Sample
from senryu.distill.shards import ShardStore
from senryu.server.conversation.messages import ToolUseBlock

CHAT, TOOLS = 70, 26
"""How many answers of each kind are taken at most."""
SHORTEST = 24
"""Tokens of an answer in words; a call may be shorter."""
UNSURE = -2.05
"""The lowest mean logarithm of the probabilities of an answer's tokens: below it lies what even
this small teacher hardly ever says."""
NEAR = 0.6
"""How alike two lines may be (`distill/prompts/duplicates.py`)."""
_UNWELCOME = re.compile(
    # Addresses that it made up may be somebody's; nobody should have to read the rest in a file.
    r"https?:|www\.|@\w|\b(?:kill|dead|die[ds]?|weapon|fuck|sex|drug|murder|suicid|rape|nazi|"
    r"terror|covid|pandemic|medical|ukrain|hugging|microsoft|amazon|justice|loss\b)",
    re.IGNORECASE,
)
HELD_OUT = 10
"""One chat in so many is held out. Calls never are: the teacher's are often wrong, and what is
held out is what calls are judged by."""


def main(argv: Sequence[str]) -> int:
    if len(argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    file, folders = Path(argv[0]), [Path(each) for each in argv[1:]]
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    lines = [each for each in lines if each["origin"] == "written"]
    distinct = Distinct(NEAR)
    for line in lines:
        distinct.add(words(told(line)))
    samples = [each for folder in folders for each in ShardStore(folder / "samples").samples()]
    for kind, most in (("chat", CHAT), ("tools", TOOLS)):
        lines += _chosen([each for each in samples if each.kind == kind], most, distinct)
    text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines)
    file.write_text(text, encoding="utf-8")
    print(f"{len(lines)} conversations, {len(text.encode()) / 1024:.0f} KiB")
    return 0


def told(line: Mapping[str, Any]) -> str:
    """What is said in a line, its system prompt and its tools aside: many may share those."""
    turns = [*line["conversation"]["messages"], line["answer"]]
    return "\n".join(_words_of(block) for turn in turns for block in turn["content"])


def _words_of(block: Mapping[str, Any]) -> str:
    match block["type"]:
        case "text":
            return str(block["text"])
        case "thinking":
            return str(block["thinking"])
        case "tool_use":
            return json.dumps([block["name"], block["input"]], ensure_ascii=False)
        case _:
            return "\n".join(_words_of(inner) for inner in block["content"])


def _chosen(samples: Sequence[Sample], most: int, distinct: Distinct) -> Iterator[dict[str, Any]]:
    # The end of a turn is the last token of most calls, and of hardly anything else.
    ends = [int(each.token_ids[-1]) for each in samples]
    end = max(set(ends), key=ends.count)
    good = [each for each, last in zip(samples, ends, strict=True) if last == end and _good(each)]
    taken = 0
    for each in sorted(good, key=lambda sample: (-_sureness(sample), sample.id)):
        line = _line(each)
        said = words(told(line))
        if distinct.repeated(said):
            continue
        distinct.add(said)
        yield line
        taken += 1
        if taken == most:
            return


def _good(sample: Sample) -> bool:
    calls = any(isinstance(block, ToolUseBlock) for block in sample.answer.content)
    said = sample.answer.text
    if _sureness(sample) < UNSURE or (not calls and sample.answer_length < SHORTEST):
        return False
    if _UNWELCOME.search(json.dumps(_line(sample), ensure_ascii=False)):
        return False
    if "<tool" in said or not _letters(said):
        return False
    return calls or not _in_circles(said)


def _letters(text: str) -> bool:
    """Whether it is mostly written in Latin letters: in others this teacher only stammers."""
    return not text or sum(each.isascii() for each in text) > 0.95 * len(text)


def _in_circles(text: str) -> bool:
    said = words(text)
    runs = [" ".join(said[at : at + 3]) for at in range(len(said) - 2)]
    return len(set(runs)) < 0.9 * len(runs)


def _sureness(sample: Sample) -> float:
    """The mean logarithm of the probability of what it said."""
    said = sample.token_ids[-sample.answer_length :]
    stored = sample.top_ids == said[:, None]
    found = np.where(stored, sample.top_logprobs, 0.0).sum(axis=1)
    missed = np.log(np.clip(sample.tail, 1e-6, 1.0))
    return float(np.where(stored.any(axis=1), found, missed).clip(min=-20.0).mean())


def _line(sample: Sample) -> dict[str, Any]:
    # Two runs may have asked the same: the answer makes the difference.
    digest = hashlib.sha256(f"{sample.id} {sample.token_ids.tolist()}".encode()).hexdigest()
    held_out = sample.kind == "chat" and int(digest[:8], 16) % HELD_OUT == 0
    return {
        "id": f"embedded-{digest[:12]}",
        "kind": sample.kind,
        "language": "en",
        "origin": "embedded",
        "held_out": held_out,
        "conversation": conversation_to_json(sample.conversation),
        "answer": message_to_json(sample.answer),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
