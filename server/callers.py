"""Who may ask, and whose cached prompts they share: the keys of the settings.

What the engine keeps of a prompt is found again only under the same salt. Each key has one of its
own, and keys of one group have one together. A salt is made with this server's secret, so that
nobody can guess another one's, and stays the same over restarts, as what lies on the disk does.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .settings import ServerSettings, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One who may ask."""

    name: str
    salt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key of the settings, `NAME=KEY` or `NAME@GROUP=KEY`."""

    name: str
    group: str
    key: str


class Callers:
    """Those that the settings name; all the world where they name none."""

    def __init__(self, settings: ServerSettings, secret: bytes) -> None:
        self._known = [
            (entry.key.encode(), Caller(name=entry.name, salt=_salt(secret, entry)))
            for entry in entries(settings)
        ]
        nobody = Entry(name="", group="", key="")
        self.anyone = None if self._known else Caller(name="", salt=_salt(secret, nobody))
        """Who everybody is on a server without keys; None on one with keys."""

    @property
    def salts(self) -> frozenset[str]:
        """Those of everybody who may ask."""
        known = [caller for _, caller in self._known]
        return frozenset(caller.salt for caller in (*known, self.anyone) if caller is not None)

    def named(self, offered: Iterable[bytes]) -> Caller | None:
        """Whose key is among those offered. Every one is compared with every key, and in constant
        time: how long it takes tells nothing."""
        found = None
        for key in offered:
            for known, caller in self._known:
                if hmac.compare_digest(key, known):
                    found = caller
        return found


def entries(settings: ServerSettings) -> list[Entry]:
    """The keys of the settings. Raises SettingsError for one that is not spelt so."""
    found = list(_entries(settings))
    for each in ("name", "key"):
        values = [getattr(entry, each) for entry in found]
        if len(set(values)) < len(values):
            raise SettingsError(f"api_keys: two keys have the same {each}; each needs its own")
    return found


def _entries(settings: ServerSettings) -> Iterator[Entry]:
    if settings.api_key is not None:
        yield Entry(name="api_key", group="", key=settings.api_key)
    for place, text in enumerate(settings.api_keys):
        owner, _, key = text.partition("=")
        name, at, group = owner.partition("@")
        if not name.strip() or not key.strip() or (at and not group.strip()):
            raise SettingsError(  # without the text: it may hold a key
                f"api_keys: entry {place + 1} is not spelt NAME=KEY or NAME@GROUP=KEY"
            )
        yield Entry(name=name.strip(), group=group.strip(), key=key.strip())


def _salt(secret: bytes, entry: Entry) -> str:
    whose = f"group {entry.group}" if entry.group else f"key {entry.key}"
    return hmac.new(secret, b"senryu cache\0" + whose.encode(), hashlib.sha256).hexdigest()
