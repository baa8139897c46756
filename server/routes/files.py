"""The Files API (contract 1.14): /v1/files, with the old list for clients of its beta."""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.datastructures import QueryParams
from starlette.responses import Response

from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.files import Files, Place, StoredFile, place_of
from senryu.server.wire.errors import InvalidRequest, NotFound
from senryu.server.wire.files import deleted_body, file_body, list_body, old_list_body

from .reading import api_version, betas, check_credential
from .replies import json_reply
from .uploads import receive_file

router = APIRouter()

_BETA = "files-api-2025-04-14"
_CURSOR = "page_"
_MOST_IDS = 100
_PLACE = re.compile(r"(\d{1,15})\.(file_\w{1,35})", re.ASCII)


@router.post("/v1/files")
async def upload_file(request: Request) -> Response:
    files, caller, _ = _asked(request)
    settings: ServerSettings = request.app.state.settings
    async with files.upload(caller) as upload:
        return json_reply(_body(await receive_file(request, settings, upload)))


@router.get("/v1/files")
async def list_files(request: Request) -> Response:
    files, caller, spoken = _asked(request)
    query = request.query_params
    old = _BETA in spoken
    if ids := [*query.getlist("ids[]"), *query.getlist("ids")]:
        found = await files.several(caller, _checked_ids(ids, query))
        return _listed(found, more=False, old=old)
    limit = _limit(query)
    if old and "page" not in query:
        after, before = query.get("after_id"), query.get("before_id")
        if after is not None and before is not None:
            raise InvalidRequest("after_id: cannot be combined with before_id")
        found, more = await files.page(
            caller,
            limit=limit,
            after=await _standing(files, caller, after, "after_id"),
            before=await _standing(files, caller, before, "before_id"),
        )
        return _listed(found, more=more, old=True)
    page = query.get("page")
    after_place = None if page is None else _place(page)
    found, more = await files.page(caller, limit=limit, after=after_place)
    return _listed(found, more=more, old=False)


@router.get("/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Response:
    files, caller, _ = _asked(request)
    return json_reply(_body(await files.get(caller, file_id)))


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    files, caller, _ = _asked(request)
    await files.delete(caller, file_id)
    return json_reply(deleted_body(file_id))


@router.get("/v1/files/{file_id}/content")
async def download_file(request: Request, file_id: str) -> Response:
    files, caller, _ = _asked(request)
    await files.get(caller, file_id)
    raise InvalidRequest(
        f"File {file_id} was uploaded, and what was uploaded is not given out again; keep your own "
        "copy",
        details={"error_code": "file_not_downloadable"},
    )


def _asked(request: Request) -> tuple[Files, Caller, frozenset[str]]:
    """What every call wants; headers are checked in the contract's order (4.1)."""
    settings: ServerSettings = request.app.state.settings
    caller = check_credential(request)
    api_version(request, settings)
    spoken = betas(request, settings)
    files: Files | None = request.app.state.files
    if files is None:
        raise NotFound("This server keeps no files: its setting `database` is none")
    return files, caller, spoken


def _body(file: StoredFile) -> dict[str, object]:
    told = asdict(file)
    del told["sha256"]
    return file_body(**told)


def _listed(found: list[StoredFile], *, more: bool, old: bool) -> Response:
    data = [_body(file) for file in found]
    if old:
        return json_reply(old_list_body(data, has_more=more))
    return json_reply(list_body(data, _cursor(place_of(found[-1])) if more else None))


def _limit(query: QueryParams) -> int:
    limit = query.get("limit", "20")
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= 1000):
        raise InvalidRequest("limit: Input should be an integer from 1 to 1000")
    return int(limit)


def _checked_ids(asked: Iterable[str], query: QueryParams) -> list[str]:
    for other in ("limit", "page", "after_id", "before_id"):
        if other in query:
            raise InvalidRequest(f"ids: cannot be combined with {other}")
    ids = list(dict.fromkeys(asked))
    if len(ids) > _MOST_IDS:
        raise InvalidRequest(f"ids: List should have at most {_MOST_IDS} items")
    return ids


async def _standing(files: Files, caller: Caller, file_id: str | None, name: str) -> Place | None:
    """Where a list is to go on."""
    if file_id is None:
        return None
    try:
        return place_of(await files.get(caller, file_id))
    except NotFound as error:
        raise InvalidRequest(f"{name}: {error.message}") from None


def _cursor(place: Place) -> str:
    when, file_id = place
    return _CURSOR + base64.urlsafe_b64encode(f"{when}.{file_id}".encode()).decode().rstrip("=")


def _place(cursor: str) -> Place:
    """Raises InvalidRequest for what is no cursor of ours."""
    told = cursor.removeprefix(_CURSOR)
    try:
        text = base64.b64decode(told + "=" * (-len(told) % 4), altchars=b"-_", validate=True)
        place = _PLACE.fullmatch(text.decode("ascii"))
    except (binascii.Error, UnicodeDecodeError, ValueError):
        place = None
    if place is None or not cursor.startswith(_CURSOR):
        raise InvalidRequest("page: send the next_page of the list before")
    return int(place[1]), place[2]
