"""The Files API over a socket, with the official client as the judge, on both databases."""

import asyncio
import base64
import gzip
import io
import socket
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anthropic
import httpx
import pytest
import uvicorn
from anthropic import AsyncAnthropic
from fastapi import Request

from senryu.server.app import build_app
from senryu.server.engine.scripted import IMAGE_TOKENS, ScriptedEngine
from senryu.server.http import protocol_for
from senryu.server.routes.uploads import receive_file
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.files import Files
from senryu.server.tenancy.store.opening import Store

Client = Callable[..., AsyncAnthropic]
BETA = {"anthropic-beta": "files-api-2025-04-14"}
SETTINGS: dict[str, Any] = {
    "engine": "scripted",
    "signing_key": "the tests' own",
    "api_keys": ("ann=ann", "bob=bob", "cy@team=cy", "di@team=di"),
    "file_limit_mb": 2.0,
}


@pytest.fixture
async def files(store: Store, tmp_path: Path) -> AsyncIterator[Files]:
    made = Files(store, tmp_path / "files", quota=2**22)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def url(files: Files) -> AsyncIterator[str]:
    settings = ServerSettings(**SETTINGS)
    app = cast(Any, build_app(settings, ScriptedEngine(sees=True)))
    app.state.files = files
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=protocol_for(settings), loop="none", lifespan="off", log_level="warning"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest.fixture
async def judge(url: str) -> AsyncIterator[Client]:
    made = []

    def judge(key: str = "ann") -> AsyncAnthropic:
        made.append(AsyncAnthropic(base_url=url, api_key=key, max_retries=0))
        return made[-1]

    yield judge
    for client in made:
        await client.close()


@pytest.fixture
async def raw(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=url, headers={"x-api-key": "ann"}, timeout=20, trust_env=False
    ) as client:
        yield client


def png(width: int = 3, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    whole = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + whole


async def code_of(asked: Awaitable[Any], kind: type[anthropic.APIStatusError]) -> str | None:
    """The code of a refusal of this kind."""
    with pytest.raises(kind) as refused:
        await asked
    body: Any = refused.value.body
    code: str | None = (body["error"].get("details") or {}).get("error_code")
    return code


async def test_the_official_client_uploads_lists_asks_and_deletes(judge: Client) -> None:
    client = judge()
    for files in (client.files, client.beta.files):
        made = await files.upload(file=("notes.txt", io.BytesIO(b"Be it known."), "text/plain"))
        assert (made.filename, made.mime_type, made.size_bytes) == ("notes.txt", "text/plain", 12)
        assert (made.type, made.downloadable, made.expires_at) == ("file", False, None)
        assert await files.retrieve_metadata(made.id) == made
        assert [file async for file in files.list()] == [made]
        assert await code_of(files.download(made.id), anthropic.BadRequestError) == (
            "file_not_downloadable"
        )
        gone = await files.delete(made.id)
        assert (gone.id, gone.type) == (made.id, "file_deleted")
        for ask in (files.retrieve_metadata, files.delete, files.download):
            assert await code_of(ask(made.id), anthropic.NotFoundError) is None


async def test_a_file_stands_for_what_it_holds(judge: Client) -> None:
    client = judge()
    text = await client.files.upload(file=("a.txt", b"Be it known.", "text/plain"))
    picture = await client.files.upload(file=("a.png", png(), "image/png"))

    async def tokens(*content: Any) -> int:
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}]
        counted = await client.messages.count_tokens(model="scripted", messages=cast(Any, messages))
        answer = await client.messages.create(
            model="scripted", messages=cast(Any, messages), max_tokens=5
        )
        assert answer.usage.input_tokens == counted.input_tokens
        return counted.input_tokens

    def block(kind: str, file_id: str) -> dict[str, Any]:
        return {"type": kind, "source": {"type": "file", "file_id": file_id}}

    plain = {"type": "text", "media_type": "text/plain", "data": "Be it known."}
    assert await tokens(block("document", text.id)) == await tokens(
        {"type": "document", "source": plain}
    )
    data = base64.b64encode(png()).decode()
    same = {"type": "base64", "media_type": "image/png", "data": data}
    shown = await tokens(block("image", picture.id))
    assert shown == await tokens({"type": "image", "source": same}) > IMAGE_TOKENS
    for kind, file in (("image", text), ("document", picture)):
        assert await code_of(tokens(block(kind, file.id)), anthropic.BadRequestError) is None
    assert await code_of(tokens(block("image", "file_none")), anthropic.NotFoundError) is None


async def test_a_stranger_meets_no_file_in_a_message_and_a_colleague_does(judge: Client) -> None:
    file = await judge("cy").files.upload(file=("a.txt", b"Be it known.", "text/plain"))
    source: Any = {"type": "file", "file_id": file.id}
    messages: Any = [{"role": "user", "content": [{"type": "document", "source": source}]}]
    ask = {"model": "scripted", "max_tokens": 5, "messages": messages}
    assert (await judge("di").messages.create(**ask)).stop_reason == "max_tokens"
    for stranger in ("ann", "bob"):
        client = judge(stranger)
        assert await code_of(client.messages.create(**ask), anthropic.NotFoundError) is None
        for refused in (client.files.retrieve_metadata, client.files.delete):
            assert await code_of(refused(file.id), anthropic.NotFoundError) is None
        assert [each async for each in client.files.list(ids=[file.id])] == []


async def test_pages_and_lists_of_ids(judge: Client) -> None:
    files = judge().files
    ids = [(await files.upload(file=(f"{n}.txt", b"x", "text/plain"))).id for n in range(5)]
    found = [file.id async for file in files.list(limit=2)]
    assert sorted(found) == sorted(ids)
    some = [file.id async for file in files.list(ids=[ids[3], ids[0], ids[0], "file_none"])]
    assert sorted(some) == sorted([ids[0], ids[3]])
    for wrong in (
        files.list(ids=["a"], limit=3),
        files.list(ids=[str(number) for number in range(101)]),
        files.list(page="page_x"),
        files.list(page=base64.b64encode(b"1.file_x").decode()),
        files.list(limit=0),
        files.list(limit=1001),
    ):
        assert await code_of(cast(Any, wrong), anthropic.BadRequestError) is None


async def test_the_old_list_goes_both_ways(judge: Client, raw: httpx.AsyncClient) -> None:
    for number in range(5):
        await judge().files.upload(file=(f"{number}.txt", b"x", "text/plain"))

    async def page(**query: Any) -> Any:
        return (await raw.get("/v1/files", params=query, headers=BETA)).json()

    whole = await page()
    ids = [file["id"] for file in whole["data"]]
    assert whole == {
        "data": whole["data"],
        "has_more": False,
        "first_id": ids[0],
        "last_id": ids[-1],
    }
    first = await page(limit=2)
    assert (first["has_more"], first["last_id"]) == (True, ids[1])
    second = await page(limit=2, after_id=first["last_id"])
    assert [file["id"] for file in second["data"]] == ids[2:4]
    back = await page(limit=2, before_id=second["first_id"])
    assert ([file["id"] for file in back["data"]], back["has_more"]) == (ids[:2], False)
    for wrong in ({"after_id": ids[0], "before_id": ids[1]}, {"after_id": "file_none"}):
        assert (await page(**wrong))["error"]["type"] == "invalid_request_error"
    none = await page(before_id=ids[0])
    assert none == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_a_file_ends_when_it_was_said_to(judge: Client) -> None:
    files = judge().files
    made = await files.upload(file=("a.txt", b"x"), expires_in_seconds=3600)
    assert made.expires_at == made.created_at + timedelta(hours=1)
    for wrong in (3599, 7_776_001, -1):
        asked = files.upload(file=("a.txt", b"x"), expires_in_seconds=wrong)
        assert await code_of(asked, anthropic.BadRequestError) is None


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a:b", "a?", "a*", "<", "a|b", "n" * 256])
async def test_a_filename_that_is_none_is_refused(raw: httpx.AsyncClient, name: str) -> None:
    reply = await raw.post("/v1/files", files={"file": (name, b"x")})
    assert reply.status_code == 400
    assert "filename" in reply.json()["error"]["message"]


async def test_names_and_types_are_kept_as_they_should_be(raw: httpx.AsyncClient) -> None:
    for name, said, kept in (
        ("ä 雨.txt", "Text/Plain; charset=utf-8", ("ä 雨.txt", "text/plain")),
        ("n" * 255, "a/b", ("n" * 255, "a/b")),
        ("a.pdf", "", ("a.pdf", "application/pdf")),
        ("a.unheard-of", "", ("a.unheard-of", "application/octet-stream")),
        ("", "image/png", ("unnamed.png", "image/png")),
    ):
        kind = f"content-type: {said}\r\n" if said else ""
        body = (
            f'--b\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n{kind}'
            "\r\nx\r\n--b--\r\n"
        )
        headers = {"content-type": "multipart/form-data; boundary=b"}
        told = (await raw.post("/v1/files", content=body.encode(), headers=headers)).json()
        assert (told["filename"], told["mime_type"]) == kept


GOOD = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (GOOD, "application/json"),
        (GOOD, "multipart/form-data"),
        (GOOD, "multipart/form-data; boundary=c"),
        (GOOD, f"multipart/form-data; boundary={'b' * 300}"),
        (GOOD[:-8], "multipart/form-data; boundary=b"),
        (GOOD.replace(b'"file"', b'"other"'), "multipart/form-data; boundary=b"),
        (GOOD.replace(b'"a"', b'"\xff"'), "multipart/form-data; boundary=b"),
        (
            GOOD.replace(b"\r\n\r\nx", b"\r\ncontent-type: x\r\n\r\nx"),
            "multipart/form-data; boundary=b",
        ),
        (GOOD[:-4] + GOOD[3:], "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (b"--b\r\n" + b"x: " + b"y" * 10_000, "multipart/form-data; boundary=b"),
    ],
)
async def test_what_is_no_upload_is_told_why(
    raw: httpx.AsyncClient, files: Files, body: bytes, kind: str
) -> None:
    reply = await raw.post("/v1/files", content=body, headers={"content-type": kind})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert await files.used() == 0
    assert list((files.contents.folder / "incoming").iterdir()) == []


async def test_a_file_is_kept_byte_by_byte_however_its_body_is_cut(
    raw: httpx.AsyncClient, files: Files
) -> None:
    data = b"\r\n--b\r\n-" + bytes(range(256)) * 6000 + b"\r\n--"
    head = b'--bb\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = head + data + b"\r\n--bb--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=bb"}

    async def cut() -> AsyncIterator[bytes]:
        for at in range(200):
            yield body[at : at + 1]
        for at in range(200, len(body), 9973):
            yield body[at : at + 9973]

    for content, more in (
        (body, {}),
        (cut(), {}),
        (gzip.compress(body[:100]) + gzip.compress(body[100:]), {"content-encoding": "gzip"}),
    ):
        reply = await raw.post("/v1/files", content=content, headers=headers | more)
        assert reply.status_code == 200, reply.text
        (bucket,) = files.contents.buckets()
        (sha256,) = files.contents.within(bucket)
        assert files.contents.read(sha256) == data
        assert (await raw.delete(f"/v1/files/{reply.json()['id']}")).status_code == 200


async def test_a_packed_upload_has_its_limits_and_its_form(raw: httpx.AsyncClient) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    bomb = gzip.compress(head + bytes(2**24))
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for body, encoding, status in (
        (bomb, "gzip", 413),
        (bomb[:100], "gzip", 400),
        (b"x", "gzip", 400),
        (GOOD, "br", 400),
    ):
        headers = kind | {"content-encoding": encoding}
        reply = await raw.post("/v1/files", content=body, headers=headers)
        assert reply.status_code == status


async def test_a_file_beyond_the_limit_is_a_413_and_leaves_nothing(
    judge: Client, raw: httpx.AsyncClient, files: Files
) -> None:
    upload = judge().files.upload
    await upload(file=("a", b"x" * 2**21))
    await code_of(upload(file=("a", b"x" * (2**21 + 1))), anthropic.RequestTooLargeError)
    await code_of(upload(file=("a", b"x" * 2**23)), anthropic.RequestTooLargeError)

    async def unannounced() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(64):
            yield bytes(2**16)

    headers = {"content-type": "multipart/form-data; boundary=b"}
    reply = await raw.post("/v1/files", content=unannounced(), headers=headers)
    assert reply.status_code == 413
    assert await files.used() == 2**21
    assert list((files.contents.folder / "incoming").iterdir()) == []


async def test_the_quota_is_told_with_its_code(judge: Client) -> None:
    upload = judge().files.upload
    for _ in range(2):
        await upload(file=("a", b"x" * 2**21))
    assert await code_of(upload(file=("a", b"x")), anthropic.BadRequestError) == (
        "storage_quota_exceeded"
    )


async def test_a_wrong_key_uploads_nothing_and_a_server_without_a_store_keeps_none(
    judge: Client, files: Files, client_for: Any
) -> None:
    asked = judge("nobody").files.upload(file=("a", b"x"))
    await code_of(asked, anthropic.AuthenticationError)
    assert await files.used() == 0
    for method, path in (("POST", ""), ("GET", ""), ("GET", "/f"), ("DELETE", "/f")):
        reply = await client_for().request(method, f"/v1/files{path}")
        assert reply.status_code == 404
        assert "keeps no files" in reply.json()["error"]["message"]


async def test_who_leaves_in_the_middle_leaves_nothing(url: str, files: Files) -> None:
    place = urlsplit(url)
    incoming = files.contents.folder / "incoming"
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    head = b"POST /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: ann\r\ncontent-length: 1000000\r\n"
    writer.write(head + b"content-type: multipart/form-data; boundary=b\r\n\r\n" + GOOD[:-12])
    await until(lambda: any(incoming.iterdir()))
    writer.close()
    await until(lambda: not any(incoming.iterdir()))
    assert await files.used() == 0


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


async def test_a_file_is_never_in_memory_as_a_whole(files: Files) -> None:
    """Many of them at once would take all of it."""
    size, most = 2**25, 2**23
    settings = ServerSettings(**SETTINGS | {"file_limit_mb": 64.0})
    roomy = Files(files._store, files.contents.folder, quota=2**27)
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    part = bytes(2**16)
    bodies = [head, *[part] * (size // len(part)), b"\r\n--b--\r\n"]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        body = bodies.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(bodies)}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "headers": headers}, cast(Any, receive))
    async with roomy.upload(Caller(name="", salt="")) as upload:
        tracemalloc.start()
        try:
            kept = await receive_file(request, settings, upload)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept.size_bytes == size
    assert peak < most
