"""A field is the fuller the larger its number, and words of others stay words."""

import re

from senryu.quant.compare.picture import fields


def test_fields_grow_fuller_with_their_numbers() -> None:
    svg = fields({"q": {0: 0.0, 1: 0.5}, "o": {1: 1.0}}, x="layer", what="error")
    assert svg
    assert re.findall(r'fill-opacity="([\d.]+)"', svg) == ["0.08", "0.54", "1.00"]
    assert "q, layer 1: 0.5000" in svg
    assert svg.count("<rect") == 3


def test_words_are_escaped() -> None:
    svg = fields({"<q>": {0: 1.0}}, x="a & b", what="error")
    assert svg
    assert "&lt;q&gt;" in svg
    assert "a &amp; b" in svg
    assert "<q>" not in svg


def test_nothing_is_no_drawing_and_zeros_are_pale() -> None:
    assert fields({}, x="layer", what="error") is None
    assert fields({"q": {}}, x="layer", what="error") is None
    svg = fields({"q": {0: 0.0}}, x="layer", what="error")
    assert svg
    assert 'fill-opacity="0.08"' in svg
