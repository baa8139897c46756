"""All that a server has of tenancy, opened and closed together."""

from collections.abc import Sequence

from senryu.server.engine.base import EngineCard
from senryu.server.settings import ServerSettings

from .desk import Desk
from .limiter import Limiter
from .prices import Prices
from .visit import Observer, Rules

def make_rules(settings: ServerSettings, card: EngineCard, ledger, observers: Sequence[Observer]) -> Rules:
    return Rules(
        desk=Desk(
            seats=card.seats,
            batch_seats=settings.batch_streams or max(1, card.seats // 2),
            max_queued=settings.max_queued,
            max_queued_tokens=settings.max_queued_tokens,
        ),
        limiter=Limiter(),
        prices=Prices(settings.prices),
        ledger=ledger,
        observers=observers,
        seconds=settings.answer_seconds,
    )
