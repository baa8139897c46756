"""The log: a line for each request, and whatever goes wrong, as text for people or as JSON.

A line names the request, the key, the model, tokens and times. It has no text of prompts or
answers, no key and no header. What an exception says may quote a prompt, so of exceptions the log
shows what they are and where they were raised. `log_prompts` alone lifts both rules.
"""

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from senryu.server.settings import ServerSettings
from senryu.server.tenancy.account import Ended

from .watch import Exchange, error_type, gave_way

requests = logging.getLogger("senryu.requests")

# What looks in every few seconds is not worth a line when all is well.
_KNOCKS = ("/", "/api/hello", "/health", "/metrics")
_OURS, _ENGINE = "senryu", "vllm"


def configure(settings: ServerSettings, stream: TextIO | None = None) -> logging.Handler:
    """From now on all that this process logs goes to `stream` (stderr), in the form that is set:
    requests and our own notes, and the warnings of libraries. The engine has a log of its own."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(lambda record: record.name.partition(".")[0] != _ENGINE)
    shows = settings.log_prompts
    handler.setFormatter(AsJson(shows) if settings.log_format == "json" else AsText(shows))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_OURS).setLevel(logging.INFO)
    return handler


def request(exchange: Exchange | None, ended: Ended | None) -> None:
    """Write the line of one request."""
    level = logging.INFO
    if exchange is not None and exchange.route in _KNOCKS and exchange.status < 400:
        level = logging.DEBUG
    if ended is not None and gave_way(ended):
        level = logging.DEBUG
    if requests.isEnabledFor(level):
        told = facts(exchange, ended)
        requests.log(level, as_line(told), extra={"told": told})


def facts(exchange: Exchange | None, ended: Ended | None) -> dict[str, Any]:
    """What is told of a request, in the order in which it is read."""
    told: dict[str, Any] = {}
    if exchange is not None:
        told |= {
            "method": exchange.method,
            "path": exchange.path,
            "status": exchange.status,
            "seconds": round(exchange.seconds, 3),
            "request_id": exchange.request_id,
            "key": exchange.key or None,
        }
    if ended is not None:
        told |= _answer(ended)
    told["error"] = error_type(exchange, ended)
    if exchange is not None:
        told |= {"asked": exchange.asked, "answered": exchange.answered}
    return {name: value for name, value in told.items() if value is not None}


def _answer(ended: Ended) -> dict[str, Any]:
    opened, usage = ended.opened, ended.usage
    return {
        "request_id": opened.request_id,
        "key": opened.caller.name or None,
        "model": opened.model,
        "message_id": opened.id,
        "batch_id": opened.batch_id,
        "task": opened.task,
        "stream": opened.stream or None,
        "state": ended.state,
        "stop_reason": ended.stop_reason,
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_creation_tokens": usage.cache_creation_tokens,
        "output_tokens": usage.output_tokens,
        "thinking_tokens": usage.thinking_tokens or None,
        "queued_seconds": ended.queued_ms / 1000,
        "first_token_seconds": None
        if ended.first_token_ms is None
        else ended.first_token_ms / 1000,
        "answer_seconds": (ended.ended_at - opened.started_at) / 1000,
        "usd": ended.cost / 1e9,
    }


def as_line(told: Mapping[str, Any]) -> str:
    """For people: what was asked for and how it went, then names and values."""
    begins = [_shown(told[name]) for name in ("method", "path", "status") if name in told]
    if not begins:
        begins = ["batch"]
    rest = [
        f"{name}={_shown(value)}"
        for name, value in told.items()
        if name not in ("method", "path", "status")
    ]
    return " ".join([*begins, *rest])


def _shown(value: object) -> str:
    """Without blanks or quotes as it is, else quoted: no value can look like two, or like a line of
    its own."""
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    text = str(value)
    plain = text and text.isprintable() and not any(sign in text for sign in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())


class AsText(logging.Formatter):
    """A line a record; under it, where an exception was raised."""

    def __init__(self, shows_texts: bool = False) -> None:
        super().__init__()
        self._shows = shows_texts

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname:<7} {_message(record)}"
        raised = _raised(record, self._shows)
        return f"{line}\n{raised}" if raised else line


class AsJson(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, shows_texts: bool = False) -> None:
        super().__init__()
        self._shows = shows_texts

    def format(self, record: logging.LogRecord) -> str:
        told: Mapping[str, Any] | None = getattr(record, "told", None)
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line |= told if told is not None else {"message": _message(record)}
        if raised := _raised(record, self._shows):
            line["raised"] = raised
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    # asyncio goes on with the task that failed, and with what its exception says.
    return text.partition("\n")[0] if record.name == "asyncio" else text


def _raised(record: logging.LogRecord, shows_texts: bool) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    error = record.exc_info[1]
    if shows_texts:
        return "".join(traceback.format_exception(error)).rstrip()
    return "\n".join(_frames(error))


def _frames(error: BaseException) -> list[str]:
    """What was raised and where, the first cause first, and nothing that it says."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [*_frames(before), "which led to:"] if before is not None else []
    lines += [line.rstrip() for line in traceback.format_tb(error.__traceback__)]
    kind = type(error)
    lines.append(f"{kind.__module__}.{kind.__qualname__} (what it says: set log_prompts)")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            lines += [f"  | {line}" for text in _frames(inner) for line in text.splitlines()]
    return lines
