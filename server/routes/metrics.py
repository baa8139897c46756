"""GET /metrics: what Prometheus reads, for admins."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from senryu.server.observing.metrics import Metrics

from .reading import check_credential, require_role

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The counters of the server and of its engine, in the form that the client asks for."""
    require_role(check_credential(request), "admin")
    state = request.app.state
    counted: Metrics = state.metrics
    counted.look(state.desk, healthy=await state.engine.healthy())
    page, content_type = await asyncio.to_thread(counted.page, request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})
