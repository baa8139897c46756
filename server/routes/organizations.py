"""GET /v1/organizations/usage_report/messages and cost_report: the ledger, for keys of admins.

Usage as CSV (`format=csv`, or `Accept: text/csv`) is a line for each request, however many.
"""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from senryu.server.tenancy.presence import now_ms
from senryu.server.tenancy.prices import Prices
from senryu.server.tenancy.reports import Sums, Which, each, summed
from senryu.server.tenancy.store.opening import Store
from senryu.server.wire.errors import NotFound
from senryu.server.wire.reports import (
    COST_GROUPS,
    DESCRIBED,
    USAGE_GROUPS,
    ReportQuery,
    cost_result,
    csv_head,
    csv_lines,
    read_query,
    report_body,
    usage_result,
)

from .reading import check_credential, require_role
from .replies import json_reply

router = APIRouter()


@router.get("/v1/organizations/usage_report/messages")
async def usage_report(request: Request) -> Response:
    store = _store(request)
    query = read_query(request.query_params.multi_items(), USAGE_GROUPS, now_ms())
    if _wants_csv(request):
        lines = _csv(store, Which(since=query.since, until=query.until, only=query.only))
        headers = {"content-disposition": 'attachment; filename="usage.csv"'}
        return StreamingResponse(lines, media_type="text/csv", headers=headers)
    results: dict[int, list[dict[str, object]]] = {}
    for sums in await _summed(store, query, query.by):
        result = usage_result(
            sums.group,
            sums.tokens,
            requests=sums.requests,
            thinking_tokens=sums.thinking_tokens,
        )
        results.setdefault(sums.start, []).append(result)
    return json_reply(report_body(query, results))


@router.get("/v1/organizations/cost_report")
async def cost_report(request: Request) -> Response:
    store = _store(request)
    query = read_query(request.query_params.multi_items(), COST_GROUPS, now_ms())
    prices = Prices(request.app.state.settings.prices)
    described = "description" in query.by
    by = tuple(name for name in query.by if name != "description")
    results: dict[int, list[dict[str, object]]] = {}
    for sums in await _summed(store, query, by + DESCRIBED if described else by):
        of_bucket = results.setdefault(sums.start, [])
        if not described:
            of_bucket.append(cost_result(sums.group, sums.cost))
            continue
        parts = prices.split(sums.group["model"] or "", dict(sums.tokens), sums.cost)
        of_bucket += [
            cost_result(sums.group, parts[kind], kind)
            for kind, count in sums.tokens.items()
            if count
        ]
    return json_reply(report_body(query, results))


def _store(request: Request) -> Store:
    """The store, for an admin. Raises PermissionDenied and NotFound."""
    require_role(check_credential(request), "admin")
    store: Store | None = request.app.state.store
    if store is None:
        raise NotFound("This server keeps no ledger: its setting `database` is `none`")
    return store


async def _summed(store: Store, query: ReportQuery, by: tuple[str, ...]) -> list[Sums]:
    which = Which(since=query.first, until=query.last, only=query.only)
    return await summed(store, which, by, query.width)


def _wants_csv(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return request.query_params.get("format") == "csv" or accepted.startswith("text/csv")


async def _csv(store: Store, which: Which) -> AsyncIterator[str]:
    yield csv_head()
    async for rows in each(store, which):
        yield csv_lines(row._mapping for row in rows)
