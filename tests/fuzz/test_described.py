"""Requests that schemathesis makes up from our own OpenAPI description, good ones and bad ones.

Promised whatever is sent: no 5xx; an error has the contract's shape; an answer is well formed.
"""

import json
from typing import Any

import pytest
import schemathesis
from fuzzing import Judge, runs
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema
from wellformed import check_message, check_stream

pytestmark = pytest.mark.fuzz


@pytest.fixture(scope="session")
def described(judge: Judge) -> BaseSchema:
    """The API as it describes itself."""
    request = judge.client().build_request("GET", "/openapi.json")
    return schemathesis.openapi.from_dict(judge.send(request).json())


@pytest.mark.parametrize("mode", GenerationMode)
@runs(100)
@given(data=st.data())
def test_a_described_request_is_answered_well_or_refused_well(
    judge: Judge, described: BaseSchema, mode: GenerationMode, data: st.DataObject
) -> None:
    case = data.draw(described.as_strategy(generation_mode=mode))
    if mode.is_positive and isinstance(case.body, dict):
        case.body["model"] = "scripted"  # any other is not found, and nothing more is looked at
    sent: dict[str, Any] = case.as_transport_kwargs(base_url="http://senryu.test")
    content = json.dumps(sent["json"]) if "json" in sent else sent.get("data")
    request = judge.client().build_request(
        sent["method"],
        sent["url"],
        params=sent.get("params"),
        headers=sent["headers"],
        content=content,
    )
    response = judge.send(request)
    if response.status_code != 200 or case.path != "/v1/messages":
        return
    if response.headers["content-type"] == "application/json":
        check_message(response.json())
    else:
        check_stream(response.text)
