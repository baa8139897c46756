"""The other end of a served model goes away with its questions, and with nothing to wait for."""

import sys
import time
from pathlib import Path

import pytest

from senryu.quant.compare import served
from senryu.quant.errors import QuantizeError

DEAF = """#!{}
import os, sys, time
out = int(sys.argv[3])
sys.stdin.readline()
os.write(out, b'{{"ready": {{}}}}\\n')
for line in sys.stdin:
    time.sleep(20)
"""


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A child that opens, obeys nothing, and ends when nobody can give it orders."""
    script = tmp_path / "deaf"
    script.write_text(DEAF.format(sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return tmp_path


def test_ctrl_c_ends_the_child_without_an_order(deaf: Path) -> None:
    begun = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        served.serve(deaf, kv_memory_gib=1, streams=1),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 15


def test_who_never_answers_is_not_waited_for(deaf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_PATIENCE", 0.1)
    with served.serve(deaf, kv_memory_gib=1, streams=1) as model:
        monkeypatch.setattr(served, "_LONGEST", 0.1)
        with pytest.raises(QuantizeError, match="has not answered"):
            model.rate(1, 1)
