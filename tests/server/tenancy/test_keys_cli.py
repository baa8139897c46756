"""`senryu keys`: what goes to stdout can be piped, what a person types is checked, and a server
that runs follows."""

import asyncio
import json
import os
import re
import time
from pathlib import Path

import pytest

from senryu.server.keys_cli import main, parser
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Caller, Callers
from senryu.server.tenancy.directory import Directory
from senryu.server.tenancy.store.opening import Store


@pytest.fixture(autouse=True)
def _settings_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SENRYU_")]:
        monkeypatch.delenv(name)


class Command:
    """`senryu keys` on a database of this test's own."""

    def __init__(self, address: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._address, self._capsys = address, capsys
        self.said = ""

    def __call__(self, *words: str, status: int = 0) -> str:
        """What it printed; what it said besides is in `said`."""
        assert main([*words, "--database", self._address]) == status
        printed, self.said = self._capsys.readouterr()
        return printed.strip()

    def listed(self, *words: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self("list", "--json", *words))["keys"]
        return found


@pytest.fixture
def command(address: str, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(address, capsys)


def test_a_new_key_is_all_that_is_printed_and_is_shown_this_once(command: Command) -> None:
    key = command("create", "ann")
    assert re.fullmatch(r"sk-senryu-\w{44}", key)
    assert "can never be shown again" in command.said
    assert "serves nobody without one" in command.said
    for shown in (command("list"), command("list", "--json"), command("disable", "ann")):
        assert key not in shown
        assert key[-4:] in shown or "disabled" in shown


def test_a_script_is_told_all_of_a_new_key(command: Command) -> None:
    told = json.loads(
        command(
            *("create", "ann", "--json", "--role", "batch", "--workspace", "team"),
            *("--expires", "30d", "--limit", "requests_per_minute=60"),
            *("--limit", "usd_per_day=1.5"),
        )
    )
    assert told.pop("key").endswith(told["hint"])
    assert told["id"].startswith("apikey_01")
    assert told["role"] == "batch"
    assert told["workspace"] == "team"
    assert told["limits"] == {"requests_per_minute": 60, "usd_per_day": 1.5}
    assert told["state"] == "active"
    assert told["expires_at"].endswith("Z")
    assert command.listed() == [told]


def test_the_list_is_a_table_for_people(command: Command) -> None:
    command("create", "ann", "--workspace", "team", "--limit", "tokens_per_month=1000000")
    command("create", "robot", "--role", "batch", "--expires", "45m")
    command("limit", "--workspace", "team", "usd_per_month=200")
    lines = command("list").splitlines()
    assert re.fullmatch(r"NAME +ROLE +WORKSPACE +KEY +STATE +EXPIRES +LIMITS", lines[0])
    assert re.fullmatch(
        r"ann +user +team +\.\.\.\w{4} +active +never +tokens_per_month=1000000", lines[1]
    )
    assert re.fullmatch(r"robot +batch +\.\.\.\w{4} +active +\d{4}-\d\d-\d\d \d\d:\d\d", lines[2])
    assert lines[3:] == ["", "WORKSPACE  LIMITS", "team       usd_per_month=200"]


def test_without_keys_the_list_says_how_to_make_one(command: Command) -> None:
    assert command("list") == ""
    assert "senryu keys create NAME" in command.said


def test_disabled_enabled_revoked(command: Command) -> None:
    command("create", "ann")
    assert command("disable", "ann") == "ann is disabled"
    assert "refuses everybody until you create one" in command.said
    assert command("enable", "ann") == "ann is active"
    assert not command.said
    assert command("revoke", "ann") == "ann is revoked"
    assert command.listed() == []
    assert [key["state"] for key in command.listed("--all")] == ["revoked"]
    assert command("enable", "ann", status=1) == ""
    assert command.said == ("senryu keys: ann was revoked, which is for ever; create another key\n")


def test_rotated_it_is_another_key_of_the_same_name(command: Command) -> None:
    first = command("create", "ann")
    second = command("rotate", "ann", "--keep", "1h")
    assert re.fullmatch(r"sk-senryu-\w{44}", second)
    assert second != first
    assert [key["hint"] for key in command.listed()] == [second[-4:]]


def test_limits_are_set_and_lifted(command: Command) -> None:
    command("create", "ann", "--workspace", "team")
    said = command("limit", "ann", "requests_per_minute=60", "usd_per_day=5")
    assert said == "ann: requests_per_minute=60 usd_per_day=5"
    assert command("limit", "ann", "usd_per_day=none") == "ann: requests_per_minute=60"
    assert command("limit", "ann", "requests_per_minute=none") == "ann: no limits"
    assert command("limit", "--workspace", "team", "usd_per_day=9") == "team: usd_per_day=9"
    assert (
        json.loads(command("limit", "--workspace", "team", "usd_per_day=none", "--json"))["limits"]
        == {}
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "ann", "--expires", "soon"], "--expires: 'soon' is no length of time"),
        (["create", "ann", "--expires", "0d"], "--expires: '0d' is no length of time"),
        (["create", "ann", "--expires", "999999999w"], "is no length of time"),
        (["create", "ann", "--limit", "speed=1"], "--limit: 'speed' is no limit"),
        (["create", "ann", "--limit", "usd_per_day=none"], "wants a number from 0 on"),
        (["limit", "usd_per_day=1"], "limit: say whose"),
        (["limit", "ann"], "limit: say what ann may use"),
        (["limit", "--workspace", "w", "w"], "limit: 'w' is no limit"),
        (["limit", "ann", "speed=none"], "limit: 'speed' is no limit"),
        (["list", "--database", "mysql://db.example/x"], None),
    ],
)
def test_what_is_asked_for_in_a_wrong_way_is_said_in_one_line(
    command: Command, words: list[str], said: str | None
) -> None:
    if said is None:
        assert main(words) == 1
        return
    command(*words, status=2)
    assert said in command.said
    assert command.said.startswith("senryu keys: ")
    assert command.said.count("\n") == 1


def test_where_nothing_is_kept_there_are_no_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--database", "none"]) == 2
    assert "name a database" in capsys.readouterr().err


def test_left_out_it_is_the_database_of_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "senryu.toml").write_text('[server]\ndata = "kept"\n')
    assert main(["create", "ann"]) == 0
    assert (tmp_path / "kept" / "senryu.db").exists()
    monkeypatch.setenv("SENRYU_DATA", str(tmp_path / "elsewhere"))
    assert main(["create", "ann"]) == 0
    assert (tmp_path / "elsewhere" / "senryu.db").exists()
    assert not re.findall(r"Traceback", capsys.readouterr().err)


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("create", "list", "rotate", "revoke", "disable", "enable", "limit"):
        with pytest.raises(SystemExit) as left:
            parser().parse_args([verb, "--help"])
        assert left.value.code == 0
        assert "--database" in capsys.readouterr().out


async def test_what_it_prints_opens_the_server_that_runs_meanwhile(
    store: Store, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = Callers(ServerSettings(), b"s" * 32, time.time)
    directory = Directory(store, known)
    await directory.read()
    assert await asyncio.to_thread(main, ["create", "ann", "--database", address]) == 0
    key = capsys.readouterr().out.strip().encode()
    await directory.read()
    found = known.named([key])
    assert isinstance(found, Caller)
    assert found.name == "ann"
    assert await asyncio.to_thread(main, ["revoke", "ann", "--database", address]) == 0
    await directory.read()
    assert known.named([key]) is None
