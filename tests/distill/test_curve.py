"""The curve has each step once, whatever was interrupted."""

from pathlib import Path

from senryu.distill.curve import NAME, Curve, Point, read


def point(step: int) -> Point:
    return Point(
        step=step,
        tokens=step * 10,
        loss=1.0,
        sft=1.0,
        kl=None,
        learning_rate=0.1,
        gradient_norm=1.0,
        tokens_per_second=5.0,
        seconds=step * 2.0,
    )


def test_what_is_beyond_the_checkpoint_is_cut_off(tmp_path: Path) -> None:
    first = Curve(tmp_path, steps=0)
    for step in range(1, 6):
        first.add(point(step))
    again = Curve(tmp_path, steps=3)
    again.add(point(4))
    assert read(tmp_path) == [point(step) for step in range(1, 5)]


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    Curve(tmp_path, steps=0).add(point(1))
    with (tmp_path / NAME).open("a") as opened:
        opened.write('{"step": 2, "tok')
    assert read(tmp_path) == [point(1)]
    Curve(tmp_path, steps=2).add(point(2))
    assert read(tmp_path) == [point(1), point(2)]


def test_a_new_run_begins_a_new_curve(tmp_path: Path) -> None:
    Curve(tmp_path, steps=0).add(point(1))
    Curve(tmp_path, steps=0)
    assert read(tmp_path) == []
