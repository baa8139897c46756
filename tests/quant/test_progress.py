"""A log hears of long work now and then, not of each unit."""

import pytest

from senryu.quant import progress


def test_a_log_gets_a_line_of_detail_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Bar() as bar:
        bar.begin(60)
        bar.stage("training")
        for second in range(60):
            now[0] = float(second)
            bar.done(f"step {second}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  training", "  training step 15", "  training step 30", "  training step 45"]
