"""Words that steer the model are broken where somebody else than the dialect wrote them."""

from hypothesis import given
from hypothesis import strategies as st

from senryu.server.turn.guard import GUARD, guarded

WORDS = ("<a>", "<a>b", "[c]")


def test_a_word_is_broken_behind_its_first_character_and_all_else_stays() -> None:
    assert guarded("x <a> [c]y <d>", WORDS) == f"x <{GUARD}a> [{GUARD}c]y <d>"


def test_every_text_of_a_json_value_is_guarded() -> None:
    value = {"<a>": ["<a>", 1, None, {"k": "[c]"}]}
    assert guarded(value, WORDS) == {f"<{GUARD}a>": [f"<{GUARD}a>", 1, None, {"k": f"[{GUARD}c]"}]}


def test_where_no_word_steers_nothing_changes() -> None:
    assert guarded({"<a>": "<a>"}, ()) == {"<a>": "<a>"}


@given(st.lists(st.sampled_from([*WORDS, GUARD, "<", "a>", "b", "[", "c]"])).map("".join))
def test_no_word_stands_in_what_was_guarded(text: str) -> None:
    """Guards of somebody else only break more words."""
    assert not [word for word in WORDS for part in guarded(text, WORDS).split() if word in part]
    assert guarded(text, WORDS).replace(GUARD, "") == text.replace(GUARD, "")
