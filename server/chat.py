"""`senryu chat`: a small terminal client, over HTTP like anyone's.

It knows the Messages API and nothing of the server it talks to.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8765"


class ChatError(Exception):
    """The server cannot be talked to, or refused. The text is one sentence for the user."""


def main(argv: Sequence[str]) -> int:
    """Talk until the input ends. 1: the server cannot be reached."""
    flags = argparse.ArgumentParser(
        prog="senryu chat", description="Talk to a running server. Ctrl-D ends it, /new forgets."
    )
    flags.add_argument(
        "--url",
        default=os.environ.get("ANTHROPIC_BASE_URL", DEFAULT_URL),
        help="where the server is; ANTHROPIC_BASE_URL, or %(default)s",
    )
    flags.add_argument("--key", default=os.environ.get("ANTHROPIC_API_KEY", "local"))
    flags.add_argument("--model", help="the model id; the server's first by default")
    flags.add_argument("--system", help="a system prompt")
    flags.add_argument("--max-tokens", type=int, default=1024)
    arguments = flags.parse_args(argv)
    headers = {"x-api-key": arguments.key, "anthropic-version": "2023-06-01"}
    with httpx.Client(base_url=arguments.url, headers=headers, timeout=600) as client:
        try:
            model = arguments.model or _first_model(client)
            print(f"{model} on {arguments.url}; Ctrl-D ends, /new forgets", file=sys.stderr)
            _talk(client, model, arguments.system, arguments.max_tokens)
        except ChatError as error:
            print(f"senryu chat: {error}", file=sys.stderr)
            return 1
    return 0


def _talk(client: httpx.Client, model: str, system: str | None, max_tokens: int) -> None:
    messages: list[dict[str, str]] = []
    while (line := _ask()) is not None:
        if line == "/new":
            messages = []
            continue
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line})
        body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "messages": messages}
        if system:
            body["system"] = system
        try:
            answer = _show(stream_text(client, body))
        except ChatError as error:
            messages.pop()
            print(f"\n[{error}]", file=sys.stderr)
            continue
        messages.append({"role": "assistant", "content": answer or "..."})


def _ask() -> str | None:
    try:
        return input("\n> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _show(pieces: Iterator[str]) -> str:
    shown = []
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            shown.append(piece)
    except KeyboardInterrupt:  # stop this answer, not the conversation
        print(" [stopped]", end="")
    print()
    return "".join(shown)


def stream_text(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    """The text of one streamed answer, piece by piece. Raises ChatError."""
    try:
        with client.stream("POST", "/v1/messages", json=body | {"stream": True}) as response:
            if response.status_code != 200:
                response.read()
                raise ChatError(_reason(response))
            for line in response.iter_lines():
                if line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    if data["type"] == "error":
                        raise ChatError(data["error"]["message"])
                    if data.get("delta", {}).get("type") == "text_delta":
                        yield data["delta"]["text"]
    except httpx.HTTPError as error:
        raise ChatError(f"the connection broke ({error}); is the server still running?") from error


def _first_model(client: httpx.Client) -> str:
    try:
        response = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise ChatError(
            f"no server answers at {client.base_url} ({error}); start one with: senryu serve"
        ) from error
    if response.status_code != 200:
        raise ChatError(_reason(response))
    model: str = response.json()["data"][0]["id"]
    return model


def _reason(response: httpx.Response) -> str:
    try:
        message: str = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}"
    return message
