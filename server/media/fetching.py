"""Fetches what a request names by its address, and nothing of the network that we stand in.

A client must not make this server ask its neighbours: only https, only public addresses, and the
connection goes to the very address that was checked, since a name may be answered differently
the second time. Redirects are not followed, and ten megabytes are the most.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

import httpx

from senryu.server.conversation.media import MediaError

_BYTES = 10 * 2**20
_ACCEPTED = {
    "image": "image/jpeg, image/png, image/gif, image/webp",
    "document": "application/pdf, text/plain",
}
# Of IPv6 only this is given out to the public (RFC 4291); most ways to write an IPv4 address as
# one of IPv6 lie outside of it. Those within: 6to4 (RFC 3056) and Teredo (RFC 4380).
_GIVEN_OUT = ipaddress.IPv6Network("2000::/3")
_DISGUISES = [ipaddress.IPv6Network(net) for net in ("2002::/16", "2001::/32")]

Resolve = Callable[[str, int], Sequence[str]]


def resolved(host: str, port: int) -> Sequence[str]:
    """The addresses of a name. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Fetcher:
    """Fetches in so many seconds. `resolve` and `transport` stand in for the network in tests."""

    def __init__(
        self,
        *,
        seconds: float,
        resolve: Resolve = resolved,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._resolve = resolve
        self._transport = transport
        self._seconds = seconds

    def fetch(self, url: str, kind: Literal["image", "document"]) -> tuple[str, bytes]:
        """Its media type and bytes. Raises MediaError. A loop of its own ends it in time, however
        slowly the other side speaks."""
        return asyncio.run(self._in_time(url, kind))

    async def _in_time(self, url: str, kind: str) -> tuple[str, bytes]:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._get(url, kind)
        except TimeoutError:
            raise MediaError(f"the url took longer than {self._seconds:g} seconds") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            why = str(error) or type(error).__name__
            raise MediaError(f"the url could not be fetched ({why})") from None

    async def _get(self, url: str, kind: str) -> tuple[str, bytes]:
        named = httpx.URL(url)
        if named.scheme != "https" or not named.host:
            raise MediaError("only https urls are fetched")
        host = named.raw_host.decode("ascii")
        address = await self._checked(host, named.port or 443)
        headers = {
            "host": named.netloc.decode("ascii"),
            "accept": _ACCEPTED[kind],
            "accept-encoding": "identity",
        }
        async with (
            # Proxies and passwords of our own surroundings are none of the client's.
            httpx.AsyncClient(
                transport=self._transport, trust_env=False, timeout=self._seconds
            ) as client,
            client.stream(
                "GET",
                named.copy_with(host=address, userinfo=b""),
                headers=headers,
                extensions={"sni_hostname": host},
            ) as reply,
        ):
            return await _received(reply)

    async def _checked(self, host: str, port: int) -> str:
        """The address to connect to: none of the host's may be anything but public."""
        addresses = await self._addresses(host, port)
        if not addresses or not all(map(_is_public, addresses)):
            raise MediaError("the url does not lead to a public address")
        return addresses[0]

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        """Looked up in a thread that may be left behind: nothing ends a look-up, and the loop's own
        threads would be waited for."""
        found: Future[Sequence[str]] = Future()
        found.set_running_or_notify_cancel()  # so that it can be set when nobody waits any more

        def look_up() -> None:
            try:
                found.set_result(self._resolve(host, port))
            except Exception as error:
                found.set_exception(error)

        threading.Thread(target=look_up, daemon=True).start()
        return await asyncio.wrap_future(found)


async def _received(reply: httpx.Response) -> tuple[str, bytes]:
    if reply.is_redirect:
        raise MediaError("the url redirects; send the address that it leads to")
    if reply.status_code != 200:
        raise MediaError(f"the url was answered with status {reply.status_code}")
    if "content-encoding" in reply.headers:  # it was asked for none, and might unpack to anything
        raise MediaError("the url was answered in a packed form")
    data = bytearray()
    async for part in reply.aiter_raw():
        data += part
        if len(data) > _BYTES:
            raise MediaError(f"the url leads to more than {_BYTES / 2**20:g} MB")
    media_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type, bytes(data)


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and (
        found not in _GIVEN_OUT or any(found in net for net in _DISGUISES)
    ):
        return False
    return found.is_global and not found.is_multicast
