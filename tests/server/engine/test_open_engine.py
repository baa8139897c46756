"""The engine that is opened is the one that was asked for, with the settings that it knows."""

from pathlib import Path

import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine import open_engine
from senryu.server.engine.base import EngineError
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.settings import ServerSettings
from senryu.server.turn.prompt import Prompt


async def test_the_scripted_engine_is_opened_when_it_is_named() -> None:
    engine = await open_engine(
        ServerSettings(engine="scripted", window=123, served_name="me", scripted_tokens=7)
    )
    assert isinstance(engine, ScriptedEngine)
    assert (engine.card.model, engine.card.window) == ("me", 123)


async def test_the_scripted_engine_says_what_the_settings_say() -> None:
    engine = await open_engine(ServerSettings(engine="scripted", scripted_text="Hello you"))
    said = engine.generate(Prompt(token_ids=[1]), Sampling(max_tokens=9), "msg_1")
    assert [event.text async for event in said] == ["Hello ", "you"]


async def test_the_scripted_engine_needs_no_settings() -> None:
    engine = await open_engine(ServerSettings(engine="scripted"))
    assert (engine.card.model, engine.card.window) == ("scripted", 200_000)


async def test_auto_never_falls_back_to_the_scripted_engine(tmp_path: Path) -> None:
    """Without a model there is no server: nobody is to talk to a fake without knowing."""
    with pytest.raises(EngineError):
        await open_engine(ServerSettings(device="cpu", model=str(tmp_path / "none")))
