"""Files as the wire spells them (contract 1.14): metadata and lists, the old list included."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from .errors import InvalidRequest

_FORBIDDEN = re.compile(r'[<>:"|?*\\/\x00-\x1f\x7f-\x9f]')
_MIME_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
_LONGEST_NAME = 255
_SHORTEST_LIFE, _LONGEST_LIFE = 3_600, 7_776_000


def file_body(
    *,
    id: str,  # noqa: A002 - as the contract calls it
    filename: str,
    mime_type: str,
    size_bytes: int,
    created_at: int,
    expires_at: int | None,
) -> dict[str, Any]:
    """A file's metadata; times in milliseconds since 1970. What was uploaded is not given out
    again."""
    return {
        "id": id,
        "type": "file",
        "filename": filename,
        "mime_type": mime_type,
        "size_bytes": size_bytes,
        "created_at": _moment(created_at),
        "downloadable": False,
        "expires_at": None if expires_at is None else _moment(expires_at),
    }


def list_body(data: Sequence[dict[str, Any]], next_page: str | None) -> dict[str, Any]:
    return {"data": [*data], "next_page": next_page}


def old_list_body(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """As it was under the beta files-api-2025-04-14."""
    ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": [*data], "has_more": has_more, "first_id": ends[0], "last_id": ends[1]}


def deleted_body(file_id: str) -> dict[str, Any]:
    return {"id": file_id, "type": "file_deleted"}


def check_filename(name: str) -> str:
    """Raises InvalidRequest."""
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidRequest(f"file: the filename has to have 1 to {_LONGEST_NAME} characters")
    if _FORBIDDEN.search(name):
        raise InvalidRequest(
            'file: the filename must not have control characters, nor any of < > : " | ? * \\ /'
        )
    return name


def check_mime_type(said: str) -> str:
    """Without its parameters, in small letters. Raises InvalidRequest."""
    mime_type = said.partition(";")[0].strip().lower()
    if not _MIME_TYPE.fullmatch(mime_type):
        raise InvalidRequest("file: its content-type is not spelt type/subtype")
    return mime_type


def check_life(said: str) -> int:
    """The seconds that a file is to be kept. Raises InvalidRequest."""
    if said.isascii() and said.isdecimal() and len(said) <= 7:
        seconds = int(said)
        if _SHORTEST_LIFE <= seconds <= _LONGEST_LIFE:
            return seconds
    raise InvalidRequest(
        f"expires_in_seconds: Input should be an integer from {_SHORTEST_LIFE} to {_LONGEST_LIFE}"
    )


def _moment(milliseconds: int) -> str:
    """RFC 3339, UTC."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
