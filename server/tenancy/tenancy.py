"""All that a server has of tenancy, opened and closed together.

Without a database (`database = "none"`) there are keys of the settings, limits and a queue, and
nothing is kept. With one, it is opened before the engine: what is wrong with it is said at once.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from senryu.server.settings import ServerSettings

from .batch_worker import Answer, BatchWorker
from .batches import Batches
from .callers import Callers
from .directory import Directory
from .files import Files
from .ledger import Ledger
from .limiter import Limiter
from .place import database_address, files_folder
from .presence import BEAT, Presence, new_server_id, now_ms
from .store.opening import Store, open_store
from .visit import all_written

log = logging.getLogger("senryu.server")


@dataclass(slots=True, kw_only=True)
class Kept:
    """What stands on the database."""

    store: Store
    presence: Presence
    directory: Directory
    ledger: Ledger
    files: Files
    batches: Batches
    worker: BatchWorker | None = None


@dataclass(slots=True, kw_only=True)
class Tenancy:
    """Who may do how much, and what is kept of it."""

    callers: Callers
    limiter: Limiter
    kept: Kept | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, answer: Answer, *, batch_streams: int, batch_days: float) -> None:
        """Begin the work that goes on beside requests: `answer` answers those of batches."""
        if self.kept is None:
            return
        kept = self.kept
        await kept.files.start()
        kept.worker = BatchWorker(
            kept.store,
            answer=answer,
            streams=batch_streams,
            server_id=kept.presence.id,
            living=kept.presence.living,
            caller=self.callers.with_id,
            days=batch_days,
        )
        kept.worker.start()
        self._keep_doing(kept.directory.follow())
        self._keep_doing(self._stay_present(kept))

    def work_came(self) -> None:
        """There is something to do for the worker of the batches."""
        if self.kept is not None and self.kept.worker is not None:
            self.kept.worker.wake()

    async def stop_working(self) -> None:
        """The server is to stop: batches are left as they stand, for the next one."""
        if self.kept is not None and self.kept.worker is not None:
            await self.kept.worker.close()
            self.kept.worker = None

    async def close(self) -> None:
        """Waits for what is still to be written."""
        await self.stop_working()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await all_written()
        if self.kept is not None:
            await self.kept.batches.close()
            await self.kept.files.close()
            await self.kept.presence.leave()
            await self.kept.store.close()

    def _keep_doing(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _stay_present(self, kept: Kept) -> None:
        while True:
            try:
                await kept.presence.beat()
                await kept.ledger.lose(await kept.presence.living())
            except Exception as error:  # of the database or the network: it may pass
                log.warning("The database does not hear that this server lives: %s", error)
            await asyncio.sleep(BEAT)


def without_database(settings: ServerSettings, secret: bytes) -> Tenancy:
    """Nothing is kept."""
    return Tenancy(callers=Callers(settings, secret), limiter=Limiter())


async def open_tenancy(settings: ServerSettings, secret: bytes) -> Tenancy:
    """What the settings say. Raises StoreError and SettingsError."""
    tenancy = without_database(settings, secret)
    address = database_address(settings)
    if address is None:
        return tenancy
    store = await open_store(address)
    presence = Presence(store, new_server_id())
    tenancy.kept = Kept(
        store=store,
        presence=presence,
        directory=Directory(store, tenancy.callers),
        ledger=Ledger(store, presence.id),
        files=Files(store, files_folder(settings), quota=int(settings.files_gib * 2**30)),
        batches=Batches(store, settings, server_id=presence.id, changed=tenancy.work_came),
    )
    await presence.beat()
    await tenancy.kept.directory.read()
    await tenancy.kept.ledger.lose(await presence.living())
    now = now_ms()
    tenancy.limiter.remember(await tenancy.kept.ledger.past(now), now / 1000)
    return tenancy
