"""What the scheduler's half of the connector asks the worker's half to do in one step.

The two run in two processes; these are pickled on the way.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Load:
    """Blocks of one request that come from files, in their order."""

    request_id: str
    blocks: tuple[tuple[int, str], ...]
    """Where in the KV memory, and under which name."""


@dataclass(frozen=True, slots=True)
class Save:
    """A block that is computed once the step is over, and wants to be kept."""

    block: int
    name: str
    expires: float


@dataclass(frozen=True, slots=True)
class Work:
    loads: list[Load] = field(default_factory=list)
    saves: list[Save] = field(default_factory=list)
