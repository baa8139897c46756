"""What a server can be asked: one file a workload. `ALL` has them by their names."""

from .agentic import AGENTIC
from .base import Workload
from .batch import BATCH
from .chat import CHAT, LONG
from .forms import JSON, TOOLS
from .recorded import recorded
from .shared import SHARED_PREFIX

ALL: dict[str, Workload] = {
    each.name: each for each in (CHAT, LONG, SHARED_PREFIX, AGENTIC, TOOLS, JSON, BATCH)
}

FILE = "file:"


def find(name: str) -> Workload:
    """By its name, or `file:PATH`. Raises ValueError with one sentence."""
    if name.startswith(FILE):
        return recorded(name.removeprefix(FILE))
    if name not in ALL:
        raise ValueError(f"{name!r} is no workload: there are {', '.join(ALL)} and {FILE}PATH")
    return ALL[name]
