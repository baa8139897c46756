"""Each level beside what the machine's memory allows: figures and a model's folder, made ceilings.

Comes in: measured levels, and what a step of the model reads. Goes out: a ceiling of each level
whose streams are known, and a sentence that says what they were computed from.
"""

from collections.abc import Sequence

from senryu.server.device import Device

from .record import Ceiling, Measured
from .roofline import Reads, bandwidth, ceiling, mean_context


def ceilings(levels: Sequence[Measured], reads: Reads, *, rate: float) -> tuple[Ceiling, ...]:
    """`rate`: bytes a second. At a rate of requests nobody knows how many streams there are, and of
    a batch nobody but the server does: they have none."""
    found = []
    for level in levels:
        context = _context(level)
        if level.level.kind == "concurrency" and context is not None:
            most = ceiling(reads, bandwidth=rate, streams=level.level.value, context=context)
            found.append(Ceiling(level=level.level, tokens_per_second=most))
    return tuple(found)


def _context(level: Measured) -> float | None:
    """Tokens of a stream's context on average, as usage says."""
    told = [each for each in level.repeats if each.prompt_tokens is not None and each.good]
    good = sum(each.good for each in told)
    if not good:
        return None
    prompt = sum(each.prompt_tokens or 0 for each in told) / good
    return mean_context(prompt, sum(each.output_tokens for each in told) / good)


def here(
    levels: Sequence[Measured], reads: Reads, device: Device
) -> tuple[tuple[Ceiling, ...], str]:
    """With the memory of this machine, which is measured now; and what it was computed from."""
    try:
        rate = bandwidth(device.kind)
    except ImportError:
        return (), "not known: memory is measured with torch, which is not installed"
    return ceilings(levels, reads, rate=rate), (
        f"a step of decoding reads {reads.weights / 1e6:,.0f} MB of weights, and of each stream "
        f"{reads.kv_per_token:,} bytes a token of its context; memory moves {rate / 1e9:.1f} GB/s, "
        "measured after the levels. Time for reading prompts is part of the figure, and not of "
        "the ceiling"
    )
