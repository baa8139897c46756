"""The whole bench, small, against our own server with an engine that needs no model."""

import json
from typing import Any

import pytest

from senryu.benches.agentic import client as agentic_client
from senryu.benches.agentic.__main__ import main
from senryu.benches.agentic.client import Client, Refused
from senryu.benches.agentic.replay import Manner, Player
from senryu.benches.agentic.session import SMALL, write
from senryu.server.engine.scripted import ScriptedEngine

CALL = '<tool_call>\n{"name": "Read", "arguments": {"file_path": "src/a.py"}}\n</tool_call>'
ANSWER = f"The row is empty.\n</think>\n\nI read the file.\n{CALL}"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """This server needs no time to notice that its client left."""
    monkeypatch.setattr(agentic_client, "_SETTLE", 0.0)


def replay(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, Any]:
    """Status, table and record of one run."""
    status = main(["--small", "--seed", "7", "--answer", "100", *flags])
    said = capsys.readouterr().out
    shown, _, last = said.strip().rpartition("\n")
    return status, shown, json.loads(last)


def test_a_session_is_played_to_its_end(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve(ScriptedEngine(ANSWER)).url
    status, shown, record = replay(capsys, "--ours", url, "--cold")
    assert status == 0
    (column,) = record["servers"]
    figures = column["figures"]
    kinds = [turn["kind"] for turn in figures["turns"]]
    assert kinds.count("grown") == 16
    assert {"first", "compacted", "dropped", "timed out"} <= set(kinds)
    assert figures["requests"] == 22
    assert all(turn["new"] > 320 and turn["cold_s"] > 0 for turn in figures["turns"])
    # The timed-out request ended before the client lost patience, so all have whole usage but one.
    assert figures["usage_same"]["met"] == figures["usage_same"]["of"] >= 20
    assert figures["count_same"] == {"met": 20, "of": 20}
    assert figures["counters_same"] is None  # there is no page with them
    assert figures["calls"] >= 20
    assert figures["calls_unparsable"] == figures["calls_cut"] == 0
    assert 0 < figures["first_token_warm_s"] <= figures["silence_without_pings_s"]
    assert column["model"] == "scripted"
    assert {"date", "machine", "python", "seed"} <= set(record)
    assert {"senryu", "httpx"} <= set(record["versions"])
    assert "summed up at turn 11" in shown


def test_signed_thoughts_are_sent_back_and_read(serve: Any) -> None:
    """The server checks its own signatures, and refuses one that was changed."""
    session = write(SMALL, 7)
    with Client(serve(ScriptedEngine(ANSWER)).url) as client:
        turns = Player(client, session, Manner(answer=100)).turns()
        first, second = next(turns), next(turns)
    with Client(serve(ScriptedEngine("No thought.")).url) as client:
        without = Player(client, session, Manner(answer=100)).turns()
        bare_first, bare_second = next(without), next(without)
    assert first.counted == bare_first.counted
    assert second.counted is not None
    assert bare_second.counted is not None
    assert second.counted > bare_second.counted


def test_the_same_session_is_played_against_the_one_beside(
    serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = serve(ScriptedEngine(ANSWER)).url, serve(ScriptedEngine("Short.")).url
    flags = ["--ours", one, "--beside", other, "--system-as-string"]
    status, shown, record = replay(capsys, *flags)
    assert status == 0
    assert [column["name"] for column in record["servers"]] == [one, other]
    assert record["system_as_string"]
    assert "ratio" in shown


def test_a_server_that_refuses_is_told_with_its_own_words(
    serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(ScriptedEngine(ANSWER, window=10_000)).url
    status, shown, record = replay(capsys, "--ours", url)
    assert status == 1
    (column,) = record["servers"]
    assert column["failure"].startswith("stopped after 3 turns: 400: prompt is too long")
    assert len(column["figures"]["turns"]) == 3
    assert shown.endswith(column["failure"])


def test_nobody_there_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, record = replay(capsys, "--ours", "http://127.0.0.1:9")
    assert status == 1
    assert "figures" not in record["servers"][0]


def test_a_stream_that_breaks_is_no_answer(serve: Any, breaking_engine: Any) -> None:
    url, body = serve(breaking_engine(ANSWER, before=3)).url, {"role": "user", "content": "Hi."}
    with Client(url) as client, pytest.raises(Refused, match="the stream ended early"):
        client.ask({"messages": [body]}, answer=100)


def test_the_client_leaves_when_the_first_token_does_not_come(
    serve: Any, stalling_engine: Any
) -> None:
    engine = stalling_engine(ANSWER, before=0)
    with Client(serve(engine).url) as client:
        body = {"messages": [{"role": "user", "content": "Hi."}]}
        attempt = client.ask(body, answer=100, leave_after=0.1)
        engine.released.set()
    assert attempt.ending == "timed out"
    assert 0.1 <= attempt.left - attempt.sent < 5


def test_a_server_is_started_and_stopped_twice_for_the_restart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENRYU_ENGINE", "scripted")
    status, shown, record = replay(capsys, "--restart")
    assert status == 0
    assert record["servers"][0]["restart"]["ratio"] > 0
    assert "senryu" in shown


def test_another_ones_server_is_not_stopped(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, shown, _ = replay(capsys, "--ours", serve().url, "--restart")
    assert status == 1
    assert shown.endswith("it is not ours to stop and to start again")


def test_a_session_has_room_for_its_mishaps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--turns", "5"])
    assert "at least 12" in capsys.readouterr().err
