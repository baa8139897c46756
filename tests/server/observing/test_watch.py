"""Each request is told of once, with all that is known of it, and nothing that it said."""

from collections.abc import Callable
from typing import Any

import pytest

from senryu.server.observing.watch import Exchange, Sighting, Watch, error_type, gave_way
from senryu.server.tenancy.account import Ended

Told = list[tuple[Exchange | None, Ended | None]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def watch(told: Told) -> Watch:
    return Watch([lambda exchange, ended: told.append((exchange, ended))])


def seen(watch: Watch, request_id: str = "req_1", **changed: Any) -> Sighting:
    scope = {"method": "GET", "path": "/", "raw_path": b"/", "headers": []} | changed
    return watch.begun(scope, request_id)


def test_a_request_without_an_answer_is_told_of_when_it_is_over(watch: Watch, told: Told) -> None:
    watch.finished(seen(watch))
    [(exchange, ended)] = told
    assert exchange is not None
    assert (exchange.request_id, ended) == ("req_1", None)


def test_an_answer_and_its_request_are_told_of_together(
    watch: Watch, told: Told, answer: Callable[..., Ended]
) -> None:
    done = answer()
    sighting = seen(watch)
    watch.opened(done.opened)
    watch.ended(done)
    assert told == []
    watch.finished(sighting)
    [(exchange, ended)] = told
    assert exchange is not None
    assert ended is done


def test_a_request_that_is_over_before_its_answer_waits_for_it(
    watch: Watch, told: Told, answer: Callable[..., Ended]
) -> None:
    left = answer(state="left")
    sighting = seen(watch)
    watch.opened(left.opened)
    watch.finished(sighting)
    assert told == []
    watch.ended(left)
    [(exchange, ended)] = told
    assert exchange is not None
    assert ended is left


def test_answers_of_a_batch_are_told_of_by_themselves(
    watch: Watch, told: Told, answer: Callable[..., Ended]
) -> None:
    """Even where they bear the id of the request that made the batch."""
    item = answer(tier="batch", batch_id="msgbatch_1")
    sighting = seen(watch)
    watch.opened(item.opened)
    watch.ended(item)
    watch.finished(sighting)
    assert [(exchange is None, ended) for exchange, ended in told] == [(True, item), (False, None)]


def test_nothing_is_kept_of_what_is_over(
    watch: Watch, told: Told, answer: Callable[..., Ended]
) -> None:
    for number in range(100):
        done = answer(request_id=f"req_{number}")
        sighting = seen(watch, f"req_{number}")
        watch.opened(done.opened)
        for step in (watch.ended, watch.finished)[:: 1 if number % 2 else -1]:
            step(done if step == watch.ended else sighting)  # type: ignore[arg-type]
    assert len(told) == 100
    assert watch._under_way == {}


def test_a_listener_that_fails_keeps_nobody_from_hearing(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(exchange: Exchange | None, ended: Ended | None) -> None:
        raise RuntimeError

    watch = Watch([broken, lambda exchange, ended: told.append((exchange, ended))])
    watch.finished(seen(watch))
    assert len(told) == 1
    assert len(caplog.records) == 1


def test_neither_query_nor_headers_are_seen(watch: Watch, told: Told) -> None:
    headers = [(b"x-api-key", b"sk-secret"), (b"traceparent", b"00-a-b-01")]
    watch.finished(seen(watch, raw_path=b"/v1/messages?key=sk-secret", headers=headers))
    [(exchange, _)] = told
    assert exchange is not None
    assert exchange.path == "/v1/messages"
    assert exchange.traceparent == "00-a-b-01"
    assert "secret" not in repr(exchange)


def test_a_request_that_never_got_a_reply_counts_as_left(watch: Watch, told: Told) -> None:
    watch.finished(seen(watch))
    assert told[0][0] is not None
    assert told[0][0].status == 499


def test_an_error_is_the_streams_else_the_replys_and_leaving_is_none(
    exchange: Callable[..., Exchange], answer: Callable[..., Ended]
) -> None:
    fine, refused = exchange(), exchange(status=429, error_type="rate_limit_error")
    left = answer(state="left", error_type="CancelledError")
    assert error_type(fine, answer(state="failed", error_type="api_error")) == "api_error"
    assert error_type(refused, None) == "rate_limit_error"
    assert error_type(fine, left) is None
    assert error_type(None, left) is None


def test_a_batch_that_makes_room_has_no_error(answer: Callable[..., Ended]) -> None:
    failed = answer(state="failed", error_type="overloaded_error", tier="batch")
    assert gave_way(failed)
    assert error_type(None, failed) is None
    assert not gave_way(answer(state="failed", error_type="api_error", tier="batch"))
    assert not gave_way(answer(state="failed", error_type="overloaded_error"))
