"""Each kind of error has its status, its type on the wire, and its advice about trying again."""

import pytest

from senryu.server.wire import errors
from senryu.server.wire.errors import ApiError

TREE = {
    errors.InvalidRequest: (400, "invalid_request_error", None),
    errors.AuthenticationFailed: (401, "authentication_error", "false"),
    errors.PermissionDenied: (403, "permission_error", "false"),
    errors.NotFound: (404, "not_found_error", None),
    errors.MethodNotAllowed: (405, "invalid_request_error", None),
    errors.BodyTimedOut: (408, "timeout_error", None),
    errors.RequestTooLarge: (413, "request_too_large", None),
    errors.RateLimited: (429, "rate_limit_error", None),
    errors.EngineFailed: (500, "api_error", None),
    errors.NotReady: (503, "overloaded_error", None),
    errors.TimedOut: (504, "timeout_error", None),
    errors.Overloaded: (529, "overloaded_error", None),
}


@pytest.mark.parametrize("kind", TREE)
def test_a_kind_of_error_has_its_status_and_type(kind: type[ApiError]) -> None:
    status, name, retry = TREE[kind]
    error = kind("What happened.")
    assert error.status == status
    assert error.body("req_1") == {
        "type": "error",
        "error": {"type": name, "message": "What happened."},
        "request_id": "req_1",
    }
    assert error.headers().get("x-should-retry") == retry


def test_the_table_above_is_the_whole_tree() -> None:
    assert set(ApiError.__subclasses__()) == set(TREE)


def test_the_drawing_in_the_docstring_is_true() -> None:
    drawn = {
        words[0]: (int(words[1]), words[2])
        for line in (errors.__doc__ or "").splitlines()
        if "──" in line and (words := line.translate(dict.fromkeys(map(ord, "│├└─"))).split())
    }
    branches = {kind.__name__: (status, name) for kind, (status, name, _) in TREE.items()}
    twigs = {"BudgetSpent": (429, "rate_limit_error"), "HeadTooLarge": (431, "request_too_large")}
    assert drawn == branches | twigs


def test_a_budget_that_is_spent_is_not_asked_for_again() -> None:
    """Until the day or the month is over: the SDKs would try twice more (contract 3.2)."""
    error = errors.BudgetSpent("The key ann has spent its budget of this day")
    assert error.headers() == {"x-should-retry": "false"}
    assert error.body("req_1")["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}


def test_details_and_a_time_to_wait_are_sent_when_they_are_known() -> None:
    error = errors.EngineFailed("It broke.", details={"error_code": "x"}, retry_after=7)
    assert error.body("req_1")["error"]["details"] == {"error_code": "x"}
    assert error.headers() == {"retry-after": "7"}


def test_a_body_that_stopped_ends_the_connection() -> None:
    """Its rest, should it come, would be taken for the next request."""
    assert errors.BodyTimedOut("It stopped.").headers() == {"connection": "close"}
