"""Who may ask, and whose cached prompts they share: the keys of the settings and of the store.

What the engine keeps of a prompt is found again only under the same salt. Each key has one of its
own, and keys of one workspace have one together. A salt is made with this server's secret, so that
nobody can guess another one's, and stays the same over restarts, as what lies on the disk does.

Keys are known by their SHA-256 alone: whoever reads our memory or the store finds none, and how
long it takes to look one up tells nothing of those that there are.
"""

import hashlib
import hmac
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from senryu.server.layers import SettingsError
from senryu.server.settings import ServerSettings

from .limits import NO_LIMITS, Limits, read_limits

Role = Literal["admin", "user", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One who may ask."""

    name: str
    salt: str = field(repr=False)
    role: Role = "user"
    key_id: str | None = None
    """None for everybody on a server without keys."""
    workspace_id: str | None = None
    limits: Limits = NO_LIMITS
    workspace_limits: Limits = NO_LIMITS
    until: float = math.inf
    """When the key ends, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key of the settings, `NAME=KEY` or `NAME@GROUP=KEY`."""

    name: str
    group: str
    key: str


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. It has 256 random bits of its own, so nothing slower is wanted."""
    return hashlib.sha256(key).digest()


class Callers:
    """Those that are known; all the world where nobody is."""

    def __init__(
        self, settings: ServerSettings, secret: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        limits = read_limits(settings.key_limits, where="key_limits")
        self._settings = {
            digest_of(entry.key.encode()): _of_settings(entry, secret, limits)
            for entry in entries(settings)
        }
        self._known = dict(self._settings)
        self._keyless = not self._settings
        nobody = Entry(name="", group="", key="")
        self._anyone = Caller(name="", salt=_salt(secret, nobody), role="admin", limits=limits)
        self._secret, self._clock = secret, clock
        self.default_limits = limits

    @property
    def anyone(self) -> Caller | None:
        """Who everybody is on a server without keys; None on one with keys."""
        return self._anyone if self._keyless else None

    @property
    def salts(self) -> frozenset[str]:
        """Those of everybody who may ask."""
        known = (self._anyone,) if self._keyless else self._known.values()
        return frozenset(caller.salt for caller in known)

    def named(self, offered: Iterable[bytes]) -> Caller | None:
        """Whose key is among those offered. Every one is looked up, by its digest, which nobody can
        choose: how long it takes tells nothing."""
        found, now = None, self._clock() * 1000
        for key in offered:
            caller = self._known.get(digest_of(key))
            if caller is not None and now < caller.until:
                found = caller
        return found

    def with_id(self, key_id: str | None) -> Caller | None:
        """Who has that key now, or everybody; None where it is gone or has ended."""
        if key_id is None:
            return self.anyone
        now = self._clock() * 1000
        known = self._known.values()
        return next((each for each in known if each.key_id == key_id and now < each.until), None)

    def learn(self, stored: dict[bytes, Caller], *, keyless: bool = False) -> None:
        """From now on these are known beside those of the settings, and no others. `keyless` says
        that there has never been a stored key: where the last one was revoked nobody may ask,
        instead of everybody."""
        self._known = {**stored, **self._settings}
        self._keyless = keyless and not self._settings

    def salt(self, *, workspace_id: str | None, key_id: str) -> str:
        """That of a stored key."""
        whose = f"workspace {workspace_id}" if workspace_id else f"stored key {key_id}"
        return _hashed(self._secret, whose)


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


def _of_settings(entry: Entry, secret: bytes, limits: Limits) -> Caller:
    return Caller(
        name=entry.name,
        salt=_salt(secret, entry),
        role="admin" if entry.name == "api_key" else "user",  # the first one is the operator's
        key_id=f"settings:{entry.name}",
        workspace_id=f"settings:@{entry.group}" if entry.group else None,
        limits=limits,
    )


def _salt(secret: bytes, entry: Entry) -> str:
    return _hashed(secret, f"group {entry.group}" if entry.group else f"key {entry.key}")


def _hashed(secret: bytes, whose: str) -> str:
    return hmac.new(secret, b"senryu cache\0" + whose.encode(), hashlib.sha256).hexdigest()
