"""The server speaks when it is spoken to, and asks nobody anything of its own."""

import subprocess
import sys

PROGRAM = """
import asyncio, sys

asked = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append((event, str(arguments[-1] if event == "socket.connect" else arguments)))

sys.addaudithook(watch)

import httpx
from senryu.server.app import build_app
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.settings import ServerSettings

URL = {"type": "url", "url": "https://pictures.example/a"}
TOOL = {"name": "t", "input_schema": {"type": "object", "$ref": "https://schemas.example/a"}}

def saying(*content, **more):
    turn = {"role": "user", "content": list(content)}
    return {"model": "scripted", "max_tokens": 5, "messages": [turn]} | more

async def main():
    settings = ServerSettings(engine="scripted", signing_key="k")
    app = build_app(settings, ScriptedEngine(sees=True))
    transport = httpx.ASGITransport(app)
    text = {"type": "text", "text": "hello"}
    async with httpx.AsyncClient(transport=transport, base_url="http://senryu.test") as client:
        statuses = []
        for body in (
            saying(text),
            saying(text, stream=True),
            saying({"type": "image", "source": URL}),
            saying({"type": "document", "source": URL}),
            saying(text, tools=[TOOL]),
        ):
            statuses.append((await client.post("/v1/messages", json=body)).status_code)
        for path in ("/v1/models", "/v1/files", "/health", "/metrics"):
            await client.get(path)
    assert statuses[:4] == [200, 200, 400, 400], statuses

asyncio.run(main())
assert not asked, asked
"""


def test_nothing_is_asked_of_anybody_unless_the_operator_wants_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
