"""On what terms a request is read: what the model can do and which API the client speaks."""

from dataclasses import dataclass

from .media import Media
from .signing import Signer

CLASSIC = "2023-06-01"
CURRENT = "2026-10-21"
"""The versions of the API (contract 4.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What has to be known beside a request to say what it asks."""

    model: str
    """The resolved id, as it stands in messages."""
    signer: Signer
    media: Media
    thinks: bool = False
    """Whether the model was trained to think before it answers."""
    sees: bool = False
    """Whether it takes images."""
    window: int = 2**20
    """The tokens of its window; how much media a request may bring goes by it."""
    prefill: bool = True
    """Whether it may continue an answer that the client began."""
    version: str = CLASSIC
    betas: frozenset[str] = frozenset()
    strict: bool = False
    """Refuse what the hosted service refuses, also where this server could do it."""
    lenient_sampling: bool = False
    """Honour temperature, top_p and top_k under the current API version too."""

    @property
    def current(self) -> bool:
        """Whether the rules of the current API version hold (contract 4.2)."""
        return self.version == CURRENT
