"""The keys and workspaces that the store keeps: made, shown once, rotated, disabled, revoked.

A key is 256 random bits behind `sk-senryu-`. Only its digest is kept, and its last signs, by which
people tell keys apart. A row outlives its key: the reports name it by what it was called.

Each change also counts up the one row of `changes`, by which running servers see that there was
one (`directory`).
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import RowMapping, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server.identifiers import new_id

from .callers import Role, digest_of
from .limits import NO_LIMITS, Limits
from .store.opening import Result, Store, Work
from .store.tables import changes, keys, workspaces

State = Literal["active", "disabled", "expired", "revoked"]

PREFIX = "sk-senryu-"
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_SIGNS = 44  # of these 58: 257 bits, and a double click selects all of them
_HINT = 4
_NAME = re.compile(r"\w[\w.@+-]{0,63}")


class KeyMistake(Exception):
    """What was asked of the keys cannot be done. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Keys that share limits and what is cached."""

    id: str
    name: str
    limits: Limits
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key."""

    id: str
    name: str
    role: Role
    workspace: str | None
    """Its name."""
    hint: str
    """The last signs of the key."""
    limits: Limits
    created_at: int
    expires_at: int | None
    disabled: bool
    revoked_at: int | None

    def state(self, now: int) -> State:
        if self.revoked_at is not None:
            return "revoked"
        if self.disabled:
            return "disabled"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


async def has_keys(store: Store) -> bool:
    """Whether there has ever been one: from then on nobody is served without."""
    async with store.reading() as connection:
        return (await connection.execute(select(keys.c.id).limit(1))).first() is not None


async def all_keys(store: Store) -> tuple[list[Key], list[Workspace]]:
    """Those that there are and were, by name."""
    async with store.reading() as connection:
        found = [_key(row) for row in (await connection.execute(_KEYS)).mappings()]
        rows = (await connection.execute(select(workspaces).order_by(workspaces.c.name))).mappings()
        return found, [_workspace(row) for row in rows]


async def create(
    store: Store,
    name: str,
    *,
    role: Role,
    workspace: str | None,
    limits: Limits = NO_LIMITS,
    expires_at: int | None = None,
    now: int,
) -> tuple[Key, str]:
    """A new key, and what its owner is to send. A workspace that is not there is made. Raises
    KeyMistake."""
    _check_name("key", name)
    secret, id_ = _new_secret(), new_id("apikey")

    async def work(connection: AsyncConnection) -> Key:
        taken = await _find(connection, name)
        if taken is not None:
            was = "was revoked, and the reports still name it" if taken.revoked_at else "exists"
            raise KeyMistake(f"a key called {name} {was}; take another name, or rotate that one")
        row = {
            "id": id_,
            "name": name,
            "workspace_id": await _workspace_id(connection, workspace, now),
            "role": role,
            "digest": digest_of(secret.encode()).hex(),
            "hint": secret[-_HINT:],
            "limits": limits.as_dict(),
            "created_at": now,
            "expires_at": expires_at,
            "disabled": False,
        }
        await connection.execute(insert(keys).values(row))
        return await _named(connection, name)

    return await _change(store, work), secret


async def rotate(
    store: Store, name: str, *, now: int, keep_until: int | None, expires_at: int | None = None
) -> tuple[Key, str]:
    """The same key with another secret, and that. The one before is good till `keep_until`, and no
    longer where that is None; `expires_at` None leaves the key's own end as it is. Raises
    KeyMistake."""
    secret = _new_secret()

    async def work(connection: AsyncConnection) -> Key:
        key = await _changeable(connection, name)
        if expires_at is None and key.state(now) == "expired":
            raise KeyMistake(f"{name} has expired; say how long the new one is good, --expires 30d")
        new: dict[str, Any] = {
            "digest": digest_of(secret.encode()).hex(),
            "hint": secret[-_HINT:],
            "old_digest": None if keep_until is None else keys.c.digest,
            "old_expires_at": keep_until,
        }
        if expires_at is not None:
            new["expires_at"] = expires_at
        await connection.execute(update(keys).where(keys.c.name == name).values(new))
        return await _named(connection, name)

    return await _change(store, work), secret


async def revoke(store: Store, name: str, *, now: int) -> Key:
    """It is good no more, and never again. Raises KeyMistake."""
    return await _set(store, name, {"revoked_at": now})


async def disable(store: Store, name: str) -> Key:
    """It is good no more until it is enabled. Raises KeyMistake."""
    return await _set(store, name, {"disabled": True})


async def enable(store: Store, name: str) -> Key:
    """It is good again. Raises KeyMistake."""
    return await _set(store, name, {"disabled": False})


async def limit_key(store: Store, name: str, change: Mapping[str, float | None]) -> Key:
    """These limits are set, those that are None are lifted, others stay. Raises KeyMistake."""

    async def work(connection: AsyncConnection) -> Key:
        key = await _changeable(connection, name)
        limits = _changed(key.limits, change)
        await connection.execute(update(keys).where(keys.c.name == name).values(limits=limits))
        return await _named(connection, name)

    return await _change(store, work)


async def limit_workspace(store: Store, name: str, change: Mapping[str, float | None]) -> Workspace:
    """The same for a workspace. Raises KeyMistake."""
    query = select(workspaces).where(workspaces.c.name == name)

    async def work(connection: AsyncConnection) -> Workspace:
        row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise KeyMistake(f"there is no workspace {name}; `keys create --workspace` makes one")
        limits = _changed(_workspace(row).limits, change)
        await connection.execute(
            update(workspaces).where(workspaces.c.name == name).values(limits=limits)
        )
        return _workspace((await connection.execute(query)).mappings().one())

    return await _change(store, work)


async def _set(store: Store, name: str, values: dict[str, Any]) -> Key:
    async def work(connection: AsyncConnection) -> Key:
        await _changeable(connection, name)
        await connection.execute(update(keys).where(keys.c.name == name).values(values))
        return await _named(connection, name)

    return await _change(store, work)


async def _change(store: Store, work: Work[Result]) -> Result:
    """Do it, and tell the servers."""

    async def counted(connection: AsyncConnection) -> Result:
        if connection.dialect.name == "postgresql":
            # Of two that change keys at once one goes first, and the other then sees what it did.
            await connection.execute(text("LOCK TABLE changes IN EXCLUSIVE MODE"))
        result = await work(connection)
        await count_change(connection)
        return result

    return await store.write(counted)


async def count_change(connection: AsyncConnection) -> None:
    """Servers that use this database read their keys anew."""
    await connection.execute(
        update(changes).where(changes.c.name == "keys").values(number=changes.c.number + 1)
    )


_KEYS = (
    select(keys, workspaces.c.name.label("workspace"))
    .join(workspaces, keys.c.workspace_id == workspaces.c.id, isouter=True)
    .order_by(keys.c.name)
)


async def _find(connection: AsyncConnection, name: str) -> Key | None:
    row = (await connection.execute(_KEYS.where(keys.c.name == name))).mappings().first()
    return None if row is None else _key(row)


async def _named(connection: AsyncConnection, name: str) -> Key:
    key = await _find(connection, name)
    if key is None:
        raise KeyMistake(f"there is no key called {name}; `senryu keys list` shows them")
    return key


async def _changeable(connection: AsyncConnection, name: str) -> Key:
    key = await _named(connection, name)
    if key.revoked_at is not None:
        raise KeyMistake(f"{name} was revoked, which is for ever; create another key")
    return key


async def _workspace_id(connection: AsyncConnection, name: str | None, now: int) -> str | None:
    """That of the workspace, which is made if it is not there."""
    if name is None:
        return None
    found = await connection.execute(select(workspaces.c.id).where(workspaces.c.name == name))
    id_: str | None = found.scalar()
    if id_ is None:
        _check_name("workspace", name)
        id_ = new_id("wrkspc")
        row = {"id": id_, "name": name, "limits": {}, "created_at": now}
        await connection.execute(insert(workspaces).values(row))
    return id_


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise KeyMistake(
            f"{name!r} cannot be the name of a {what}: take letters, digits and any of ._@+-, "
            "at most 64, of which the first is a letter or a digit"
        )


def _changed(limits: Limits, change: Mapping[str, float | None]) -> dict[str, float]:
    together = {**limits.as_dict(), **change}
    return {name: value for name, value in together.items() if value is not None}


def _new_secret() -> str:
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SIGNS))


def _key(row: RowMapping) -> Key:
    names = ("id", "name", "role", "workspace", "hint", "created_at", "expires_at", "revoked_at")
    return Key(
        **{name: row[name] for name in names},
        limits=Limits(**row["limits"]),
        disabled=bool(row["disabled"]),
    )


def _workspace(row: RowMapping) -> Workspace:
    limits = Limits(**row["limits"])
    return Workspace(id=row["id"], name=row["name"], limits=limits, created_at=row["created_at"])
