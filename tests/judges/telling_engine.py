"""A scripted engine that tells the most probable tokens, as vLLM does: for tests of teachers.

A token is a byte of what it says, so that whoever reads the tokens can read the text.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from typing import Any

from senryu.server.conversation.messages import Sampling
from senryu.server.engine.base import FinishReason, TokenEvent, TopTokens
from senryu.server.engine.scripted import ByteTokenizer, ScriptedEngine
from senryu.server.turn.prompt import Prompt

END = ByteTokenizer.END


def decoded(ids: Any) -> str:
    """Bytes as text, the control tokens left out."""
    return bytes(int(token) for token in ids if token < 256).decode()


class TellingEngine(ScriptedEngine):
    """Says what `answers` makes of the prompt's text, or one text always."""

    def __init__(self, answers: str | Callable[[str], str] = "Yes.", **card: Any) -> None:
        super().__init__("unused", **card)
        self._answers = answers
        self.prompts: list[str] = []
        self.samplings: list[Sampling] = []
        self.most_at_once = 0
        self.closed = False

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        asked = decoded(prompt.token_ids)
        self.prompts.append(asked)
        self.samplings.append(sampling)
        said = self._answers if isinstance(self._answers, str) else self._answers(asked)
        tokens = [*said.encode(), END]
        cut = tokens[: sampling.max_tokens]
        self.active.add(request_id)
        self.most_at_once = max(self.most_at_once, len(self.active))
        held = b""
        try:
            for step, token in enumerate(cut):
                await asyncio.sleep(0)
                text = ""
                if token != END:
                    held += bytes([token])
                    try:
                        text, held = held.decode(), b""
                    except UnicodeDecodeError:
                        text = ""
                finish = None
                if step == len(cut) - 1:
                    finish = FinishReason.STOP if len(cut) == len(tokens) else FinishReason.LENGTH
                top = _top(token, sampling.top_logprobs) if sampling.top_logprobs else None
                yield TokenEvent((token,), text, finish, top=top)
        finally:
            self.active.discard(request_id)

    async def close(self) -> None:
        self.closed = True


def _top(token: int, k: int) -> TopTokens:
    """The token itself has half of all that is probable, the next one a quarter, ..."""
    others = [(token + n) % 256 for n in range(1, k)]
    return TopTokens([[token, *others]], [[-math.log(2) * (n + 1) for n in range(k)]])
