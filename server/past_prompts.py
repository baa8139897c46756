"""The prompts of past messages, to say what has changed since (turn/diagnosis.py).

Only those are kept whose requests asked for that.
"""

import threading
from collections import OrderedDict

from senryu.server.turn.diagnosis import Asked

REMEMBERED_BYTES = 32 * 2**20
"""Some eighty prompts of 100,000 tokens."""


class PastPrompts:
    """The prompts of past messages by their ids; what was remembered first is forgotten first."""

    def __init__(self, limit: int = REMEMBERED_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, message_id: str, prompt: Asked) -> None:
        with self._lock:
            self._asked[message_id] = prompt
            self._bytes += _size(prompt)
            while self._bytes > self._limit:
                self._bytes -= _size(self._asked.popitem(last=False)[1])

    def get(self, message_id: str, salt: str) -> Asked | None:
        """None also for a message of others."""
        with self._lock:
            found = self._asked.get(message_id)
        return found if found is not None and found.salt == salt else None


def _size(prompt: Asked) -> int:
    blocks = len(prompt.tools) + len(prompt.system) + len(prompt.messages)
    return 4 * len(prompt.token_ids) + 64 * blocks + 512
