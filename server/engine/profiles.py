"""What the engine is tuned for: the arguments of vLLM that differ between profiles, each with why.

A table, and the reading of it. `balanced` adds nothing: it is what `vllm_arguments` chooses. CUDA
graphs are in none of them: vLLM captures those that the number of streams asks for, with room for
tokens that are guessed, and `compile` says whether.
"""

from dataclasses import dataclass
from typing import Any, Literal

Profile = Literal["latency", "balanced", "throughput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """An argument of vLLM that a profile sets."""

    name: str
    value: Any
    why: str


_GPU: dict[Profile, tuple[Tuned, ...]] = {
    "latency": (
        Tuned(
            name="max_num_seqs",
            value=32,
            why="few at a time, each of them fast; more wait",
        ),
        Tuned(
            name="max_num_batched_tokens",
            value=1024,
            why="a step that reads a prompt is half as long, and all others wait for it",
        ),
        Tuned(
            name="speculative_config",
            value={
                "method": "ngram",
                "num_speculative_tokens": 4,
                "prompt_lookup_min": 2,
                "prompt_lookup_max": 4,
            },
            why="what repeats the prompt, as edits of code do, comes several tokens a step; with "
            "few streams, a step costs the same for five tokens as for one",
        ),
    ),
    "balanced": (),
    "throughput": (
        Tuned(
            name="max_num_seqs",
            value=1024,
            why="the weights are read once a step for all; vLLM's own server takes as many on a "
            "large GPU",
        ),
        Tuned(
            name="max_num_batched_tokens",
            value=8192,
            why="prompts are read in large pieces, which arithmetic likes; as vLLM's own server",
        ),
        Tuned(
            name="kv_cache_dtype",
            value="fp8",
            why="half the bytes of what large batches read most, and twice the room for streams",
        ),
    ),
}

_CPU: dict[Profile, tuple[Tuned, ...]] = {
    "latency": (
        Tuned(
            name="max_num_seqs",
            value=8,
            why="few at a time, each of them fast; more wait",
        ),
        Tuned(
            name="long_prefill_token_threshold",
            value=128,
            why="a prompt is read half a second at a time, and all others wait so long",
        ),
        Tuned(name="max_num_batched_tokens", value=256, why="room for a second prompt in a step"),
    ),
    "balanced": (),
    "throughput": (
        Tuned(
            name="max_num_seqs",
            value=256,
            why="the weights are read, and those in 4 bits unpacked, once a step for all",
        ),
        Tuned(
            name="long_prefill_token_threshold",
            value=1024,
            why="prompts are read in large pieces, and others wait for seconds meanwhile",
        ),
        Tuned(name="max_num_batched_tokens", value=2048, why="room for a second prompt in a step"),
    ),
}


def tuned(profile: Profile, *, on_cpu: bool) -> tuple[Tuned, ...]:
    """What a profile sets on such a machine."""
    return (_CPU if on_cpu else _GPU)[profile]
