"""A thought that was signed is known again: by the same server later, and by the one beside it."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from senryu.server.conversation.signing import Signer
from senryu.server.settings import ServerSettings
from senryu.server.signing_key import read_secret


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SENRYU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(**told: Any) -> Signer:
    """Signs with the secret that a server with these settings has."""
    return Signer(read_secret(ServerSettings(**told)))


def knows(reader: Signer, writer: Signer) -> bool:
    return reader.read("hm", writer.sign("hm", model="m", shown=True), model="m") == "hm"


def test_the_key_outlives_the_server() -> None:
    assert knows(kept(), kept())


def test_the_key_is_its_owners_alone_and_nothing_lies_beside_it(cache: Path) -> None:
    kept()
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32


def test_servers_that_start_at_once_agree_on_one_key(cache: Path) -> None:
    for round_ in range(20):
        with ThreadPoolExecutor(8) as pool:
            first, *others = pool.map(lambda _: kept(), range(8))
        assert all(knows(first, other) for other in others), round_
        (file,) = cache.iterdir()
        file.unlink()


def test_the_operators_key_is_used_and_none_is_kept(cache: Path) -> None:
    one, same, other = (kept(signing_key=key) for key in ("a", "a", "b"))
    assert knows(one, same)
    assert not knows(one, other)
    assert not cache.exists()


def test_where_no_key_can_be_kept_one_holds_until_the_end(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("not a folder")
    signer = kept()
    assert knows(signer, signer)
    assert not knows(signer, kept())
    assert "set signing_key" in caplog.text


def test_a_file_that_was_cut_short_is_no_key(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.mkdir()
    (cache / "signing-key").write_bytes(b"")
    assert not knows(kept(), Signer(b""))
    assert "holds no key; remove it" in caplog.text
