"""Message Batches as clients see them (contract 1.12): what they send, and what they are told.

In: the text of a batch, element by element, and the facts of a stored one. Out: items to be stored,
and what the JSON encoder takes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from .errors import ApiError, InvalidRequest
from .long_json import Read, elements, member

MOST_REQUESTS = 100_000

_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# What a Messages request may say and one of a batch may not; the rest is seen when it is read.
_REFUSED = ("speed", "fallbacks")


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a batch."""

    number: int
    custom_id: str
    params: str
    """The body of a Messages request, as it was sent; whether it is a good one, nobody has seen."""
    refusal: InvalidRequest | None
    """Why it will not be answered, where that is plain already."""


def read_items(read: Read, *, most_bytes: int) -> Iterator[Item]:
    """The requests of a batch. Raises InvalidRequest, and RequestTooLarge for one of more than
    `most_bytes`. That no name is there twice is for others to see, who need not hold them all."""
    number = -1
    for number, text in enumerate(elements(read, "requests", most_bytes=most_bytes)):
        if number == MOST_REQUESTS:
            raise InvalidRequest(
                f"requests: List should have at most {MOST_REQUESTS} items; send more batches"
            )
        yield _item(number, text)
    if number < 0:
        raise InvalidRequest("requests: List should have at least 1 item after validation, not 0")


def _item(number: int, text: bytes) -> Item:
    where = f"requests.{number}"
    try:
        item = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {where}: {error}") from None
    if not isinstance(item, dict):
        raise InvalidRequest(f"{where}: Input should be a valid dictionary")
    custom_id, params = _needed(item, where, "custom_id"), _needed(item, where, "params")
    if not isinstance(custom_id, str):
        raise InvalidRequest(f"{where}.custom_id: Input should be a valid string")
    if not _CUSTOM_ID.fullmatch(custom_id):
        raise InvalidRequest(
            f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
        )
    if not isinstance(params, dict):
        raise InvalidRequest(f"{where}.params: Input should be a valid dictionary")
    for name in item:
        if name not in ("custom_id", "params"):
            raise InvalidRequest(f"{where}.{name}: Extra inputs are not permitted")
    refused = [name for name in _REFUSED if params.get(name) is not None]
    refusal = InvalidRequest(f"{refused[0]}: is not supported in a batch") if refused else None
    return Item(number, custom_id, member(text, "params").decode(), refusal)


def _needed(item: dict[str, Any], where: str, name: str) -> Any:
    if name not in item:
        raise InvalidRequest(f"{where}.{name}: Field required")
    return item[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A stored batch. Times are in milliseconds since 1970, UTC."""

    id: str
    status: str
    """in_progress, canceling or ended."""
    created_at: int
    expires_at: int
    cancel_initiated_at: int | None
    ended_at: int | None
    archived_at: int | None
    requests: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


def batch_body(batch: Batch, results_url: str) -> dict[str, Any]:
    """Its results are offered once there are all of them, as long as they are kept."""
    ended = batch.status == "ended"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": batch.status,
        "request_counts": {
            "processing": 0 if ended else batch.requests,
            "succeeded": batch.succeeded,
            "errored": batch.errored,
            "canceled": batch.canceled,
            "expired": batch.expired,
        },
        "ended_at": _time(batch.ended_at),
        "created_at": _time(batch.created_at),
        "expires_at": _time(batch.expires_at),
        "archived_at": _time(batch.archived_at),
        "cancel_initiated_at": _time(batch.cancel_initiated_at),
        "results_url": results_url if ended and batch.archived_at is None else None,
    }


def deleted_body(batch_id: str) -> dict[str, Any]:
    return {"id": batch_id, "type": "message_batch_deleted"}


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    whole = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return whole.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def succeeded(message: bytes) -> str:
    """The result that is a message, given as JSON."""
    return f'{{"type":"succeeded","message":{message.decode()}}}'


def errored(error: ApiError, request_id: str) -> str:
    return orjson.dumps({"type": "errored", "error": error.body(request_id)}).decode()


def result_line(custom_id: str, state: str, result: str | None) -> bytes:
    """One line of the results; those that were not answered have no more to tell than why."""
    told = result if result is not None else f'{{"type":"{state}"}}'
    return f'{{"custom_id":"{custom_id}","result":{told}}}\n'.encode()
