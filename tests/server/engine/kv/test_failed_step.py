"""What a step that failed has half computed is not kept."""

import pytest

from senryu.server.engine.kv.work import Work

pytest.importorskip("vllm", reason="the engine is not installed: make setup")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what vLLM imports


class Saving:
    def __init__(self) -> None:
        self.saved = 0

    def save(self, work: Work) -> None:
        self.saved += 1


def test_blocks_are_saved_behind_a_step_and_not_behind_one_that_failed() -> None:
    """vLLM asks in a `finally`."""
    from senryu.server.engine.kv.connector import FileConnector, _Asked

    connector = FileConnector.__new__(FileConnector)
    connector._mover = saving = Saving()  # type: ignore[assignment]
    connector.bind_connector_metadata(_Asked(Work()))
    connector.wait_for_save()
    assert saving.saved == 1

    def step() -> None:
        try:
            raise MemoryError("no room for this layer")
        finally:
            connector.wait_for_save()

    with pytest.raises(MemoryError):
        step()
    assert saving.saved == 1
