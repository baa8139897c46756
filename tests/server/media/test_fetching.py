"""A url of a request leads to the public world and nowhere else."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from senryu.server.conversation.media import MediaError
from senryu.server.media.fetching import Fetcher

URL = "https://pictures.example/a.png?size=1"
PUBLIC = "93.184.215.14"


class Web(httpx.AsyncBaseTransport):
    """Answers every request alike, and remembers what it was asked."""

    def __init__(self, answer: Callable[[], httpx.Response]) -> None:
        self._answer = answer
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self._answer()


def good() -> httpx.Response:
    headers = {"content-type": "Image/PNG; charset=x"}
    return httpx.Response(200, headers=headers, stream=httpx.ByteStream(b"pixels"))


def fetcher(
    answer: Callable[[], httpx.Response] = good, *addresses: str, seconds: float = 5
) -> tuple[Fetcher, Web]:
    web = Web(answer)
    found = addresses or (PUBLIC,)
    return Fetcher(resolve=lambda host, port: found, transport=web, seconds=seconds), web


def refusal(fetcher: Fetcher, url: str = URL) -> str:
    with pytest.raises(MediaError) as caught:
        fetcher.fetch(url, "image")
    return str(caught.value)


def test_what_is_there_comes_with_its_type() -> None:
    assert fetcher()[0].fetch(URL, "image") == ("image/png", b"pixels")


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    for address, host in ((PUBLIC, PUBLIC), ("2606:2800::1", "[2606:2800::1]")):
        asking, web = fetcher(good, address)
        asking.fetch(URL.replace("example/", "example:8443/"), "image")
        (request,) = web.asked
        assert str(request.url) == f"https://{host}:8443/a.png?size=1"
        assert request.headers["host"] == "pictures.example:8443"
        assert request.extensions["sni_hostname"] == "pictures.example"


def test_neither_a_name_nor_a_password_of_the_url_is_passed_on() -> None:
    asking, web = fetcher()
    asking.fetch(URL.replace("//", "//me:secret@"), "image")
    assert "authorization" not in web.asked[0].headers


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
    ],
)
def test_no_address_of_our_own_network_is_asked(address: str) -> None:
    for addresses in ([address], [PUBLIC, address]):
        asking, web = fetcher(good, *addresses)
        assert refusal(asking) == "the url does not lead to a public address"
        assert not web.asked


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "localhost"])
def test_an_address_is_checked_however_it_is_written(host: str) -> None:
    web = Web(good)
    refusal(Fetcher(seconds=5, transport=web), f"https://{host}/")
    assert not web.asked


@pytest.mark.parametrize(
    "url", ["http://pictures.example/", "file:///etc/passwd", "ftp://x/", "//x/", "x", "https://"]
)
def test_only_https_is_spoken(url: str) -> None:
    assert refusal(fetcher()[0], url) == "only https urls are fetched"


@pytest.mark.parametrize("url", ["https://[", "https://x:99999999/", "https://x y/", "https://\0/"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    web = Web(good)
    assert refusal(Fetcher(seconds=5, transport=web), url)
    assert not web.asked


def test_a_redirect_is_not_followed() -> None:
    headers = {"location": "https://127.0.0.1/"}
    asking, web = fetcher(lambda: httpx.Response(302, headers=headers))
    assert refusal(asking) == "the url redirects; send the address that it leads to"
    assert len(web.asked) == 1


def test_an_error_of_the_other_side_is_told() -> None:
    assert (
        refusal(fetcher(lambda: httpx.Response(404))[0]) == "the url was answered with status 404"
    )


def test_a_packed_answer_is_not_unpacked() -> None:
    def packed() -> httpx.Response:
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Drops(1, 0))

    assert refusal(fetcher(packed)[0]) == "the url was answered in a packed form"


class Drops(httpx.AsyncByteStream):
    """So many pieces of a mebibyte, each after a while."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._count):
            await asyncio.sleep(self._seconds)
            yield bytes(2**20)


def test_ten_megabytes_are_the_most() -> None:
    most, _ = fetcher(lambda: httpx.Response(200, stream=Drops(10, 0)))
    assert len(most.fetch(URL, "document")[1]) == 10 * 2**20
    more, _ = fetcher(lambda: httpx.Response(200, stream=Drops(11, 0)))
    assert refusal(more) == "the url leads to more than 10 MB"


def test_an_answer_that_drips_is_not_waited_for() -> None:
    began = time.monotonic()
    dripping, _ = fetcher(lambda: httpx.Response(200, stream=Drops(100, 0.05)), seconds=0.2)
    assert refusal(dripping) == "the url took longer than 0.2 seconds"
    assert time.monotonic() - began < 2


def test_a_name_that_takes_too_long_is_not_waited_for() -> None:
    asked, late = threading.Event(), threading.Event()

    def slow(host: str, port: int) -> list[str]:
        asked.set()
        late.wait(30)
        return [PUBLIC]

    began = time.monotonic()
    said = refusal(Fetcher(seconds=0.2, resolve=slow))
    assert said == "the url took longer than 0.2 seconds"
    assert time.monotonic() - began < 2
    assert asked.is_set()
    late.set()  # and whoever finds it now tells nobody


def test_a_name_that_nobody_knows_is_refused() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    said = refusal(Fetcher(seconds=5, resolve=unknown))
    assert said == "the url could not be fetched (Name or service not known)"
