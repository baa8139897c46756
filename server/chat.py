"""`senryu chat`: a small terminal client, over HTTP like anyone's.

It knows the Messages API and nothing of the server it talks to, so whatever answers at the
address, a sentence is what the user gets. Answers go to stdout and all else to stderr; where
the input is no terminal (`echo … | senryu chat`), the first thing that goes wrong ends it.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from .terminal import waiting

DEFAULT_URL = "http://127.0.0.1:8765"
HELP = "Ctrl-D ends, Ctrl-C stops an answer, /new forgets"

# Why an answer ended, where that is not simply its end.
ENDINGS = {
    "max_tokens": "it was cut here: give a larger --max-tokens",
    "model_context_window_exceeded": "the model's window is full: /new begins afresh",
    "refusal": "the model declined to go on",
}


class ChatError(Exception):
    """The server cannot be talked to, or refused. The text is one sentence for the user."""


def main(argv: Sequence[str]) -> int:
    """Talk until the input ends. 1: the server cannot be reached, or the input is no terminal
    and a line of it was not answered."""
    arguments = _flags().parse_args(argv)
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    try:
        for name in ("url", "model", "system"):
            _check_text(f"--{name}", getattr(arguments, name) or "")
        with _client(arguments.url, arguments.key) as client:
            model = arguments.model or _first_model(client)
            interactive = sys.stdin.isatty() and sys.stdout.isatty()
            if interactive:
                print(f"{model} on {_shown(client)}\n{HELP}", file=sys.stderr)
            talk = Talk(client, model, arguments.system, arguments.max_tokens)
            return _converse(talk, interactive)
    except ChatError as error:
        print(f"senryu chat: {error}", file=sys.stderr)
        return 1


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="senryu chat", description=f"Talk to a running server. {HELP}."
    )
    flags.add_argument(
        "--url",
        default=os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_URL,
        help="where the server is, else ANTHROPIC_BASE_URL (now: %(default)s)",
    )
    flags.add_argument("--key", help="else ANTHROPIC_API_KEY, else ANTHROPIC_AUTH_TOKEN")
    flags.add_argument("--model", help="the model id (default: the server's first)")
    flags.add_argument("--system", metavar="TEXT", help="a system prompt")
    flags.add_argument(
        "--max-tokens", type=int, metavar="N", default=1024, help="of one answer (%(default)s)"
    )
    return flags


def _client(url: str, key: str | None) -> httpx.Client:
    """Raises ChatError when there can be no such client."""
    base = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1").rstrip("/")
    headers = _credential(key) | {"anthropic-version": "2023-06-01"}
    try:
        return httpx.Client(base_url=base, headers=headers, timeout=600)
    except (httpx.InvalidURL, ValueError) as error:
        raise ChatError(f"--url: {url} is no address ({error}); try {DEFAULT_URL}") from error


def _credential(key: str | None) -> dict[str, str]:
    """As the official clients send it: a key as x-api-key, a token as Bearer."""
    token = os.environ.get("ANTHROPIC_AUTH_TOKEN", "").strip()
    key = (key or os.environ.get("ANTHROPIC_API_KEY", "")).strip()
    for value in (key, token):
        if not (value.isascii() and value.isprintable()):
            raise ChatError("the key has characters that no header can carry; is it cut or typed?")
    if key or not token:
        return {"x-api-key": key or "local"}
    return {"authorization": f"Bearer {token}"}


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ChatError(f"{name} is not UTF-8 text; it was not sent") from None


def _shown(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


class Talk:
    """A conversation: what was said, as the next request will repeat it."""

    def __init__(
        self, client: httpx.Client, model: str, system: str | None, max_tokens: int
    ) -> None:
        self.messages: list[dict[str, str]] = []
        self._client = client
        self._body: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "stream": True}
        if system:
            self._body["system"] = system

    def ask(self, line: str) -> None:
        """Print the answer to `line` as it comes. Raises ChatError.

        Only what was answered becomes part of the conversation: a question that failed, or an
        answer of nothing, would be repeated in every later request, and refused there.
        """
        _check_text("that line", line)
        question = {"role": "user", "content": line}
        body = self._body | {"messages": [*self.messages, question]}
        pieces: list[str] = []
        ending = None
        try:
            for event in self._first_awaited(events(self._client, body)):
                delta = _table(event, "delta")
                if isinstance(text := delta.get("text"), str):
                    print(text, end="", flush=True)
                    pieces.append(text)
                ending = ENDINGS.get(str(delta.get("stop_reason")), ending)
        except KeyboardInterrupt:  # stop this answer, not the conversation
            if not sys.stdin.isatty():
                raise
            ending = "stopped"
        finally:
            if pieces:
                print(flush=True)
        answer = "".join(pieces)
        if not answer.strip():
            why = f" ({ending})" if ending else ""
            raise ChatError(f"the model said nothing{why}; this question is forgotten")
        self.messages += [question, {"role": "assistant", "content": answer}]
        if ending:
            _note(ending)

    @staticmethod
    def _first_awaited(answer: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same events, with a clock on the terminal until there is something to read."""
        held = []
        with waiting("reading"):
            for event in answer:
                held.append(event)
                if event["type"] == "content_block_delta":
                    break
        yield from held
        yield from answer


def _converse(talk: Talk, interactive: bool) -> int:
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  input() then knows arrows and history
    while (line := _next_line(interactive)) is not None:
        if line.strip() == "/new":
            talk.messages.clear()
            _note("forgotten")
        elif line.strip():
            try:
                talk.ask(line)
            except ChatError as error:
                if not interactive:
                    raise
                _note(str(error))
    return 0


def _next_line(interactive: bool) -> str | None:
    """What was typed; None where the input ends."""
    if not interactive:
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    print()
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt) as ending:
        print()  # the shell's prompt gets a line of its own
        if isinstance(ending, KeyboardInterrupt):
            raise
        return None


def _note(text: str) -> None:
    grey, plain = ("\033[2m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{grey}[{text}]{plain}", file=sys.stderr)


def events(client: httpx.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of one streamed answer, up to its message_stop. Raises ChatError."""
    try:
        with client.stream("POST", "/v1/messages", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise ChatError(_reason(response))
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                event = _parsed(line.removeprefix("data:"))
                if event["type"] == "error":
                    raise ChatError(str(_table(event, "error").get("message", "it failed")))
                yield event
                if event["type"] == "message_stop":
                    return
    except httpx.HTTPError as error:
        raise ChatError(
            f"the connection broke ({_words(error)}); is the server still running?"
        ) from error
    raise ChatError("the answer broke off before its end; is this the Messages API? ask again")


def _parsed(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ChatError("the server streams what is not the Messages API; check --url")
    return event


def _table(event: dict[str, Any], name: str) -> dict[str, Any]:
    found = event.get(name)
    return found if isinstance(found, dict) else {}


def _first_model(client: httpx.Client) -> str:
    try:
        response = client.get("/v1/models")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ChatError(
            f"no server answers at {_shown(client)} ({_words(error)}); start one with: senryu serve"
        ) from error
    if response.status_code != 200:
        raise ChatError(_reason(response))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise ChatError(
            f"{_shown(client)} does not list its models as the Messages API does; check --url, "
            "or name one with --model"
        ) from None


def _reason(response: httpx.Response) -> str:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        message = (
            f"the server answered {response.status_code}, not as the Messages API; check --url"
        )
    if response.status_code == 401:
        return f"{message}; give the server's key with --key or ANTHROPIC_API_KEY"
    return message


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
