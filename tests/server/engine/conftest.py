"""The folder of the embedded model, for what needs a real tokenizer and no engine."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder() -> Path:
    pytest.importorskip("xgrammar", reason="the engine is not installed: make setup")
    from senryu.server.engine.model_folder import EMBEDDED, find_model

    return find_model(EMBEDDED)
