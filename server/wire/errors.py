"""Every error that a client can be sent, drawn as one tree.

    ApiError                    status  error.type
    ├── InvalidRequest          400     invalid_request_error
    ├── AuthenticationFailed    401     authentication_error
    ├── PermissionDenied        403     permission_error
    ├── NotFound                404     not_found_error
    ├── MethodNotAllowed        405     invalid_request_error
    ├── BodyTimedOut            408     timeout_error
    ├── RequestTooLarge         413     request_too_large
    │   └── HeadTooLarge        431     request_too_large
    ├── RateLimited             429     rate_limit_error
    │   └── BudgetSpent         429     rate_limit_error
    ├── EngineFailed            500     api_error
    ├── NotReady                503     overloaded_error
    ├── TimedOut                504     timeout_error
    └── Overloaded              529     overloaded_error

A message says in one sentence what happened and, where the contract does not fix the
words, what to do. This file knows no HTTP library; `routes` turn the errors into responses.
"""

from typing import Any, ClassVar


class ApiError(Exception):
    """An answer that is an error. `details` carries `error_code` where the contract names one."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    # False stops the SDKs from repeating a request that can never succeed; None leaves
    # the decision to their own rule by status.
    retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.retry_after = retry_after

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON body, and equally the data of an `error` event (contract 2.7, 3.1)."""
        error: dict[str, Any] = {"type": self.type, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return {"type": "error", "error": error, "request_id": request_id}

    def headers(self) -> dict[str, str]:
        """The headers that tell a client whether and when to try again (contract 3.3)."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.retry is not None:
            headers["x-should-retry"] = "true" if self.retry else "false"
        return headers


class InvalidRequest(ApiError):
    """The request cannot be answered as it stands."""

    status = 400
    type = "invalid_request_error"


class AuthenticationFailed(ApiError):
    """No credential, or a wrong one."""

    status = 401
    type = "authentication_error"
    retry = False


class PermissionDenied(ApiError):
    """The credential is good, and may not do this."""

    status = 403
    type = "permission_error"
    retry = False


class NotFound(ApiError):
    """No such route, model or object."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ApiError):
    """The route exists, for another method."""

    status = 405
    type = "invalid_request_error"


class BodyTimedOut(ApiError):
    """The rest of the body does not come."""

    status = 408
    type = "timeout_error"

    def headers(self) -> dict[str, str]:
        """The rest of this request would be taken for the next one: no more on this line."""
        return super().headers() | {"connection": "close"}


class RequestTooLarge(ApiError):
    """The body is over the limit, as sent or once unpacked."""

    status = 413
    type = "request_too_large"


class HeadTooLarge(RequestTooLarge):
    """The address and the headers are over their limit."""

    status = 431
    retry = False


class RateLimited(ApiError):
    """A key or a workspace has used what it may for now."""

    status = 429
    type = "rate_limit_error"


class BudgetSpent(RateLimited):
    """A budget is used up, for a day or a month: to ask again soon would be in vain."""

    retry = False

    def __init__(self, message: str) -> None:
        super().__init__(message, details={"error_code": "enforced_spend_limit_reached"})


class EngineFailed(ApiError):
    """The engine broke, or we did."""

    status = 500
    type = "api_error"


class NotReady(ApiError):
    """The server is stopping, or its engine starts again."""

    status = 503
    type = "overloaded_error"


class TimedOut(ApiError):
    """The answer took longer than this server lets it."""

    status = 504
    type = "timeout_error"


class Overloaded(ApiError):
    """More wait for the engine than may."""

    status = 529
    type = "overloaded_error"
