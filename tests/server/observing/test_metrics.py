"""The counters count what was so, stay few, and are all that the dashboard asks for."""

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from senryu.server.observing.metrics import OTHER, Metrics, Names
from senryu.server.observing.watch import Exchange
from senryu.server.tenancy.account import Ended

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "examples/grafana-dashboard.json"
OPERATING = ROOT / "docs/operating.md"
ASKER = {"model": "tiny", "key": "ann", "task": "review", "tier": "standard"}


def samples(metrics: Metrics) -> list[Sample]:
    page, _ = metrics.page("")
    return [each for family in read_text(page.decode()) for each in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Of the one series that has just these labels."""
    [found] = [
        each for each in samples(metrics) if each.name == f"senryu_{name}" and each.labels == labels
    ]
    return float(found.value)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


# --- what is counted ---------------------------------------------------------------------------


def test_an_answer_is_counted_with_its_tokens_by_kind_and_its_cost(
    metrics: Metrics, answer: Callable[..., Ended]
) -> None:
    for _ in range(2):
        metrics.opened(answer().opened)
        metrics.ended(answer())
    assert value(metrics, "requests_total", **ASKER, state="done") == 2
    kinds = ("input", "cache_read", "cache_creation_5m", "cache_creation_1h", "output")
    counts = [value(metrics, "tokens_total", **ASKER, kind=kind) for kind in kinds]
    assert counts == [60, 128, 8, 4, 42]
    assert value(metrics, "thinking_tokens_total", **ASKER) == 10
    assert value(metrics, "cost_dollars_total", **ASKER) == pytest.approx(0.005)


def test_its_times_are_seconds(metrics: Metrics, answer: Callable[..., Ended]) -> None:
    metrics.opened(answer().opened)
    metrics.ended(answer())
    labels = {"model": "tiny", "tier": "standard"}
    names = ("queue", "first_token", "answer", "between_tokens")
    sums = [value(metrics, f"{name}_seconds_sum", **labels) for name in names]
    assert sums == pytest.approx([0.1, 1.0, 2.0, 0.05])  # a second for 20 further tokens


def test_without_a_token_there_is_no_time_of_one(
    metrics: Metrics, answer: Callable[..., Ended]
) -> None:
    metrics.ended(answer(state="left", first_token_ms=None))
    names = {each.name for each in samples(metrics)}
    assert "senryu_answer_seconds_sum" in names
    assert "senryu_first_token_seconds_sum" not in names


def test_what_is_begun_and_not_ended_is_seen(
    metrics: Metrics, answer: Callable[..., Ended]
) -> None:
    first, second = answer(), answer(tier="batch")
    for each in (first, first, second):
        metrics.opened(each.opened)
    metrics.ended(first)
    assert value(metrics, "open_requests", model="tiny", tier="standard") == 1
    assert value(metrics, "open_requests", model="tiny", tier="batch") == 1


def test_an_error_is_counted_once_by_key_and_type(
    metrics: Metrics, exchange: Callable[..., Exchange], answer: Callable[..., Ended]
) -> None:
    metrics.request(exchange(status=429, error_type="rate_limit_error"), None)
    metrics.request(exchange(status=401, error_type="authentication_error", key=None), None)
    metrics.request(exchange(), answer(state="failed", error_type="api_error"))  # in its stream
    metrics.request(exchange(), answer())
    for key, kind in (
        ("ann", "rate_limit_error"),
        ("", "authentication_error"),
        ("ann", "api_error"),
    ):
        assert value(metrics, "errors_total", key=key, type=kind) == 1
    replied = {"route": "/v1/messages", "method": "POST", "status": "200"}
    assert value(metrics, "http_replies_total", **replied) == 2


def test_a_batch_that_makes_room_is_neither_failure_nor_error(
    metrics: Metrics, answer: Callable[..., Ended]
) -> None:
    again = answer(state="failed", error_type="overloaded_error", tier="batch")
    metrics.ended(again)
    metrics.request(None, again)
    assert value(metrics, "requests_total", **ASKER | {"tier": "batch"}, state="gave_way") == 1
    assert "senryu_errors_total" not in {each.name for each in samples(metrics)}


# --- bounds ------------------------------------------------------------------------------------


def test_the_first_names_stay_themselves_and_all_others_are_one() -> None:
    names = Names(most=2)
    assert [names(each) for each in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_no_client_can_make_series_without_end(
    metrics: Metrics, answer: Callable[..., Ended], exchange: Callable[..., Exchange]
) -> None:
    def once(number: int) -> None:
        metrics.ended(answer(task=f"task {number}"))
        odd = exchange(
            route=None,
            path=f"/{number}",
            method=f"BREW{number}",
            unknown_betas=frozenset([f"beta-{number:08}", f"sk-{number}", "x" * number]),
        )
        metrics.request(odd, None)

    for number in range(150):
        once(number)
    before = len(samples(metrics))
    for number in range(150, 1_000):
        once(number)
    assert len(samples(metrics)) == before
    assert value(metrics, "http_replies_total", route=OTHER, method=OTHER, status="200") == 1_000


def test_a_beta_is_named_only_where_it_is_written_like_one(
    metrics: Metrics, exchange: Callable[..., Exchange]
) -> None:
    betas = {"new-thing-2027-01-01", "old-thing-20250219", "sk-senryu-secret", "", 'x"\n'}
    metrics.request(exchange(unknown_betas=frozenset(betas)), None)
    named = {each.labels["beta"] for each in samples(metrics) if "beta" in each.labels}
    assert named == {"new-thing-2027-01-01", "old-thing-20250219", OTHER}
    assert value(metrics, "unknown_betas_total", beta=OTHER) == 3


# --- the page ----------------------------------------------------------------------------------


@pytest.fixture
async def page(client_for: Callable[..., httpx.AsyncClient], body: dict[str, Any]) -> str:
    """What a server shows that has had some traffic."""
    client = client_for()
    beta = {"anthropic-beta": "of-tomorrow-2030-01-01"}
    await client.post("/v1/messages", json=body, headers=beta)
    await client.post("/v1/messages", json=body | {"stream": True})
    await client.post("/v1/messages", json={})
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return reply.text


def expressions(part: object) -> Iterator[str]:
    """Every question of the dashboard to Prometheus."""
    if isinstance(part, dict):
        for name, inner in part.items():
            if name in ("expr", "query") and isinstance(inner, str):
                yield inner
            yield from expressions(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from expressions(inner)


def asked_for(prefix: str) -> set[str]:
    asked = "\n".join(expressions(json.loads(DASHBOARD.read_text())))
    return set(re.findall(rf"\b{prefix}\w+", asked))


def test_every_metric_of_the_dashboard_is_on_the_page(page: str) -> None:
    shown = {each.name for family in read_text(page) for each in family.samples}
    asked = asked_for("(?:senryu_|process_)")
    assert len(asked) > 15
    # The scripted engine does not think, and this one is counted from the first thought on.
    assert asked - shown == {"senryu_thinking_tokens_total"}
    assert "# TYPE senryu_thinking_tokens_total counter" in page


def test_every_metric_of_ours_is_on_the_dashboard(page: str) -> None:
    families = {family.name for family in read_text(page) if family.name.startswith("senryu_")}
    asked = asked_for("senryu_")
    missing = {each for each in families if not any(name.startswith(each) for name in asked)}
    assert missing == set()


def test_every_metric_of_ours_is_in_the_papers_with_its_labels(page: str) -> None:
    rows = [line.split("|") for line in OPERATING.read_text().splitlines() if "`senryu_" in line]
    told = {
        name: set(filter(None, re.split(r"[, ]+", row[2])))
        for row in rows
        if len(row) == 5
        for name in re.findall(r"`(senryu_\w+)`", row[1])
    }
    families = [each for each in read_text(page) if each.name.startswith("senryu_")]
    names = {each.name + "_total" * (each.type == "counter") for each in families}
    assert set(told) == names
    for family in families:
        for each in family.samples:
            name = re.sub("_(bucket|sum|count)$", "", each.name)
            assert set(each.labels) - {"le"} == told[name]


def test_the_dashboard_sorts_by_labels_that_its_metrics_have(page: str) -> None:
    labels = {
        each.name: set(each.labels) | {"instance", "job"}  # which Prometheus adds
        for family in read_text(page)
        for each in family.samples
    }
    checked = 0
    for asked in expressions(json.loads(DASHBOARD.read_text())):
        for name, chosen in re.findall(r"(senryu_\w+)\{([^}]*)\}", asked):
            if name in labels:
                by = re.findall(r"by \((\w+)\)", asked)
                assert {*re.findall(r"(\w+)!?=", chosen), *by} <= labels[name], asked
                checked += 1
    assert checked > 20


def test_the_engines_metrics_that_the_dashboard_names_are_vllms() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(found.origin).parent / "v1/metrics/loggers.py").read_text()
    asked = {re.sub(r"_(total|bucket)$", "", name) for name in asked_for("vllm:")}
    assert len(asked) > 5
    assert {name for name in asked if f'name="{name}"' not in source} == set()


async def test_openmetrics_is_spoken_to_those_who_ask_for_it(
    client_for: Callable[..., httpx.AsyncClient], body: dict[str, Any]
) -> None:
    client = client_for()
    await client.post("/v1/messages", json=body)
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    reply = await client.get("/metrics", headers=accept)
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert "senryu_requests" in {family.name for family in read_openmetrics(reply.text)}


async def test_the_queue_is_counted_when_the_page_is_read(
    client_for: Callable[..., httpx.AsyncClient],
) -> None:
    page = (await client_for(max_streams=3).get("/metrics")).text
    shown = {each.name: each.value for family in read_text(page) for each in family.samples}
    assert shown["senryu_engine_healthy"] == 1
    assert (shown["senryu_queued_requests"], shown["senryu_active_requests"]) == (0, 0)
    assert shown["senryu_seats"] > 0
