"""Who may ask, and who shares what is cached."""

import pytest

from senryu.server.layers import SettingsError
from senryu.server.settings import ServerSettings
from senryu.server.tenancy.callers import Callers, entries

SECRET = b"s" * 32


def callers(*keys: str, api_key: str | None = None, secret: bytes = SECRET) -> Callers:
    return Callers(ServerSettings(api_keys=keys, api_key=api_key), secret)


def salt(known: Callers, key: str) -> str:
    caller = known.named([key.encode()])
    assert caller is not None
    return caller.salt


def test_each_key_has_a_salt_of_its_own_and_a_group_has_one() -> None:
    known = callers("ann=k1", "bob=k2", "cy@team=k3", "di@team=k4", "ed@other=k5", api_key="k0")
    salts = [salt(known, f"k{number}") for number in range(6)]
    assert salts[3] == salts[4]
    assert len(set(salts)) == 5


def test_a_salt_stays_over_restarts_and_is_nothing_that_another_server_knows() -> None:
    assert salt(callers("ann=k"), "k") == salt(callers("ann=k"), "k")
    assert salt(callers("ann=k"), "k") != salt(callers("ann=k", secret=b"t" * 32), "k")
    assert "k1" not in salt(callers("ann=k1"), "k1")


def test_a_group_is_no_key_and_a_key_no_group() -> None:
    """Whoever is given the key `team` does not share what the group `team` has cached."""
    known = callers("ann=team", "bob@team=k")
    assert salt(known, "team") != salt(known, "k")


def test_an_unknown_key_is_nobody() -> None:
    known = callers("ann=k1")
    assert known.named([b"k2", b"", b"ann", b"ann=k1"]) is None
    assert known.anyone is None


def test_without_keys_all_are_one() -> None:
    known = callers()
    assert known.anyone is not None
    assert known.anyone.salt


@pytest.mark.parametrize("entry", ["k", "=k", "ann=", "ann@=k", " @team=k", "@=", ""])
def test_an_entry_that_is_not_spelt_so_is_refused_without_being_shown(entry: str) -> None:
    with pytest.raises(SettingsError, match="entry 2 is not spelt NAME=KEY") as refused:
        entries(ServerSettings(api_keys=("ok=fine", entry)))
    assert not entry or f"'{entry}'" not in str(refused.value)


@pytest.mark.parametrize("keys", [("a=k", "b=k"), ("a=k", "a=l")])
def test_two_keys_are_two(keys: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="each needs its own"):
        entries(ServerSettings(api_keys=keys))


def test_a_key_may_hold_any_sign() -> None:
    assert entries(ServerSettings(api_keys=("a@b=x=@=",)))[0].key == "x=@="


def test_a_key_is_found_by_its_id_as_long_as_it_is_known() -> None:
    known = callers("ann=k1", "bob=k2")
    found = known.with_id("settings:bob")
    assert found is not None
    assert found.name == "bob"
    assert known.with_id("settings:cy") is None
    assert known.with_id(None) is None
    keyless = callers()
    assert keyless.with_id(None) is keyless.anyone
