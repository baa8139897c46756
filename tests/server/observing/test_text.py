"""What is shown of bodies has a bound, whatever is sent."""

import gzip

from senryu.server.observing.text import Excerpt


def test_a_short_body_is_shown_whole() -> None:
    excerpt = Excerpt()
    excerpt.add("für ".encode())
    excerpt.add(b"you")
    assert excerpt.text == "für you"


def test_of_a_long_one_the_beginning_is_held_and_the_rest_counted() -> None:
    excerpt = Excerpt()
    for _ in range(1_000):
        excerpt.add(b"x" * 100)
    assert excerpt.text == "x" * 32_768 + " ... and 67232 bytes"


def test_what_is_packed_is_unpacked_up_to_the_bound() -> None:
    excerpt = Excerpt()
    excerpt.encoded_as([(b"Content-Encoding", b"GZIP")])
    excerpt.add(gzip.compress(b"hello " * 1_000_000))
    assert excerpt.text.startswith("hello hello")
    assert len(excerpt.text) == 32_768


def test_what_only_claims_to_be_packed_breaks_nothing() -> None:
    excerpt = Excerpt()
    excerpt.encoded_as([(b"content-encoding", b"gzip")])
    excerpt.add(b"hello")
    assert excerpt.text == "(no valid gzip)"


def test_files_are_not_shown() -> None:
    excerpt = Excerpt()
    excerpt.encoded_as([(b"content-type", b"multipart/form-data; boundary=x")])
    excerpt.add(b"%PDF")
    assert excerpt.text == "(4 bytes)"
