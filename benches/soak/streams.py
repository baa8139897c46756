"""A client of many streams: it notes when events come, and what each answer says it cost.

Sockets of asyncio and no HTTP library, so that the client is not what is measured. Of a stream,
the time between two events is that between two reads; events that came in one read came at once.
"""

import asyncio
import re
from dataclasses import dataclass, field

DELTA = b"event: content_block_delta"
STOP = b"event: message_stop"
_MESSAGE = re.compile(rb'"id":"(msg_\w+)"')
_READ = re.compile(rb'"input_tokens":(\d+)')
_WRITTEN = re.compile(rb'"output_tokens":(\d+)')

# Upper bounds of the buckets that gaps are counted in, in seconds: each a fifth above the last.
BOUNDS = [0.000_1 * 1.2**step for step in range(70)]


@dataclass(slots=True)
class Gaps:
    """Times between two events, counted by size."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    longest: float = 0.0

    def add(self, seconds: float, also_at_once: int) -> None:
        """One gap, and so many events that came with the one that ended it."""
        self.counts[0] += also_at_once
        place = 0
        while place < len(BOUNDS) and seconds > BOUNDS[place]:
            place += 1
        self.counts[place] += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float:
        """Seconds: the upper bound of the bucket that it lies in."""
        total, seen = sum(self.counts), 0
        for place, count in enumerate(self.counts):
            seen += count
            if seen >= share * total:
                return BOUNDS[place] if place < len(BOUNDS) else self.longest
        return self.longest


@dataclass(slots=True)
class Seen:
    """What the client saw."""

    gaps: Gaps = field(default_factory=Gaps)
    messages: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each answer that came to its end: tokens read and written, as it says."""
    events: int = 0
    errors: list[str] = field(default_factory=list)


async def stream_until(
    port: int, body: bytes, until: float, seen: Seen, *, pause: float = 0.0, key: str = ""
) -> None:
    """One stream after the other. With `pause`, a slow reader: it waits so long after each read."""
    loop = asyncio.get_running_loop()
    authorization = f"x-api-key: {key}\r\n" if key else ""
    head = (
        f"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{authorization}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    while loop.time() < until:
        try:
            await _one(port, head + body, seen, pause)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.2)


async def _one(port: int, request: bytes, seen: Seen, pause: float) -> None:
    loop = asyncio.get_running_loop()
    # A slow reader leaves what it has not read to the network.
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, limit=2**12 if pause else 2**16
    )
    try:
        writer.write(request)
        await writer.drain()
        opening, rest, before = b"", b"", 0.0
        while True:
            data = await reader.read(2**10 if pause else 2**16)
            now = loop.time()
            if not data:
                seen.errors.append(f"the connection ended: {(opening + rest)[-200:]!r}")
                return
            if len(opening) < 4_096:
                opening += data
            events = data.count(DELTA)
            if events:
                seen.events += events
                if before and not pause:
                    seen.gaps.add(now - before, events - 1)
                before = now
            rest = (rest + data)[-2_048:]
            if STOP in rest:
                break
            if b"event: error" in rest or not opening.startswith(b"HTTP/1.1 200"):
                seen.errors.append(repr((opening + rest)[:300]))
                return
            if pause:
                await asyncio.sleep(pause)
        message, read = _MESSAGE.search(opening), _READ.search(rest)
        written = _WRITTEN.findall(rest)
        if message is None or read is None or not written:
            seen.errors.append(f"an end without its counts: {rest[-200:]!r}")
            return
        seen.messages[message[1].decode()] = int(read[1]), int(written[-1])
    finally:
        writer.close()
