"""Who may read the counters."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

ClientFor = Callable[..., httpx.AsyncClient]


async def test_without_keys_everybody_reads_them(client: httpx.AsyncClient) -> None:
    assert (await client.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer of-ann"}, 403),
        ({"authorization": "Bearer of-the-operator"}, 200),  # as Prometheus sends it
        ({"x-api-key": "of-the-operator"}, 200),
    ],
)
async def test_with_keys_only_admins_do(
    headers: dict[str, str], status: int, client_for: ClientFor
) -> None:
    client = client_for(api_key="of-the-operator", api_keys=("ann=of-ann",))
    reply = await client.get("/metrics", headers=headers)
    assert reply.status_code == status
    assert (b"senryu_info" in reply.content) == (status == 200)


@pytest.mark.parametrize("strict", [False, True])
async def test_unknown_betas_are_counted_by_name(
    strict: bool, client_for: ClientFor, body: dict[str, Any]
) -> None:
    client = client_for(strict=strict)
    known, unknown = "prompt-caching-2024-07-31", "of-tomorrow-2030-01-01"
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": f"{known}, {unknown}"}
    for _ in range(2):
        await client.post("/v1/messages", json=body, headers=headers)
    page = (await client.get("/metrics")).text
    assert f'senryu_unknown_betas_total{{beta="{unknown}"}} 2.0' in page
    assert known not in page
