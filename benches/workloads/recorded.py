"""Requests out of a file: bodies of the Messages API, one on a line, sent as they are.

Comes in: a path. Goes out: a workload. What is no such body is refused with the number of its line
before anything is sent. `model` and `stream` are the bench's to say.
"""

import json
from pathlib import Path

from senryu.benches.asks import Ask, Conversation

from .base import Count, Order, Shape, Workload

_OURS = ("model", "stream")


def recorded(path: str) -> Workload:
    """Raises ValueError with one sentence."""
    asks = _read(Path(path))

    async def write(order: Order, count: Count) -> list[Conversation]:
        places = range(order.first, order.first + order.conversations)
        return [(asks[place % len(asks)],) for place in places]

    return Workload(
        name=f"file:{path}",
        says=f"the {len(asks)} requests of {path}, as they are",
        shape=Shape(input=0, output=max(ask.max_tokens for ask in asks)),
        write=write,
        exact=False,
        has=len(asks),
    )


def _read(path: Path) -> list[Ask]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(f"{path} cannot be read: {why}") from None
    lines = enumerate(text.split("\n"), 1)
    asks = [_ask(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    if not asks:
        raise ValueError(f"{path} holds no request: it needs one JSON body on each line")
    return asks


def _ask(line: str, where: str) -> Ask:
    try:
        body = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: it is no JSON ({error})") from None
    if not isinstance(body, dict):
        raise ValueError(f"{where}: it is no JSON object")
    most = body.get("max_tokens")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"{where}: max_tokens has to be a number from 1 on")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise ValueError(f"{where}: messages has to be a list with at least one message")
    return Ask(body={key: value for key, value in body.items() if key not in _OURS})
