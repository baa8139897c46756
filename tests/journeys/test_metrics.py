"""What the real engine counts stands on our page, under the names that the dashboard asks for."""

import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Served

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

DASHBOARD = Path(__file__).parents[2] / "examples/grafana-dashboard.json"


def test_the_engines_counters_are_on_the_page_and_move(served: Served) -> None:
    def page() -> dict[str, float]:
        text = httpx.get(f"{served.url}/metrics").raise_for_status().text
        found = text_string_to_metric_families(text)
        return {each.name: each.value for family in found for each in family.samples}

    before = page()
    asked = {
        "model": "claude-haiku-4-5",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "Count."}],
    }
    reply = httpx.post(f"{served.url}/v1/messages", json=asked, timeout=120).raise_for_status()
    written = reply.json()["usage"]["output_tokens"]
    names = set(re.findall(r"vllm:\w+", json.dumps(json.loads(DASHBOARD.read_text())["panels"])))
    after = page()
    assert names
    assert names - after.keys() == set()
    counted = "vllm:generation_tokens_total"
    assert after[counted] - before[counted] >= written > 0
    assert after["senryu_engine_healthy"] == 1
