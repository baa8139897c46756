"""What a prompt cost: how many of its tokens were read from the cache, were written to it, or
were neither (contract 5.4).

What was read is the engine's own count. The client's marks only say which part of the prompt is
meant to be cached: up to the last one, in whole blocks of the KV cache, since that is how the
engine keeps it. Without a mark nothing is counted as cached.
"""

from collections.abc import Sequence

from senryu.server.conversation.messages import Usage

from .marks import Mark


def input_usage(
    length: int, marks: Sequence[Mark], *, cached: int, block: int, minimum: int = 0
) -> Usage:
    """The input counts of a prompt of `length` tokens, of which the engine found `cached` in its
    KV cache. `block`: tokens in one of its blocks. A marked prefix of less than `minimum` tokens is
    not counted as cached."""

    def last(*ttls: str) -> int:
        """How much of the prompt the marks with these lifetimes cover. The engine always reads the
        prompt's last token, so its block is never found."""
        reach = max((mark.tokens for mark in marks if mark.ttl in ttls), default=0)
        whole = min(reach, length - 1) // block * block
        return whole if whole >= minimum else 0

    long, end = last("1h"), last("1h", "5m")
    read = min(cached, end)
    return Usage(
        input_tokens=length - end,
        output_tokens=0,
        cache_read_tokens=read,
        cache_creation_1h_tokens=max(0, long - read),
        cache_creation_5m_tokens=end - max(read, long),
    )
