"""`senryu usage` tells people who used how much, and spreadsheets each request."""

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from senryu.server.cli import main
from senryu.server.tenancy.presence import now_ms
from senryu.server.tenancy.store.opening import open_store
from senryu.server.tenancy.store.tables import keys, ledger


def row(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"msg_{number:05}",
        "request_id": f"req_{number}",
        "server": "server_1",
        "key_id": "apikey_1",
        "workspace_id": None,
        "model": "small",
        "task": None,
        "tier": "standard",
        "state": "done",
        "started_at": now_ms() - 1_000 * number - 1,
        "ended_at": now_ms(),
        "input_tokens": 100_000,
        "cache_read_tokens": 600_000,
        "cache_creation_5m_tokens": 200_000,
        "cache_creation_1h_tokens": 100_000,
        "output_tokens": 1_000_000,
        "cost": 1_500_000_000,
    } | changed


async def _fill(file: Path, rows: list[dict[str, Any]]) -> None:
    store = await open_store(str(file))
    ann = {"name": "ann", "workspace_id": None, "role": "user", "digest": "d", "hint": "h"}
    async with store.engine.begin() as connection:
        await connection.execute(
            insert(keys).values(id="apikey_1", limits={}, created_at=1, disabled=False, **ann)
        )
        await connection.execute(insert(ledger), rows)
    await store.close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server whose ledger has a few rows."""
    monkeypatch.chdir(tmp_path)
    rows = [
        row(1),
        row(2, key_id="settings:bob", tier="batch", cost=5, task="triage"),
        row(3, key_id=None, cost=0, input_tokens=0, cache_read_tokens=0, output_tokens=0),
        row(4, state="lost"),
        row(5, started_at=now_ms() - 400 * 86_400_000),
    ]
    asyncio.run(_fill(tmp_path / "senryu.db", rows))
    return tmp_path


def usage(data: Path, *flags: str) -> int:
    return main(["usage", "--data", str(data), "--since", "1h", *flags])


def test_a_table_shows_each_key_the_dearest_first(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage(data) == 0
    shown = capsys.readouterr()
    head, ann, bob, nobody, total = (line.split() for line in shown.out.splitlines())
    assert head[:4] == ["key", "requests", "input", "cache"]
    # A dollar for a million read and five for a million written: 0.1, 0.06, 0.25, 0.2 and 5.
    assert " ".join(ann) == "ann 1 100,000 300,000 600,000 60% 1,000,000 $1.50 $5.61"
    assert " ".join(bob) == "bob 1 100,000 300,000 600,000 60% 1,000,000 $0.0000 $2.81"
    assert " ".join(nobody) == "(no key) 1 0 300,000 0 0% 0 $0.00 $0.4500"
    assert " ".join(total) == "all 3 200,000 900,000 1,200,000 52% 2,000,000 $1.50 $8.87"
    assert "lost when a server died: 1" in shown.err


def test_what_it_would_have_cost_elsewhere_is_asked_with_other_prices(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage(data, "--prices", "small=0/10", "--by", "model", "--json") == 0
    (small,) = json.loads(capsys.readouterr().out)["usage"]
    assert small["model"] == "small"
    assert (small["cost_usd"], small["at_these_prices_usd"]) == (1.500000005, 15)


def test_csv_has_a_line_for_each_request(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(data, "--csv") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["id"] for line in lines] == ["msg_00003", "msg_00002", "msg_00001"]
    assert [line["api_key_id"] for line in lines] == ["", "settings:bob", "apikey_1"]


def test_a_time_without_requests_is_said_so(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(data, "--since", "2001-01-01", "--until", "2001-02-01") == 0
    shown = capsys.readouterr()
    assert shown.out == "no requests\n"
    assert shown.err == "2001-01-01 00:00 to 2001-02-01 00:00 (UTC)\n"


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (("--since", "soon"), 2, "since: 'soon' is no time"),
        (("--until", "2h"), 2, "until: must be after --since"),
        (("--prices", "x"), 2, "prices: 'x' is not spelt MODEL=INPUT/OUTPUT"),
        (("--database", "none"), 2, "database: none keeps no ledger"),
        (("--database", "elsewhere.db"), 1, "there is no ledger yet at elsewhere.db"),
        (("--database", "mysql://x"), 1, "mysql is not known"),
    ],
)
def test_what_cannot_be_told_is_said_in_one_sentence(
    data: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], status: int, said: str
) -> None:
    assert usage(data, *flags) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("senryu usage: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not (data / "elsewhere.db").exists()
