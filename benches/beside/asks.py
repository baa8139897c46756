"""What all servers are asked, and the same as token ids for a loop that has no server.

Comes in: a workload, a model folder, levels. Goes out: conversations, written and counted once, and
asked of every server again. Each server is started anew for its turn, so that none knows them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from senryu.benches.asks import Ask, Conversation
from senryu.benches.workloads.base import Order, Workload
from senryu.distill.prompts.reading import Unreadable, read_asked
from senryu.server.turn.dialects.base import Dialect
from senryu.server.turn.prompt import ChatTokenizer, build_prompt


class Unsuited(Exception):
    """A workload that not every one of them can be asked. The text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked at one level."""

    concurrency: int
    warm_up: list[Conversation]
    conversations: list[Conversation]

    @property
    def requests(self) -> int:
        return sum(map(len, self.conversations))


class Reader:
    """Reads requests as our server does, for one model."""

    def __init__(self, tokenizer: ChatTokenizer, dialect: Dialect) -> None:
        self._tokenizer = tokenizer
        self._dialect = dialect

    def token_ids(self, body: Mapping[str, Any]) -> list[int]:
        """The whole prompt. Raises Unsuited where an answer would be held to a form, which is not
        the prompt's alone."""
        try:
            asked = read_asked({key: body[key] for key in ("messages", "system") if key in body})
        except Unreadable as error:
            raise Unsuited(f"a request cannot be read: {error}") from error
        if {"tools", "thinking", "output_config"} & body.keys():
            raise Unsuited("only plain questions can be asked of all: tools and forms cannot")
        return build_prompt(asked.conversation, self._tokenizer, self._dialect).token_ids

    async def count(self, body: Mapping[str, Any]) -> int | None:
        return len(self.token_ids(body))


async def loads(
    workload: Workload,
    reader: Reader,
    levels: Sequence[int],
    *,
    requests: int | None,
    shape: Mapping[str, int],
    seed: str,
) -> list[Load]:
    """One for each level. Raises Unsuited."""
    if workload.turns > 1 or workload.batched:
        raise Unsuited(f"{workload.name} is no workload of single requests")
    found = []
    for level in levels:
        count = requests or max(8, 2 * level)
        written = []
        for what, number in (("warm-up", min(level, 8)), ("asked", count)):
            order = Order(
                shape=replace(workload.shape, **shape),
                conversations=number,
                seed=f"{seed} {level} {what}",
            )
            made = await workload.write(order, reader.count)
            written.append([tuple(map(greedy, conversation)) for conversation in made])
        found.append(Load(concurrency=level, warm_up=written[0], conversations=written[1]))
    return found


def greedy(ask: Ask) -> Ask:
    """With nothing left to chance: each server writes as much as the others."""
    return replace(ask, body={**ask.body, "temperature": 0})


def as_ids(load: Load, reader: Reader) -> dict[str, Any]:
    """For the loop without a server."""

    def told(conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
        return [
            {"ids": reader.token_ids(ask.body), "max_tokens": ask.max_tokens}
            for conversation in conversations
            for ask in conversation
        ]

    return {
        "concurrency": load.concurrency,
        "warm_up": told(load.warm_up),
        "asks": told(load.conversations),
    }
