"""Reports of usage and cost as the hosted Admin API spells them: queries, buckets and results.

Ours beside theirs: `task` to group by, and in the results `task`, `requests`, `thinking_tokens`
and, of costs, `api_key_id`. Costs too may be asked for by the hour or the minute.
"""

import base64
import binascii
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from .errors import InvalidRequest

_MINUTE = 60_000
# Width of a bucket -> milliseconds, and how many of them a page has, and may have.
_WIDTHS = {
    "1m": (_MINUTE, 60, 1_440),
    "1h": (60 * _MINUTE, 24, 168),
    "1d": (1_440 * _MINUTE, 7, 31),
}
# Query key -> the dimension that it chooses rows by.
_FILTERS = {
    "api_key_ids": "api_key_id",
    "workspace_ids": "workspace_id",
    "models": "model",
    "service_tiers": "service_tier",
    "context_window": "context_window",
    "inference_geos": "inference_geo",
    "tasks": "task",
}
USAGE_GROUPS = (
    "api_key_id",
    "workspace_id",
    "model",
    "service_tier",
    "context_window",
    "inference_geo",
    "task",
)
COST_GROUPS = ("workspace_id", "description", "api_key_id", "task", "inference_geo")
DESCRIBED = ("model", "service_tier", "context_window")
"""What the description of a cost is made of, beside the kind of tokens."""

# Kind of tokens -> what the hosted API calls it, and what people read.
_TOKEN_TYPES = {
    "input": ("uncached_input_tokens", "input tokens"),
    "cache_read": ("cache_read_input_tokens", "cache reads"),
    "cache_creation_5m": (
        "cache_creation.ephemeral_5m_input_tokens",
        "cache writes for 5 minutes",
    ),
    "cache_creation_1h": ("cache_creation.ephemeral_1h_input_tokens", "cache writes for 1 hour"),
    "output": ("output_tokens", "output tokens"),
}
_FIRST_YEAR, _LAST_YEAR = 1970, 9000

CSV_COLUMNS = (
    "started_at",
    "ended_at",
    "id",
    "request_id",
    "api_key_id",
    "workspace_id",
    "model",
    "task",
    "user_hash",
    "service_tier",
    "batch_id",
    "state",
    "stop_reason",
    "uncached_input_tokens",
    "cache_creation_5m_input_tokens",
    "cache_creation_1h_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "thinking_tokens",
    "queued_ms",
    "first_token_ms",
    "cost_usd",
)
# Column -> the ledger's name for it, where it has another.
_IN_LEDGER = {
    "api_key_id": "key_id",
    "service_tier": "tier",
    "uncached_input_tokens": "input_tokens",
    "cache_creation_5m_input_tokens": "cache_creation_5m_tokens",
    "cache_creation_1h_input_tokens": "cache_creation_1h_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """What was asked for. Times are in milliseconds since 1970."""

    since: int
    until: int
    """As it was asked for, without regard to buckets."""
    width: int
    first: int
    """Where the first bucket of this page begins."""
    last: int
    """Where its last one ends."""
    has_more: bool
    by: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]]


def read_query(pairs: Iterable[tuple[str, str]], groups: Sequence[str], now_ms: int) -> ReportQuery:
    """Raises InvalidRequest. Keys of lists may end in `[]`; those that nobody knows are ignored."""
    asked: dict[str, list[str]] = {}
    for key, value in pairs:
        asked.setdefault(key.removesuffix("[]"), []).append(value)
    one = {key: values[-1] for key, values in asked.items()}
    if "starting_at" not in one:
        raise InvalidRequest("starting_at: Field required")
    since = moment(one["starting_at"], "starting_at")
    until = moment(one["ending_at"], "ending_at") if "ending_at" in one else None
    if until is not None and until <= since:
        raise InvalidRequest("ending_at: must be after starting_at")
    name = _one_of("bucket_width", one.get("bucket_width", "1d"), _WIDTHS)
    width, usual, most = _WIDTHS[name]
    limit = one.get("limit", str(usual))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 6 and 1 <= int(limit) <= most):
        raise InvalidRequest(f"limit: Input should be an integer from 1 to {most} for {name}")
    end = (now_ms // width + 1) * width if until is None else until // width * width
    first = _page(one["page"]) if "page" in one else since
    first = first // width * width
    last = max(first, min(first + int(limit) * width, end))
    return ReportQuery(
        since=since,
        until=now_ms + 1 if until is None else until,
        width=width,
        first=first,
        last=last,
        has_more=last < end,
        by=tuple(
            dict.fromkeys(_one_of("group_by", by, groups) for by in asked.get("group_by", ()))
        ),
        only={of: tuple(asked[key]) for key, of in _FILTERS.items() if key in asked},
    )


def report_body(query: ReportQuery, results: Mapping[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Every bucket of the page, those without usage too; `results` by where a bucket begins."""
    token = base64.urlsafe_b64encode(_spelt(query.last).encode()).decode()
    return {
        "data": [
            {
                "starting_at": _spelt(start),
                "ending_at": _spelt(start + query.width),
                "results": results.get(start, []),
            }
            for start in range(query.first, query.last, query.width)
        ],
        "has_more": query.has_more,
        "next_page": f"page_{token}" if query.has_more else None,
    }


def usage_result(
    group: Mapping[str, str | None],
    tokens: Mapping[Any, int],
    *,
    requests: int,
    thinking_tokens: int,
) -> dict[str, Any]:
    """What a group of requests used; what it is not grouped by is null."""
    return {
        "uncached_input_tokens": tokens["input"],
        "cache_creation": {
            "ephemeral_1h_input_tokens": tokens["cache_creation_1h"],
            "ephemeral_5m_input_tokens": tokens["cache_creation_5m"],
        },
        "cache_read_input_tokens": tokens["cache_read"],
        "output_tokens": tokens["output"],
        "server_tool_use": {"web_search_requests": 0},
        **{name: group.get(name) for name in USAGE_GROUPS},
        "requests": requests,
        "thinking_tokens": thinking_tokens,
    }


def cost_result(
    group: Mapping[str, str | None], cost: int, kind: str | None = None
) -> dict[str, Any]:
    """What a group cost, in billionths of a dollar; described by the `kind` of its tokens."""
    token_type = description = None
    if kind is not None:
        token_type, words = _TOKEN_TYPES[kind]
        batch = " in batches" if group["service_tier"] == "batch" else ""
        description = f"{group['model']}: {words}{batch}"
    return {
        "currency": "USD",
        "amount": cents(cost),
        "workspace_id": group.get("workspace_id"),
        "description": description,
        "cost_type": None if kind is None else "tokens",
        "context_window": group.get("context_window"),
        "model": group.get("model"),
        "service_tier": group.get("service_tier"),
        "token_type": token_type,
        "inference_geo": group.get("inference_geo"),
        "api_key_id": group.get("api_key_id"),
        "task": group.get("task"),
    }


def csv_lines(rows: Iterable[Mapping[Any, Any]]) -> str:
    """A line for each row of the ledger."""
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\r\n")  # RFC 4180
    for row in rows:
        lines.writerow([_cell(column, row) for column in CSV_COLUMNS])
    return written.getvalue()


def csv_head() -> str:
    """The line that names the columns."""
    return ",".join(CSV_COLUMNS) + "\r\n"


def cents(cost: int) -> str:
    """Billionths of a dollar as exact cents."""
    return _plain(Decimal(cost).scaleb(-7))


def moment(text: str, where: str) -> int:
    """Milliseconds since 1970 of a time of RFC 3339, or of a day. Raises InvalidRequest."""
    if "T" in text:
        text = text.replace(" ", "+")  # a plus sign that nobody escaped
    try:
        read = datetime.fromisoformat(text)
        if not _FIRST_YEAR < read.year < _LAST_YEAR:
            raise ValueError
    except ValueError:
        raise InvalidRequest(
            f"{where}: Input should be a valid datetime, such as 2026-11-01T00:00:00Z"
        ) from None
    read = read if read.tzinfo else read.replace(tzinfo=UTC)
    return int(read.timestamp() * 1000)


def _page(token: str) -> int:
    wrong = InvalidRequest("page: send the next_page of the page before, as it is")
    try:
        text = base64.b64decode(token.removeprefix("page_"), altchars=b"-_", validate=True)
        return moment(text.decode(), "page")
    except (binascii.Error, ValueError, InvalidRequest):
        raise wrong from None


def _one_of(where: str, value: str, known: Iterable[str]) -> str:
    names = [f"'{name}'" for name in known]
    if f"'{value}'" not in names:
        raise InvalidRequest(f"{where}: Input should be {', '.join(names[:-1])} or {names[-1]}")
    return value


def _spelt(at: int, *, exact: bool = False) -> str:
    parts = "milliseconds" if exact else "seconds"
    read = datetime.fromtimestamp(at // 1000, UTC).replace(microsecond=at % 1000 * 1000)
    return read.isoformat(timespec=parts).replace("+00:00", "Z")


def _cell(column: str, row: Mapping[Any, Any]) -> str:
    if column == "cost_usd":
        return _plain(Decimal(row["cost"]).scaleb(-9))
    value = row[_IN_LEDGER.get(column, column)]
    if value is None:
        return ""
    if column in ("started_at", "ended_at"):
        return _spelt(value, exact=True)
    text = str(value)
    # What clients named could be taken for a formula by the program that opens the table.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
