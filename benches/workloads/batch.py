"""The questions of `chat`, all in one message batch: how much is done when nobody waits."""

from .base import Shape, Workload
from .chat import write

BATCH = Workload(
    name="batch",
    says="one message batch (POST /v1/messages/batches), asked about until it has ended",
    shape=Shape(input=128, output=64),
    write=write,
    batched=True,
)
