"""Where what must outlive the server is kept: the database, and the folder of uploaded files."""

from pathlib import Path

from senryu.server import manifest
from senryu.server.settings import ServerSettings

NOWHERE = "none"


def data_folder(settings: ServerSettings) -> Path:
    """The folder of the settings, else the user's."""
    return Path(settings.data).expanduser() if settings.data else manifest.data_folder()


def database_address(settings: ServerSettings) -> str | None:
    """What `open_store` takes: a path of SQLite's or a URL; None where nothing is to be kept."""
    if settings.database == NOWHERE:
        return None
    if settings.database is None:
        return str(data_folder(settings) / "senryu.db")
    if settings.database.startswith("~"):
        return str(Path(settings.database).expanduser())
    return settings.database


def files_folder(settings: ServerSettings) -> Path:
    """The folder of uploaded files, each under its own SHA-256: `ab/cdef...`."""
    return data_folder(settings) / "files"
