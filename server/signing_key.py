"""This server's secret, which thinking blocks are signed with and cached prompts are kept apart by:
the operator's, or one made once and kept.

A kept one lies in the cache folder, so that a thought is known again after a restart and by every
server of this user. It is complete or not there: a draft is linked to its name, and of servers
that start at once the first one's key is everybody's.
"""

import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from .manifest import cache_folder
from .settings import ServerSettings

log = logging.getLogger("senryu.server")

_KEY_BYTES = 32


def read_secret(settings: ServerSettings) -> bytes:
    """The signing key of the settings, or the kept one. Where none can be kept, one that holds
    until this process ends."""
    if settings.signing_key is not None:
        return settings.signing_key.encode()
    file = cache_folder() / "signing-key"
    try:
        return _kept(file)
    except OSError as error:
        log.warning(
            "Thinking blocks and cached prompts will not be known again after a restart (%s): set "
            "signing_key, or SENRYU_CACHE to a folder that can be written",
            error,
        )
        return secrets.token_bytes(_KEY_BYTES)


def _kept(file: Path) -> bytes:
    """The key in `file`, made first if it is not there. Raises OSError."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Such a file is for its owner's eyes only, mode 0600.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.") as draft:
            draft.write(secrets.token_bytes(_KEY_BYTES))
            draft.flush()
            os.fsync(draft.fileno())
            with suppress(FileExistsError):  # another server was first
                os.link(draft.name, file)
    key = file.read_bytes()
    if len(key) < _KEY_BYTES:
        raise OSError(f"{file} holds no key; remove it")
    return key
