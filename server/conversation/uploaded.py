"""Uploaded files that a request names, found and read for the blocks that they are in."""

from senryu.server.wire.errors import InvalidRequest, NotFound

from .media import File, FileMissing, MediaError
from .media_budget import MediaBudget
from .terms import Terms


def found_file(terms: Terms, file_id: str, here: str) -> File:
    """Raises NotFound, and InvalidRequest where it cannot be looked for."""
    try:
        return terms.media.file(file_id)
    except FileMissing as error:
        raise NotFound(f"{here}.file_id: {error}", details=error.details) from None
    except MediaError as error:
        raise InvalidRequest(f"{here}: {error}", details=error.details) from None


def read_file(file: File, budget: MediaBudget, here: str) -> bytes:
    """Raises InvalidRequest for more than a request may bring, and NotFound."""
    budget.add_file(file.size, here)
    try:
        return file.read()
    except FileMissing as error:
        raise NotFound(f"{here}.file_id: {error}", details=error.details) from None
