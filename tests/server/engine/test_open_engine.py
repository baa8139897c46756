"""The engine that is opened is the one that was asked for, with the settings that it knows."""

from dataclasses import replace
from pathlib import Path

import pytest

from senryu.server.conversation.messages import Sampling
from senryu.server.engine import open_engine
from senryu.server.engine.base import EngineError
from senryu.server.engine.model_folder import refuse_unservable
from senryu.server.engine.scripted import ScriptedEngine
from senryu.server.manifest import Manifest
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


async def test_a_model_that_broke_its_bounds_is_not_served(tmp_path: Path) -> None:
    """`senryu serve` asks for the gate; who measures the model again does not."""
    manifest = Manifest(
        model_id="m",
        display_name="M",
        source="here",
        licence=None,
        scheme="w4a16",
        group_size=32,
        parameters=None,
        created_at=None,
        servable=False,
        refused_because="the KL to the parent is 0.9, above the bound of 0.25",
    )
    manifest.write(tmp_path)
    with pytest.raises(EngineError, match=r"lost too much.*0\.9, above.*quantize it in another"):
        refuse_unservable(tmp_path)
    replace(manifest, servable=True, refused_because=None).write(tmp_path)
    refuse_unservable(tmp_path)
    replace(manifest, servable=None, refused_because=None).write(tmp_path)
    refuse_unservable(tmp_path)
