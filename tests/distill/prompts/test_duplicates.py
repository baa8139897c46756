"""One prompt is asked once, however it is written."""

from senryu.distill.prompts.duplicates import Distinct, words

LONG = (
    "Write a short story about a lighthouse keeper who finds a letter in a bottle and decides to "
    "answer it, although it is forty years old and nobody knows the sender any more."
)


def test_words_have_no_case_and_no_marks() -> None:
    assert words("  Why,  is the SKY blue?! ") == ["why", "is", "the", "sky", "blue"]
    assert words("Straße ﬁne") == ["strasse", "fine"]


def test_scripts_without_spaces_are_counted_by_characters() -> None:
    """Otherwise a sentence of theirs were one word, and no run of it could be found."""
    assert words("天空 blue") == ["天", "空", "blue"]


def test_a_text_of_marks_is_one_word() -> None:
    assert words(" :-) ") == [":-)"]
    assert words(":-(") != words(":-)")


def test_the_same_words_are_a_duplicate() -> None:
    known = Distinct(0.8)
    known.add(words("Why is the sky blue?"))
    assert known.repeated(words("why is the sky BLUE")) == "exact"
    assert known.repeated(words("Why is the sea blue?")) is None


def test_nearly_the_same_words_are_a_near_duplicate() -> None:
    """One word of thirty is another one."""
    known = Distinct(0.6)
    known.add(words(LONG))
    assert known.repeated(words(LONG.replace("forty", "fifty"))) == "near"
    assert known.repeated(words("Explain how a lighthouse works, and who kept them.")) is None


def test_the_recipe_says_how_near_is_too_near() -> None:
    other = words(LONG.replace("forty", "fifty").replace("short", "long"))
    for near, told in ((0.3, "near"), (0.95, None), (1.0, None)):
        known = Distinct(near)
        known.add(words(LONG))
        assert known.repeated(other) == told, near


def test_short_prompts_are_only_compared_whole() -> None:
    """They hold no five words in a row, and one other word makes another prompt."""
    known = Distinct(0.1)
    known.add(words("Define love."))
    assert known.repeated(words("define love")) == "exact"
    assert known.repeated(words("Define hate.")) is None
    assert known.repeated(words("Define love and hate for me.")) is None


def test_it_is_the_same_every_time() -> None:
    """The sketches hang on the words alone, in no process on its seed of hashes."""
    texts = [LONG.replace("letter", each) for each in ("map", "coin", "ring", "key", "letter")]

    def fates() -> list[str | None]:
        known, told = Distinct(0.7), []
        for text in texts:
            told.append(known.repeated(words(text)))
            known.add(words(text))
        return told

    assert fates() == fates() == [None, "near", "near", "near", "near"]
