"""Stored keys: what is kept of them, and that running servers follow every change."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from senryu.server.settings import ServerSettings
from senryu.server.tenancy import keys
from senryu.server.tenancy.callers import Caller, Callers
from senryu.server.tenancy.directory import Directory
from senryu.server.tenancy.keys import KeyMistake
from senryu.server.tenancy.limits import NO_LIMITS, Limits
from senryu.server.tenancy.store.opening import Store, open_store
from senryu.server.tenancy.store.tables import metadata

DAY = 86_400_000


class Clock:
    """Ours: milliseconds, as the keys have them."""

    now = 1_000 * DAY

    def __call__(self) -> float:
        return self.now / 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


def callers(clock: Clock, **changed: object) -> Callers:
    return Callers(ServerSettings(**changed), b"s" * 32, clock)  # type: ignore[arg-type]


@pytest.fixture
def known(clock: Clock) -> Callers:
    return callers(clock)


async def made(store: Store, name: str, **changed: object) -> str:
    wanted = {"role": "user", "workspace": None, "now": Clock.now} | changed
    return (await keys.create(store, name, **wanted))[1]  # type: ignore[arg-type]


def caller(known: Callers, secret: str) -> Caller | None:
    return known.named([secret.encode()])


async def all_that_is_kept(store: Store) -> str:
    async with store.reading() as connection:
        tables = [
            (await connection.execute(select(table))).all() for table in metadata.sorted_tables
        ]
    return repr(tables)


# --- what is kept --------------------------------------------------------------------------------


async def test_a_key_has_256_random_bits_and_nothing_that_opens_is_kept(store: Store) -> None:
    one, other = await made(store, "ann"), await made(store, "bob")
    assert re.fullmatch(r"sk-senryu-[1-9A-HJ-NP-Za-km-z]{44}", one)
    assert one != other
    assert one not in await all_that_is_kept(store)
    assert one[10:30] not in await all_that_is_kept(store)
    found, _ = await keys.all_keys(store)
    assert [(key.name, key.hint) for key in found] == [("ann", one[-4:]), ("bob", other[-4:])]


async def test_two_keys_have_two_names_and_a_revoked_one_keeps_its_own(store: Store) -> None:
    await made(store, "ann")
    with pytest.raises(KeyMistake, match="called ann exists"):
        await made(store, "ann")
    await keys.revoke(store, "ann", now=Clock.now)
    with pytest.raises(KeyMistake, match="ann was revoked, and the reports still name it"):
        await made(store, "ann")


@pytest.mark.parametrize("name", ["", " ann", "a b", "a\nb", "a=b", "-x", "x" * 65, "\x1b[31m"])
async def test_a_name_that_would_confuse_a_log_or_a_table_is_refused(
    store: Store, name: str
) -> None:
    with pytest.raises(KeyMistake, match="cannot be the name of a key"):
        await made(store, name)
    with pytest.raises(KeyMistake, match="cannot be the name of a workspace"):
        await made(store, "ann", workspace=name)


async def test_a_key_that_is_refused_makes_no_workspace(store: Store) -> None:
    await made(store, "ann")
    with pytest.raises(KeyMistake):
        await made(store, "ann", workspace="team")
    assert (await keys.all_keys(store))[1] == []


async def test_what_is_not_there_cannot_be_changed(store: Store) -> None:
    for change in (keys.disable(store, "eve"), keys.revoke(store, "eve", now=1)):
        with pytest.raises(KeyMistake, match="no key called eve"):
            await change
    with pytest.raises(KeyMistake, match="no workspace eve"):
        await keys.limit_workspace(store, "eve", {"usd_per_day": 1.0})


async def test_a_revoked_key_never_comes_back(store: Store) -> None:
    await made(store, "ann")
    await keys.revoke(store, "ann", now=Clock.now)
    for change in (
        keys.enable(store, "ann"),
        keys.rotate(store, "ann", now=Clock.now, keep_until=None),
        keys.limit_key(store, "ann", {"usd_per_day": 1.0}),
    ):
        with pytest.raises(KeyMistake, match="revoked, which is for ever"):
            await change


async def test_a_limit_is_set_lifted_and_leaves_the_others(store: Store) -> None:
    await made(store, "ann", limits=Limits(requests_per_minute=5, usd_per_day=2.5))
    key = await keys.limit_key(store, "ann", {"usd_per_day": None, "tokens_per_day": 7})
    assert key.limits == Limits(requests_per_minute=5, tokens_per_day=7)
    assert (await keys.all_keys(store))[0] == [key]


async def test_many_who_change_keys_at_once_all_succeed(address: str) -> None:
    """Each on a connection of its own, as several `senryu keys` are."""
    stores = [await open_store(address) for _ in range(4)]
    await asyncio.gather(
        *(made(store, f"k{n}-{m}", workspace="w") for n, store in enumerate(stores) for m in (1, 2))
    )
    found, workspaces = await keys.all_keys(stores[0])
    assert len(found) == 8
    assert [workspace.name for workspace in workspaces] == ["w"]
    for store in stores:
        await store.close()


async def test_two_who_take_one_name_at_once_are_one(address: str) -> None:
    stores = [await open_store(address) for _ in range(3)]
    told = await asyncio.gather(*(made(store, "ann") for store in stores), return_exceptions=True)
    assert sorted(type(each).__name__ for each in told) == ["KeyMistake", "KeyMistake", "str"]
    for store in stores:
        await store.close()


# --- what a running server knows ------------------------------------------------------------------


async def test_until_there_is_a_key_everybody_is_served_and_then_nobody_without(
    store: Store, known: Callers
) -> None:
    directory = Directory(store, known)
    await directory.read()
    assert known.anyone is not None
    assert not await keys.has_keys(store)
    secret = await made(store, "ann")
    await directory.read()
    assert known.anyone is None
    assert await keys.has_keys(store)
    assert caller(known, secret) is not None
    assert caller(known, secret[:-1]) is None


async def test_when_the_last_key_goes_the_door_does_not_open(store: Store, known: Callers) -> None:
    directory = Directory(store, known)
    secret = await made(store, "ann")
    await keys.revoke(store, "ann", now=Clock.now)
    await directory.read()
    assert known.anyone is None
    assert caller(known, secret) is None
    assert await keys.has_keys(store)


async def test_a_caller_is_what_its_key_says(store: Store, known: Callers) -> None:
    limits = Limits(requests_per_minute=3)
    secret = await made(store, "ann", role="batch", workspace="team", limits=limits)
    await keys.limit_workspace(store, "team", {"usd_per_month": 9.5})
    await Directory(store, known).read()
    found, (workspace,) = await keys.all_keys(store)
    ann = caller(known, secret)
    assert ann is not None
    assert (ann.name, ann.role, ann.key_id) == ("ann", "batch", found[0].id)
    assert ann.workspace_id == workspace.id
    assert ann.limits == limits
    assert ann.workspace_limits == Limits(usd_per_month=9.5)


async def test_a_key_without_limits_of_its_own_has_those_of_the_settings(
    store: Store, clock: Clock
) -> None:
    known = callers(clock, key_limits=("requests_per_minute=7",))
    bare = await made(store, "bare")
    own = await made(store, "own", limits=Limits(usd_per_day=1.0))
    await Directory(store, known).read()
    ann, bob = caller(known, bare), caller(known, own)
    assert ann is not None
    assert bob is not None
    assert ann.limits == Limits(requests_per_minute=7)
    assert bob.limits == Limits(usd_per_day=1.0)
    assert ann.workspace_limits == NO_LIMITS


async def test_keys_of_a_workspace_share_what_is_cached_and_others_do_not(
    store: Store, known: Callers
) -> None:
    secrets = [
        await made(store, name, workspace=workspace)
        for name, workspace in (("a", "w"), ("b", "w"), ("c", "v"), ("d", None), ("e", None))
    ]
    await Directory(store, known).read()
    found = [caller(known, secret) for secret in secrets]
    salts = [each.salt for each in found if each is not None]
    assert salts[0] == salts[1]
    assert len(set(salts)) == 4
    assert known.salts == set(salts)


async def test_a_key_ends_the_moment_it_expires_without_the_store(
    store: Store, known: Callers, clock: Clock
) -> None:
    secret = await made(store, "ann", expires_at=clock.now + DAY)
    await Directory(store, known).read()
    clock.now += DAY - 1
    assert caller(known, secret) is not None
    clock.now += 1
    assert caller(known, secret) is None
    assert known.anyone is None


async def test_disabled_it_is_refused_and_enabled_it_is_served_as_before(
    store: Store, known: Callers
) -> None:
    directory = Directory(store, known)
    secret = await made(store, "ann")
    await directory.read()
    before = caller(known, secret)
    await keys.disable(store, "ann")
    await directory.read()
    assert caller(known, secret) is None
    await keys.enable(store, "ann")
    await directory.read()
    assert caller(known, secret) == before


async def test_rotated_the_old_one_ends_and_the_new_one_is_the_same_caller(
    store: Store, known: Callers, clock: Clock
) -> None:
    directory = Directory(store, known)
    old = await made(store, "ann")
    await directory.read()
    before = caller(known, old)
    _, new = await keys.rotate(store, "ann", now=clock.now, keep_until=None)
    await directory.read()
    assert caller(known, old) is None
    assert caller(known, new) == before  # with its salt: what is cached stays its own


async def test_rotated_with_time_both_are_good_until_it_is_over(
    store: Store, known: Callers, clock: Clock
) -> None:
    old = await made(store, "ann")
    _, new = await keys.rotate(store, "ann", now=clock.now, keep_until=clock.now + DAY)
    await Directory(store, known).read()
    assert caller(known, old) is not None
    assert caller(known, new) is not None
    clock.now += DAY
    assert caller(known, old) is None
    assert caller(known, new) is not None


async def test_an_old_one_never_outlives_its_key(
    store: Store, known: Callers, clock: Clock
) -> None:
    directory = Directory(store, known)
    old = await made(store, "ann", expires_at=clock.now + DAY)
    await keys.rotate(store, "ann", now=clock.now, keep_until=clock.now + 9 * DAY)
    await directory.read()
    clock.now += DAY
    assert caller(known, old) is None
    clock.now -= DAY
    await keys.revoke(store, "ann", now=clock.now)
    await directory.read()
    assert caller(known, old) is None


async def test_an_expired_key_is_rotated_only_with_new_time(store: Store, known: Callers) -> None:
    await made(store, "ann", expires_at=Clock.now)
    with pytest.raises(KeyMistake, match="ann has expired"):
        await keys.rotate(store, "ann", now=Clock.now, keep_until=None)
    _, new = await keys.rotate(
        store, "ann", now=Clock.now, keep_until=None, expires_at=Clock.now + DAY
    )
    await Directory(store, known).read()
    assert caller(known, new) is not None


async def test_keys_of_the_settings_are_there_beside_the_stored_ones(
    store: Store, clock: Clock
) -> None:
    known = callers(clock, api_key="operator", api_keys=("bob=b",))
    secret = await made(store, "ann")
    await Directory(store, known).read()
    names = [found.name for key in ("operator", "b", secret) if (found := caller(known, key))]
    assert names == ["api_key", "bob", "ann"]


async def test_nothing_is_read_where_nothing_has_changed(
    store: Store, known: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[object] = []
    monkeypatch.setattr(known, "learn", lambda stored, keyless: learned.append(stored))
    directory = Directory(store, known)
    await made(store, "ann")
    for _ in range(3):
        await directory.read()
    assert len(learned) == 1
    await keys.disable(store, "ann")
    await directory.read()
    assert len(learned) == 2


# --- following ----------------------------------------------------------------------------------


@asynccontextmanager
async def following(directory: Directory) -> AsyncIterator[None]:
    task = asyncio.create_task(directory.follow(every=0.01))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled(), "it ended by itself"


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  another store changes it
            await asyncio.sleep(0.01)


async def test_a_server_follows_what_another_process_changes(
    address: str, store: Store, known: Callers
) -> None:
    elsewhere = await open_store(address)
    async with following(Directory(store, known)):
        secret = await made(elsewhere, "ann")
        await until(lambda: caller(known, secret))
        await keys.revoke(elsewhere, "ann", now=Clock.now)
        await until(lambda: caller(known, secret) is None)
    await elsewhere.close()


class Broken:
    """A store whose database is away, for a while."""

    def __init__(self, store: Store) -> None:
        self.store, self.away = store, False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[object]:
        if self.away:
            raise OperationalError("SELECT 1", {}, OSError("its address, and more"))
        async with self.store.reading() as connection:
            yield connection


async def test_while_the_database_is_away_those_known_stay_and_it_is_said_once(
    store: Store, known: Callers, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(store)
    directory = Directory(broken, known)  # type: ignore[arg-type]
    secret = await made(store, "ann")
    await directory.read()

    def said(word: str) -> list[str]:
        return [line for line in caplog.messages if word in line]

    with caplog.at_level(logging.WARNING):
        async with following(directory):
            broken.away = True
            await until(lambda: said("cannot be read"))
            await asyncio.sleep(0.1)
            assert caller(known, secret) is not None
            broken.away = False
            await until(lambda: said("again"))
            await keys.disable(store, "ann")
            await until(lambda: caller(known, secret) is None)
    assert len(caplog.messages) == 2
    assert not said("and more")
