"""All that watches a server, opened and closed together."""

import asyncio
from dataclasses import dataclass

from senryu.server.settings import ServerSettings

from . import log
from .metrics import Metrics
from .traces import Traces, open_traces
from .watch import Listener, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Observing:
    """`watch` is told of HTTP requests by the app; `observers` are told of answers."""

    metrics: Metrics
    watch: Watch
    traces: Traces | None = None

    @property
    def observers(self) -> tuple[Metrics, Watch]:
        return self.metrics, self.watch

    async def close(self) -> None:
        """Sends what is left of the traces."""
        if self.traces is not None:
            await asyncio.to_thread(self.traces.close)


def open_observing(settings: ServerSettings) -> Observing:
    """What the settings ask for. Raises SettingsError."""
    traces = open_traces(settings.otlp) if settings.otlp else None
    metrics = Metrics()
    listeners: list[Listener] = [log.request, metrics.request]
    if traces is not None:
        listeners.append(traces.request)
    return Observing(
        metrics=metrics, watch=Watch(listeners, texts=settings.log_prompts), traces=traces
    )
