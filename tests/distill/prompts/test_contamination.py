"""What is measured with is never trained on, not even in part."""

from senryu.distill.prompts.contamination import Sides

LONG = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def test_a_run_of_words_on_the_other_side_is_found() -> None:
    sides = Sides(8)
    sides.add(LONG, held_out=True)
    assert sides.shared(["so", *LONG[1:9], "then"], held_out=False)
    assert not sides.shared(["so", *LONG[1:8], "then"], held_out=False)


def test_it_works_both_ways() -> None:
    """Whichever comes later gives way."""
    sides = Sides(8)
    sides.add(LONG, held_out=False)
    assert sides.shared(LONG, held_out=True)


def test_on_one_side_words_may_come_again() -> None:
    sides = Sides(8)
    sides.add(LONG, held_out=False)
    assert not sides.shared(LONG, held_out=False)


def test_shorter_texts_have_no_such_run() -> None:
    sides = Sides(8)
    sides.add(LONG, held_out=True)
    assert not sides.shared(LONG[:7], held_out=False)


def test_zero_lets_everything_pass() -> None:
    sides = Sides(0)
    sides.add(LONG, held_out=True)
    assert not sides.shared(LONG, held_out=False)
