"""An engine that says what its script says: the whole API with no weights and no torch.

For front-end work, documentation and fast tests. It gives one word a step, as fast as it is
asked, and takes its turn after each as a real engine would. Its tokenizer counts bytes.
"""

import asyncio
import hashlib
import re
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice
from typing import Any

from senryu.server.conversation.messages import Sampling
from senryu.server.turn.dialects.base import Chat, Dialect
from senryu.server.turn.dialects.hermes import THOUGHT, HermesDialect
from senryu.server.turn.dialects.spelling import as_json
from senryu.server.turn.guard import GUARD, IMAGE
from senryu.server.turn.marks import grown
from senryu.server.turn.prompt import Prompt

from .base import Choice, EngineCard, FinishReason, TokenEvent

# All that there is to try out, tools and thinking; and a thought that is skipped leaves no mark.
_SPOKEN = HermesDialect(thought=replace(THOUGHT, skipped=""))

POEM = "The model is small,\nit says only what it read:\nplease, no more questions."


class ByteTokenizer:
    """One token a UTF-8 byte, a control token each side of a message and one for an image.

    Rendered text spells the control tokens as the bytes 2, 3 and 4; where those stand in a message,
    byte 16 before them says that they are text.
    """

    BEGIN, END, IMAGE = 256, 257, 258

    def render(self, chat: Chat, prefill: str = "") -> str:
        turns = [(message["role"], message["content"]) for message in chat.messages]
        if chat.tools:
            turns.insert(0, ("tools", "\n".join(map(as_json, chat.tools))))
        said = "".join(f"\x02{role}\n{self._text(content)}\x03\n" for role, content in turns)
        return f"{said}\x02assistant\n{self._text(prefill)}"

    def _text(self, content: Any) -> str:
        text = content if isinstance(content, str) else as_json(content)
        return re.sub("([\x02-\x04])", "\x10\\1", text).replace(IMAGE, "\x04")

    def encode(self, text: str) -> list[int]:
        controls = {2: self.BEGIN, 3: self.END, 4: self.IMAGE}
        read = text.replace(GUARD, "").encode()
        return [
            byte if before == 16 else controls.get(byte, byte)
            for before, byte in zip(b"\0" + read, read, strict=False)
        ]

    def encode_to(
        self, text: str, ends: Sequence[int], salt: str = ""
    ) -> tuple[list[int], list[int]]:
        shown = text.replace(GUARD, "")
        return self.encode(text), [len(shown[:end].encode()) for end in ends]


IMAGE_TOKENS = 64
"""How many tokens an image is to this engine, whatever it shows."""


class _Blocks:
    """Which blocks were read before, as vLLM knows them: whole ones, each with all before it, under
    one salt. What was asked for longest ago is forgotten first."""

    MOST = 20_000

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def found(self, prompt: Prompt, size: int) -> int:
        """How many tokens of a prompt are known, never the last one; now all are."""
        ids = array("q", prompt.token_ids)
        digest = hashlib.blake2b(prompt.salt.encode(), digest_size=16)
        found, going = 0, True
        for start in range(0, len(ids) - size + 1, size):
            digest.update(ids[start : start + size])
            key = digest.digest()
            going = going and key in self._known and start + size < len(ids)
            found += size if going else 0
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > self.MOST:
            self._known.popitem(last=False)
        return found


class ScriptedEngine:
    """Recites `script`, a text or its tokens. With `tokens`, it goes round until it has said
    that many. `sees`: whether it takes images, to recite the same."""

    def __init__(
        self,
        script: str | Sequence[str] = POEM,
        *,
        tokens: int = 0,
        window: int = 200_000,
        model: str = "scripted",
        dialect: Dialect = _SPOKEN,
        sees: bool = False,
        seats: int = 1_000,
    ) -> None:
        if isinstance(script, str):
            script = re.findall(r"\s*\S+\s*", script) or [script]
        self._pieces = list(script) or [""]
        self._tokens = tokens or len(self._pieces)
        self.tokenizer = ByteTokenizer()
        self.card = EngineCard(
            model=model,
            window=window,
            created_at="1970-01-01T00:00:00Z",
            dialect=dialect,
            sees=sees,
            seats=seats,
            choices=(Choice("engine", "scripted", "it was asked for; it has no weights"),),
        )
        self._blocks = _Blocks()
        self.active: set[str] = set()
        """The requests that are being answered: tests look here for what was aborted."""

    def look(self, prompt: Prompt) -> Prompt:
        image = self.tokenizer.IMAGE
        shown = [[each] * (IMAGE_TOKENS if each == image else 1) for each in prompt.token_ids]
        images = [(at, IMAGE_TOKENS) for at, each in enumerate(prompt.token_ids) if each == image]
        return replace(
            prompt,
            token_ids=list(chain.from_iterable(shown)),
            images=(),
            marks=grown(prompt.marks, images),
        )

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        count = min(self._tokens, sampling.max_tokens)
        last = FinishReason.STOP if count == self._tokens else FinishReason.LENGTH
        self.active.add(request_id)
        cached = self._blocks.found(prompt, self.card.block)
        try:
            for step, piece in enumerate(self._recite(count), start=1):
                await asyncio.sleep(0)
                yield TokenEvent((step,), piece, last if step == count else None, cached)
        finally:
            self.active.discard(request_id)

    def _recite(self, count: int) -> Iterator[str]:
        return islice(cycle(self._pieces), count)

    async def refusal(self, grammar: str) -> str | None:
        return None

    async def healthy(self) -> bool:
        return True

    def back_in(self) -> int | None:
        return None

    async def close(self) -> None:
        return None
