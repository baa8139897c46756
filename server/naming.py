"""The rule by which the id that a client asks for finds its model."""

from fnmatch import fnmatchcase

from .engine.base import EngineCard
from .settings import ServerSettings
from .wire.errors import NotFound


def resolve_model(asked: str, settings: ServerSettings, card: EngineCard) -> str:
    """The id of the model that answers to `asked`: its own id, or a pattern of `aliases`.
    Raises NotFound."""
    if asked == card.model or any(fnmatchcase(asked, alias) for alias in settings.aliases):
        return card.model
    raise NotFound(f"model: {asked}")
