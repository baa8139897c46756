"""`senryu admin`: back up, restore and check what the server keeps.

A backup and a check may be made while the server runs; a restore wants an empty database, and makes
one where there is none.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from .layers import SettingsError, add_flags, load_arguments
from .settings import ServerSettings
from .tenancy.backup import BackupError, Manifest, write_backup
from .tenancy.checking import check
from .tenancy.place import database_address, files_folder
from .tenancy.restore import restore
from .tenancy.store.opening import Store, StoreError, open_store


def main(argv: Sequence[str]) -> int:
    """1: it cannot be done, or the check found something; 2: it was asked for in a wrong way."""
    arguments = parser().parse_args(argv)
    try:
        settings = load_arguments(ServerSettings, table="server", arguments=arguments).settings
        address = database_address(settings)
        if address is None:
            raise SettingsError("database: none keeps nothing; name a database with --database")
        return asyncio.run(_run(address, files_folder(settings), arguments))
    except SettingsError as error:
        print(f"senryu admin: {error}", file=sys.stderr)
        return 2
    except (BackupError, StoreError) as error:
        print(f"senryu admin: {error}", file=sys.stderr)
        return 1
    except (SQLAlchemyError, OSError) as error:
        print(f"senryu admin: the database failed ({type(error).__name__})", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The verbs, each with its flags."""
    common = argparse.ArgumentParser(add_help=False)
    add_flags(common, ServerSettings, ("data", "database"))
    flags = argparse.ArgumentParser(
        prog="senryu admin", description="Back up, restore and check what the server keeps."
    )
    verbs = flags.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("backup", "write keys, ledger, batches and uploaded files into one file"),
        ("restore", "fill an empty database from such a file; it may be of the other kind"),
        ("check", "look whether what is kept is sound"),
    ):
        verb = verbs.add_parser(name, help=text, description=text, parents=[common])
        if name != "check":
            verb.add_argument("file", type=Path)
    return flags


async def _run(address: str, folder: Path, arguments: argparse.Namespace) -> int:
    store = await open_store(address)
    try:
        if arguments.verb == "check":
            return await _check(store, folder)
        if arguments.verb == "backup":
            now = int(time.time() * 1000)
            made = await write_backup(store, folder, arguments.file, now=now)
            print(f"{arguments.file} holds {_shown(made)}")
            if made.gone:
                print(
                    f"{made.gone} uploaded files are no longer on the disk, and were left out",
                    file=sys.stderr,
                )
        else:
            made = await restore(store, folder, arguments.file)
            print(f"{_shown(made)} were restored")
    finally:
        await store.close()
    return 0


async def _check(store: Store, folder: Path) -> int:
    found = await check(store, folder)
    for name, number in found.rows.items():
        print(f"{number:>9,}  {name}")
    for fault in found.faults:
        print(fault, file=sys.stderr)
    print(f"faults: {len(found.faults)}" if found.faults else "all is sound")
    return 1 if found.faults else 0


def _shown(made: Manifest) -> str:
    return f"{made.rows:,} rows and {made.files:,} uploaded files"
