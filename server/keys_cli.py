"""`senryu keys`: the keys of a server for several people. It works on the database, whether a
server is running or not; those that run follow within a second.

What is to be kept, the key itself, goes to stdout, once; what is to be read goes to stderr.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from sqlalchemy.exc import SQLAlchemyError

from .layers import SettingsError, add_flags, load_arguments
from .settings import ServerSettings
from .tenancy import keys
from .tenancy.callers import Role
from .tenancy.keys import Key, KeyMistake, Workspace
from .tenancy.limits import Limits, read_limits
from .tenancy.place import database_address
from .tenancy.store.opening import Store, StoreError, open_store

_UNITS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_LONGEST = 36_500 * _UNITS["d"]


def main(argv: Sequence[str]) -> int:
    """1: it cannot be done; 2: it was asked for in a wrong way."""
    arguments = parser().parse_args(argv)
    try:
        settings = load_arguments(ServerSettings, table="server", arguments=arguments).settings
        address = database_address(settings)
        if address is None:
            raise SettingsError("database: none keeps no keys; name a database with --database")
        asyncio.run(_run(address, arguments, keyless=settings.keyless))
    except SettingsError as error:
        print(f"senryu keys: {error}", file=sys.stderr)
        return 2
    except (KeyMistake, StoreError) as error:
        print(f"senryu keys: {error}", file=sys.stderr)
        return 1
    except (SQLAlchemyError, OSError) as error:
        print(f"senryu keys: the database failed ({type(error).__name__})", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The verbs, each with its flags."""
    common = argparse.ArgumentParser(add_help=False)
    add_flags(common, ServerSettings, ("data", "database"))
    common.add_argument("--json", action="store_true", help="print JSON")
    flags = argparse.ArgumentParser(
        prog="senryu keys", description="The keys of a server for several people."
    )
    verbs = flags.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, parents=[common])

    expires = "how long it is good, such as 30d, 12h, 45m or 8w"
    limit = "such as requests_per_minute=60; may be given several times"
    create = verb("create", "make a key, and show it this once")
    create.add_argument("name")
    create.add_argument(
        "--role",
        choices=get_args(Role),
        default="user",
        help="user asks, batch only works through batches, admin also reads reports and metrics "
        "(default: user)",
    )
    create.add_argument(
        "--workspace",
        metavar="NAME",
        help="its keys share limits and what is cached; made if it is not there",
    )
    create.add_argument("--expires", metavar="TIME", help=f"{expires}; left out: for ever")
    create.add_argument("--limit", metavar="NAME=NUMBER", action="append", default=[], help=limit)
    verb("list", "show the keys, and never what they are").add_argument(
        "--all", action="store_true", help="the revoked ones too"
    )
    rotate = verb("rotate", "give a key another secret, and show it this once")
    rotate.add_argument("name")
    rotate.add_argument("--keep", metavar="TIME", help="how long the old one is good beside it")
    rotate.add_argument("--expires", metavar="TIME", help=f"{expires}; left out: as before")
    for name, text in (
        ("revoke", "end a key for ever"),
        ("disable", "refuse a key until it is enabled"),
        ("enable", "accept a disabled key again"),
    ):
        verb(name, text).add_argument("name")
    limiting = verb("limit", "set what a key or a workspace may use")
    limiting.add_argument("--workspace", metavar="NAME", help="of the workspace, not of a key")
    limiting.add_argument(
        "words",
        metavar="[KEY] NAME=NUMBER",
        nargs="+",
        help="NAME=none lifts a limit; others stay as they are",
    )
    return flags


async def _run(address: str, arguments: argparse.Namespace, *, keyless: bool) -> None:
    store = await open_store(address)
    try:
        match arguments.verb:
            case "create" | "rotate":
                await _make(store, arguments, keyless=keyless)
            case "list":
                await _list(store, arguments)
            case "limit":
                await _limit(store, arguments)
            case _:
                await _end(store, arguments, keyless=keyless)
    finally:
        await store.close()


async def _make(store: Store, arguments: argparse.Namespace, *, keyless: bool) -> None:
    """A key, or a key's new secret."""
    now = _now()
    expires_at = _after(now, "--expires", arguments.expires)
    if arguments.verb == "rotate":
        keep_until = _after(now, "--keep", arguments.keep)
        key, secret = await keys.rotate(
            store, arguments.name, now=now, keep_until=keep_until, expires_at=expires_at
        )
    else:
        limits = read_limits(arguments.limit, where="--limit")
        first = keyless and not await keys.has_keys(store)
        key, secret = await keys.create(
            store,
            arguments.name,
            role=arguments.role,
            workspace=arguments.workspace,
            limits=limits,
            expires_at=expires_at,
            now=now,
        )
        if first:
            _say("This is the first key: from now on the server serves nobody without one.")
    if arguments.json:
        print(json.dumps({**_told(key, now), "key": secret}))
    else:
        print(secret)
    _say(f"This is {key.name}'s key. It is not kept: it can never be shown again.")


async def _list(store: Store, arguments: argparse.Namespace) -> None:
    now = _now()
    found, workspaces = await keys.all_keys(store)
    found = [key for key in found if arguments.all or key.revoked_at is None]
    if arguments.json:
        told = {
            "keys": [_told(key, now) for key in found],
            "workspaces": [_told_workspace(workspace) for workspace in workspaces],
        }
        print(json.dumps(told, indent=2))
        return
    if not found:
        _say("There are no keys: `senryu keys create NAME` makes one.")
        return
    head = ("NAME", "ROLE", "WORKSPACE", "KEY", "STATE", "EXPIRES", "LIMITS")
    _print_table([head, *(_row(key, now) for key in found)])
    limited = [(each.name, _shown(each.limits)) for each in workspaces if each.limits]
    if limited:
        print()
        _print_table([("WORKSPACE", "LIMITS"), *limited])


async def _limit(store: Store, arguments: argparse.Namespace) -> None:
    words = list(arguments.words)
    if not arguments.workspace and "=" in words[0]:
        raise SettingsError("limit: say whose: the name of a key first, or --workspace NAME")
    name = arguments.workspace or words.pop(0)
    if not words:
        raise SettingsError(f"limit: say what {name} may use, such as requests_per_minute=60")
    change = _change(words)
    told: dict[str, Any]
    if arguments.workspace:
        workspace = await keys.limit_workspace(store, name, change)
        limits, told = workspace.limits, _told_workspace(workspace)
    else:
        key = await keys.limit_key(store, name, change)
        limits, told = key.limits, _told(key, _now())
    print(json.dumps(told) if arguments.json else f"{name}: {_shown(limits) or 'no limits'}")


async def _end(store: Store, arguments: argparse.Namespace, *, keyless: bool) -> None:
    """Revoke, disable or enable."""
    now = _now()
    if arguments.verb == "revoke":
        key = await keys.revoke(store, arguments.name, now=now)
    elif arguments.verb == "disable":
        key = await keys.disable(store, arguments.name)
    else:
        key = await keys.enable(store, arguments.name)
    print(json.dumps(_told(key, now)) if arguments.json else f"{key.name} is {key.state(now)}")
    everyone, _ = await keys.all_keys(store)
    if keyless and not any(each.state(now) == "active" for each in everyone):
        _say("No key is left that is good: the server refuses everybody until you create one.")


def _change(words: Iterable[str]) -> dict[str, float | None]:
    """Of words such as `requests_per_minute=60` and `usd_per_day=none`. Raises SettingsError."""
    lifted = [word.removesuffix("=none") for word in words if word.endswith("=none")]
    read_limits((f"{name}=0" for name in lifted), where="limit")  # they are names of limits
    given = read_limits((word for word in words if not word.endswith("=none")), where="limit")
    return {**dict.fromkeys(lifted), **given.as_dict()}


def _after(now: int, flag: str, text: str | None) -> int | None:
    """The moment so long from now. Raises SettingsError."""
    if text is None:
        return None
    parts = re.fullmatch(r"([0-9]{1,9})([mhdw])", text.strip())
    length = int(parts[1]) * _UNITS[parts[2]] if parts else 0
    if not 0 < length <= _LONGEST:
        raise SettingsError(f"{flag}: {text!r} is no length of time; write it as 30d, 12h or 45m")
    return now + length


def _told(key: Key, now: int) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "workspace": key.workspace,
        "hint": key.hint,
        "state": key.state(now),
        "limits": key.limits.as_dict(),
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
    }


def _told_workspace(workspace: Workspace) -> dict[str, Any]:
    return {
        "id": workspace.id,
        "name": workspace.name,
        "limits": workspace.limits.as_dict(),
        "created_at": _time(workspace.created_at),
    }


def _row(key: Key, now: int) -> tuple[str, ...]:
    return (
        key.name,
        key.role,
        key.workspace or "",
        f"...{key.hint}",
        key.state(now),
        (_time(key.expires_at) or "never").replace("T", " ")[:16],
        _shown(key.limits),
    )


def _shown(limits: Limits) -> str:
    return " ".join(
        f"{name}={value}".removesuffix(".0") for name, value in limits.as_dict().items()
    )


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _time(moment: int | None) -> str | None:
    """RFC 3339, UTC."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment // 1000, UTC).isoformat().replace("+00:00", "Z")


def _now() -> int:
    return int(time.time() * 1000)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
