"""Web pages: which of them may ask (contract 4.4).

A browser lets any page send requests to this machine and names the page's origin on each; it only
keeps the answer from the page. A server without a key would work for all of them, so a page that
is neither our own nor allowed is refused before anything is read. Clients that are no browsers
send no origin, and pay one look through their headers.
"""

import ipaddress
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from senryu.server.identifiers import new_id
from senryu.server.wire.errors import AuthenticationFailed, MethodNotAllowed

from .replies import IGNORED, error_reply

# What a page may read of an answer. The star is for the names that begin with `anthropic-`: it
# holds for requests without cookies, and no client of ours sends cookies.
_EXPOSED = ("request-id", "retry-after", "retry-after-ms", "x-should-retry", IGNORED, "*")


class Origins:
    """Refuses the requests of web pages, except our own and those of the `allowed` origins.

    A page calls itself ours by coming from the host that it asks. With a `keyless` server that is
    believed of addresses and `localhost` only: any other name may have been pointed at this
    machine by the page's owner.
    """

    def __init__(
        self, app: ASGIApp, *, allowed: Collection[str], keyless: Callable[[], bool]
    ) -> None:
        self._app = app
        self._allowed = allowed
        self._keyless = keyless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"origin" and not self._may_ask(value.decode("latin-1"), scope):
                    reply = refusal(value.decode("latin-1"), scope["state"]["request_id"])
                    await reply(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    def _may_ask(self, origin: str, scope: Scope) -> bool:
        if _is_listed(origin, self._allowed):
            return True
        host = Headers(scope=scope).get("host", "")
        if origin not in (f"http://{host}", f"https://{host}"):
            return False
        return not self._keyless() or _is_an_address(host)


class Cors(CORSMiddleware):
    """Tells browsers that the pages of `allowed` origins may ask and what they may read. Its
    answers are ours: they have an id, and a refusal has the shape of every error.

    A browser that guards private networks asks once more before a page of the public one may reach
    this machine: whoever may ask at all may do that.
    """

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed,
            allow_methods=("GET", "HEAD", "POST", "DELETE", "OPTIONS"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )
        self.allow_private_network = True  # no argument in older versions, which let it pass

    def is_allowed_origin(self, origin: str) -> bool:
        return _is_listed(origin, self.allow_origins)

    def preflight_response(self, request_headers: Headers) -> Response:
        request_id = new_id("req")
        reply = super().preflight_response(request_headers)
        if not self.is_allowed_origin(request_headers["origin"]):
            reply = refusal(request_headers["origin"], request_id)
        elif reply.status_code != 200:
            method = request_headers["access-control-request-method"]
            reply = error_reply(MethodNotAllowed(f"{method} is not allowed here"), request_id)
        elif "access-control-request-private-network" in request_headers:
            reply.headers["access-control-allow-private-network"] = "true"
        reply.headers["request-id"] = request_id
        return reply


def refusal(origin: str, request_id: str) -> Response:
    """The answer to a page that may not ask."""
    error = AuthenticationFailed(
        f"CORS requests are not allowed for this server from {origin}; its operator can add that "
        "origin to cors_origins"
    )
    return error_reply(error, request_id)


def _is_listed(origin: str, allowed: Collection[str]) -> bool:
    # First as it stands: the brackets of an IPv6 address mean something else in a pattern.
    return origin in allowed or any(fnmatchcase(origin, pattern) for pattern in allowed)


def _is_an_address(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name != "localhost":
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
