"""Who may read the counters."""

from collections.abc import Callable

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
