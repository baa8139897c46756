"""Curves are drawn into the page, in its colours, and equal curves are equal drawings."""

import math
import re
from xml.etree import ElementTree

from senryu.distill.curves import POINTS, Line, draw, thinned

LINE = Line("loss", tuple((float(step), 9.0 / step) for step in range(1, 50)))


def drawn(*lines: Line, **told: bool) -> str:
    svg = draw(lines, x="tokens", y="nats", **told)
    assert svg
    return svg


def test_a_drawing_is_one_element_without_addresses() -> None:
    svg = drawn(LINE)
    assert svg.startswith("<svg role=")
    assert svg.endswith("</svg>")
    assert "http" not in svg
    assert "<metadata" not in svg
    ElementTree.fromstring(svg)


def test_it_takes_the_colours_and_the_font_of_the_page() -> None:
    svg = drawn(LINE, Line("kl", LINE.points))
    assert "currentColor" in svg
    assert "var(--line-0)" in svg
    assert "var(--line-1)" in svg
    assert "#0" not in svg.replace('"#', "")
    assert not re.search(r"font(-family)?: ?[^;\"]*(sans|DejaVu)", svg)
    assert "font-size: 1" in svg


def test_letters_stay_letters_and_somebody_who_hears_it_is_told() -> None:
    svg = drawn(LINE, Line("<kl>", LINE.points))
    texts = [each.text for each in ElementTree.fromstring(svg).iter("text")]
    assert {"tokens", "nats", "loss", "<kl>"} <= set(texts)
    assert 'aria-label="nats over tokens: loss, &lt;kl&gt;"' in svg


def test_its_width_is_the_pages() -> None:
    head = drawn(LINE).split(">")[0]
    assert "viewBox" in head
    assert "width=" not in head
    assert "height=" not in head


def test_equal_curves_are_equal_drawings_and_share_a_page_with_others() -> None:
    assert drawn(LINE) == drawn(LINE)
    ids = [set(re.findall(r'\bid="(\w{11,})"', drawn(Line(name, LINE.points)))) for name in "ab"]
    assert not ids[0] & ids[1]


def test_what_is_no_number_is_left_out() -> None:
    broken = ((1.0, math.nan), (2.0, math.inf), (3.0, 1.0), (4.0, 0.0))
    assert thinned(broken) == [(3.0, 1.0), (4.0, 0.0)]
    assert thinned(broken, log=True) == [(3.0, 1.0)]
    assert draw([Line("loss", broken[:2])], x="x", y="y") is None
    assert draw([], x="x", y="y") is None


def test_a_long_curve_is_averaged_to_what_can_be_seen() -> None:
    points = [(float(step), float(step % 2)) for step in range(10 * POINTS)]
    told = thinned(points)
    assert len(told) == POINTS
    assert {y for _, y in told} == {0.5}
    assert thinned(points[:7]) == points[:7]


def test_a_logarithmic_scale_is_drawn() -> None:
    assert drawn(LINE, log=True) != drawn(LINE)
