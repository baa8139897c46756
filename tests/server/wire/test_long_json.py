"""Elements of a long list come out as they were sent, however the text is cut, and what is no JSON
is refused."""

import json
import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest

from senryu.server.wire import long_json
from senryu.server.wire.errors import InvalidRequest, RequestTooLarge
from senryu.server.wire.long_json import elements, member

HARD = (
    rb' { "requests" : [ {"a":"x]}\"\\"} , 12.50 ,"\\\"[" ,[[{}],"\ud83d"], null,'
    b'{"\xc3\xa9":12345678901234567890123}] } \n'
)


def read(text: bytes, most_bytes: int = 1000) -> list[bytes]:
    return list(elements(BytesIO(text).read, "requests", most_bytes=most_bytes))


@pytest.mark.parametrize("piece", range(1, 30))
def test_elements_are_the_bytes_that_were_sent_wherever_the_text_is_cut(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_json, "_PIECE", piece)
    text = BytesIO(HARD)
    found = list(elements(lambda size: text.read(min(size, piece)), "requests", most_bytes=1000))
    assert found == [
        rb'{"a":"x]}\"\\"}',
        b"12.50",
        rb'"\\\"["',
        rb'[[{}],"\ud83d"]',
        b"null",
        b'{"\xc3\xa9":12345678901234567890123}',
    ]


def values(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(7 if depth < 4 else 5)
    text = "".join(chance.choices('ab"\\[]{}:, \n\u00e9\U0001f600', k=chance.randrange(8)))
    simple: list[Any] = [text, chance.randrange(-9, 10**20), chance.random(), None, True]
    if kind < 5:
        return simple[kind]
    children = [values(chance, depth + 1) for _ in range(chance.randrange(4))]
    return children if kind == 5 else {f"{text}{n}": child for n, child in enumerate(children)}


def test_any_list_is_read_as_the_json_library_reads_it() -> None:
    chance = random.Random(7)
    for _ in range(500):
        whole = [values(chance) for _ in range(chance.randrange(5))]
        ascii_only, indent = chance.random() < 0.5, chance.choice([None, 1])
        text = json.dumps({"requests": whole}, ensure_ascii=ascii_only, indent=indent)
        assert [json.loads(each) for each in read(text.encode())] == whole


def cut_and_broken() -> Iterator[bytes]:
    for end in range(len(HARD) - 3):
        yield HARD[:end]
    yield b"[]"
    yield b'{"requests":[1,]}'
    yield b'{"requests":[,1]}'
    yield b'{"requests":[1 2]}'
    yield b'{"requests":[1],}'
    yield b'{"requests":[1]}x'
    yield b'{"requests":[1]]'
    yield b"{requests:[1]}"
    yield b'{"requests"[1]}'
    yield b'{"\xff":[1]}'


@pytest.mark.parametrize("text", list(cut_and_broken()))
def test_what_is_cut_or_broken_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="The request body is not valid JSON"):
        read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "requests: Field required"),
        ('{"requests":{}}', "requests: Input should be a valid list"),
        ('{"requests":null}', "requests: Input should be a valid list"),
        ('{"requests":[],"model":"m"}', "model: Extra inputs are not permitted"),
        ('{"requests":[],"requests":[]}', "requests: it is there twice; send it once"),
    ],
)
def test_another_object_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(text.encode())
    assert refusal.value.message == said


def test_no_more_is_held_than_one_element_may_take() -> None:
    endless = BytesIO(b'{"requests":[1,"' + b"x" * 3_000_000)
    with pytest.raises(RequestTooLarge, match=r"requests\.1: .* 0\.5 MB"):
        list(elements(endless.read, "requests", most_bytes=2**19))
    assert endless.tell() < 2_000_000
    with pytest.raises(RequestTooLarge, match=r"requests\.0"):
        read(b'{"requests":["' + b"x" * 1000 + b'"]}')


def test_a_member_is_found_as_it_was_sent_and_the_last_of_two_holds() -> None:
    whole = rb'{"a" : {"b":1} , "b": [1.50, "]"] ,"b" : 12345678901234567890123 }'
    assert member(whole, "a") == b'{"b":1}'
    assert member(whole, "b") == b"12345678901234567890123"
