"""A request counts what its client sees, in the ledger first; one that never had its place counts
nothing, and a batch makes way for whoever waits."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import batching
import pytest
from batching import CALLERS, spoken, until
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.server import answering
from senryu.server.answering import Batched, Ready, answer_item, frames, make_ready, whole
from senryu.server.app import build_app
from senryu.server.conversation.messages import Sampling, Usage
from senryu.server.engine.base import EngineError, EngineGone, PromptRefused, TokenEvent
from senryu.server.engine.scripted import POEM, ScriptedEngine
from senryu.server.observing.watch import gave_way
from senryu.server.settings import ServerSettings
from senryu.server.tenancy import batch_worker, visit
from senryu.server.tenancy.account import Ended, Opened
from senryu.server.tenancy.batch_worker import NotKept
from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.ledger import Ledger
from senryu.server.tenancy.limiter import Limiter
from senryu.server.tenancy.limits import Limits
from senryu.server.tenancy.store.opening import Store, open_store
from senryu.server.tenancy.store.tables import ledger as ledger_table
from senryu.server.tenancy.visit import BATCH_PRIORITY, all_written
from senryu.server.turn.prompt import Prompt
from senryu.server.wire.errors import BudgetSpent, NotReady, RateLimited, TimedOut

ANN = Caller(
    name="ann",
    salt="a",
    key_id="key_ann",
    limits=Limits(input_tokens_per_minute=900, output_tokens_per_minute=900, concurrent_requests=2),
)
# A token that is counted for her, or held, leaves nothing of her day.
BEA = Caller(name="bea", salt="b", role="batch", key_id="key_bea", limits=Limits(tokens_per_day=1))
NOTHING = (0, 0, 0, 0, 0, 0)


begun: list[asyncio.Task[Any]] = []


def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    begun.append(asyncio.create_task(work))
    return begun[-1]


class Waiting(ScriptedEngine):
    """Says `before` tokens and then waits, to those whom it does not answer at once."""

    def __init__(self, script: str = POEM, *, before: int = 1, **changed: Any) -> None:
        super().__init__(script)
        self.asked: list[str] = []
        self.released = asyncio.Event()
        self._before = before
        self._waits: Callable[[Prompt], bool] = changed.get("waits", lambda prompt: True)
        self._error: Exception | None = changed.get("error")

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str
    ) -> AsyncGenerator[TokenEvent, None]:
        self.asked.append(request_id)
        said = 0
        async with aclosing(super().generate(prompt, sampling, request_id)) as events:
            async for event in events:
                if said == self._before and self._waits(prompt):
                    if self._error is not None:
                        raise self._error
                    await self.released.wait()
                said += 1
                yield event


class Book:
    """A ledger that can be held back, and that fails as often as it is told to."""

    def __init__(self, store: Store) -> None:
        self.ledger = Ledger(store, "server_1")
        self.open = asyncio.Event()
        self.open.set()
        self.reached = asyncio.Event()
        self.failures = {"opened": 0, "ended": 0}

    async def opened(self, told: Opened) -> None:
        self._may_fail("opened")
        await self.ledger.opened(told)

    async def ended(self, told: Ended, also: Any = None) -> bool:
        self.reached.set()
        await self.open.wait()
        self._may_fail("ended")
        return await self.ledger.ended(told, also)

    def _may_fail(self, what: str) -> None:
        if self.failures[what]:
            self.failures[what] -= 1
            raise OperationalError("INSERT", {}, Exception("the disk is full"))


class Server:
    """The API without HTTP, with a ledger, and with limits in whose minute no time goes by."""

    def __init__(self, ledger: Any, engine: ScriptedEngine, *, seats: int = 9) -> None:
        engine.card = replace(engine.card, seats=seats)
        settings = ServerSettings(engine="scripted", signing_key="the tests' own")
        self.state = build_app(settings, engine).state
        self.limiter, self.desk = Limiter(clock=lambda: 1_800_000_000.0), self.state.rules.desk
        changed = {"ledger": ledger, "limiter": self.limiter, "observers": (self,)}
        self.state.rules = replace(self.state.rules, **changed)
        self.told: list[Ended] = []

    def opened(self, told: Opened) -> None: ...

    def ended(self, told: Ended) -> None:
        self.told.append(told)

    async def ready(self, caller: Caller = ANN, **changed: Any) -> Ready:
        return await make_ready(self.state, asked(**changed), spoken(caller))

    async def whole(self, **changed: Any) -> dict[str, Any]:
        return await whole(self.state, await self.ready(**changed))

    async def stream(self, seen: list[Any], **changed: Any) -> None:
        async with aclosing(frames(self.state, await self.ready(**changed))) as parts:
            async for part in parts:
                lines = part.decode().split("\n")
                seen.extend(json.loads(line[6:]) for line in lines if line[:6] == "data: ")

    async def item(self, keep: Any) -> None:
        await answer_item(self.state, asked(), spoken(BEA), Batched("msgbatch_1", None, keep))

    def ask(self, how: str, seen: Any = None) -> asyncio.Task[Any]:
        asking = self.stream([] if seen is None else seen) if how == "stream" else self.whole()
        return begin(asking)


def asked(**changed: Any) -> bytes:
    said = [{"role": "user", "content": "Write a senryu."}]
    return json.dumps(
        {"model": "scripted", "max_tokens": 100, "messages": said, **changed}
    ).encode()


async def rows(store: Store) -> Sequence[Any]:
    await all_written()
    async with store.reading() as connection:
        found = await connection.execute(select(ledger_table).order_by(ledger_table.c.id))
        return found.all()


def used(row: Any) -> tuple[int, ...]:
    caches = (row.cache_read_tokens, row.cache_creation_5m_tokens, row.cache_creation_1h_tokens)
    return (row.input_tokens, *caches, row.output_tokens, row.thinking_tokens)


def shown(usage: dict[str, Any]) -> tuple[int, ...]:
    made = usage["cache_creation"]
    return (
        usage["input_tokens"],
        usage["cache_read_input_tokens"],
        made["ephemeral_5m_input_tokens"],
        made["ephemeral_1h_input_tokens"],
        usage["output_tokens"],
        usage["output_tokens_details"]["thinking_tokens"],
    )


@pytest.fixture
async def disk(new_address: Callable[[str], str]) -> AsyncIterator[Store]:
    """A store of one kind, where the kind does not matter."""
    store = await open_store(new_address("sqlite"))
    yield store
    while begun:
        begun.pop().cancel()
    await asyncio.sleep(0)
    await all_written()
    await store.close()


@pytest.fixture
def book(disk: Store) -> Iterator[Book]:
    yield (book := Book(disk))
    book.open.set()  # a test that fails does not hang


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_an_answer_is_counted_as_its_client_sees_it(how: str, store: Store) -> None:
    server = Server(Ledger(store, "server_1"), ScriptedEngine("Hm, let me see.</think>It is so."))
    cached = {"type": "text", "text": "x" * 100, "cache_control": {"type": "ephemeral"}}
    body = {
        "messages": [{"role": "user", "content": [cached]}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 2000,
    }
    seen = []
    for _ in range(2):  # the second finds what the first has written
        if how == "stream":
            told: list[Any] = []
            await server.stream(told, **body)
            seen.append((told[0]["message"]["id"], told[-2]["usage"]))
        else:
            message = await server.whole(**body)
            seen.append((message["id"], message["usage"]))
    found = {row.id: row for row in await rows(store)}
    for name, usage in seen:
        row = found.pop(name)
        assert (row.state, row.stop_reason) == ("done", "end_turn")
        assert used(row) == shown(usage)
        assert row.cost > 0
    assert not found
    first, second = (shown(usage) for _, usage in seen)
    assert first[2] == second[1] > 0, "written, then read"
    assert first[5] > 0, "thought"
    assert [used(told.usage) for told in server.told] == [first, second]
    left = server.limiter.headers(ANN)["anthropic-ratelimit-input-tokens-remaining"]
    assert int(left) == 900 - first[0] - first[2] - second[0] - second[2]


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_the_line_is_written_before_the_end_is_sent(how: str, book: Book) -> None:
    server, seen = Server(book, ScriptedEngine()), []
    book.open.clear()
    asking = server.ask(how, seen)
    await book.reached.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not asking.done()
    assert how == "whole" or seen[-1]["type"] == "content_block_stop"
    assert not server.desk.active, "who waits for the disk takes no place in the engine"
    book.open.set()
    await asking
    assert how == "whole" or seen[-1]["type"] == "message_stop"


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_an_answer_does_not_wait_for_ever_for_a_disk_that_is_full(
    how: str, book: Book, disk: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "LEDGER_SECONDS", 0.02)
    monkeypatch.setattr(visit, "_PAUSES", [0.01] * 10)
    book.failures = {"opened": 3, "ended": 4}
    book.open.clear()
    server = Server(book, ScriptedEngine())
    await server.ask(how)
    assert book.failures["ended"] == 4, "nothing is written, and the answer is out"
    book.open.set()
    (row,) = await rows(disk)
    assert (row.state, row.output_tokens) == ("done", len(POEM.split()))
    assert book.failures == {"opened": 0, "ended": 0}


async def test_a_database_that_is_away_for_a_while_loses_no_line(
    new_address: Callable[[str], str], postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncpg

    monkeypatch.setattr(visit, "LEDGER_SECONDS", 0.02)
    monkeypatch.setattr(visit, "_PAUSES", [0.05] * 200)
    address = await asyncio.to_thread(new_address, "postgres")
    name = address.partition("@/")[2].partition("?")[0]
    store = await open_store(address)
    server = Server(Ledger(store, "server_1"), engine := Waiting())
    asking = server.ask("whole")
    await until(lambda: engine.active)
    operator = await asyncpg.connect(postgres.replace("NAME", "postgres"))
    await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
    await operator.execute(query, name)
    engine.released.set()
    assert (await asking)["stop_reason"] == "end_turn"
    await operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await operator.close()
    (row,) = await rows(store)
    assert (row.state, row.output_tokens) == ("done", len(POEM.split()))
    await store.close()


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_who_leaves_in_the_middle_pays_for_what_the_engine_did(
    how: str, book: Book, disk: Store
) -> None:
    server = Server(book, engine := Waiting(before=3))
    asking = server.ask(how)
    await until(lambda: engine.active)
    for _ in range(20):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert not engine.active
    assert (server.desk.active, server.desk.queued) == (0, 0)
    (row,) = await rows(disk)
    prompt = len((await server.ready()).form.turn.prompt)
    assert (row.state, row.stop_reason) == ("left", None)
    assert used(row) == (prompt, 0, 0, 0, 3, 0)
    headers = server.limiter.headers(ANN)
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == str(900 - prompt)
    assert headers["anthropic-ratelimit-output-tokens-remaining"] == "897"


@pytest.mark.parametrize("how", ["whole", "stream"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EngineError("The engine failed on this request"), "api_error"),
        (PromptRefused("The engine refuses this"), "invalid_request_error"),
        (EngineGone(7), "overloaded_error"),
        (RuntimeError("a bug of ours"), "api_error"),
    ],
)
async def test_a_failure_is_told_of_in_the_words_that_the_client_reads(
    error: Exception, kind: str, how: str, book: Book, disk: Store
) -> None:
    server, seen = Server(book, Waiting(before=2, error=error)), []
    if how == "stream":
        await server.stream(seen)
        assert seen[-1]["error"]["type"] == kind
    else:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            await server.whole()
        assert getattr(raised.value, "type", "api_error") == kind
    with suppress(Exception):
        await server.item(keeping())
    assert [told.error_type for told in server.told] == [kind, kind]
    assert [used(told.usage)[4] for told in server.told] == [2, 0], "a batch counts answers alone"
    lines = sorted((row.state, *used(row)) for row in await rows(disk))
    assert lines == sorted(("failed", *used(told.usage)) for told in server.told)
    server.limiter.check(BEA)
    assert server.desk.active == 0


@pytest.mark.parametrize("how", ["whole", "stream"])
async def test_who_leaves_the_queue_leaves_nothing_but_a_line_that_counts_nothing(
    how: str, book: Book, disk: Store
) -> None:
    server = Server(book, engine := Waiting(), seats=1)
    first = server.ask("whole")
    await until(lambda: engine.active)
    limits = server.limiter.headers(ANN)
    second = server.ask(how)
    await until(lambda: server.desk.queued)
    assert server.limiter.headers(ANN) != limits
    with pytest.raises(RateLimited, match="may have 2 requests running"):
        await server.whole()
    second.cancel()
    await asyncio.wait({second})
    assert (server.desk.active, server.desk.queued, server.desk.queued_tokens) == (1, 0, 0)
    assert server.limiter.headers(ANN) == limits
    server.limiter.check(ANN)
    engine.released.set()
    await first
    assert len(engine.asked) == 1
    gone, done = sorted(await rows(disk), key=lambda row: str(row.state), reverse=True)
    assert (gone.state, done.state) == ("left", "done")
    assert (used(gone), gone.cost, gone.first_token_ms) == (NOTHING, 0, None)


@pytest.mark.parametrize("first", ["leaves", "is late"])
async def test_who_leaves_just_when_the_time_is_up_has_left(
    first: str, book: Book, disk: Store
) -> None:
    server = Server(book, engine := Waiting())
    inside = answering._visit(server.state, await server.ready())

    async def visiting() -> None:
        async with inside:
            prompt = (await server.ready()).form.turn.prompt
            async for _ in inside.generate(prompt, Sampling(max_tokens=9), "msg_1"):
                pass

    asking = begin(visiting())
    await until(lambda: engine.active)
    for _ in range(20):
        await asyncio.sleep(0)
    acts: list[Callable[[], Any]] = [asking.cancel, partial(inside._break_off, TimedOut("late"))]
    for act in acts if first == "leaves" else reversed(acts):
        act()
    await asyncio.wait({asking})
    assert asking.cancelled()
    assert [row.state for row in await rows(disk)] == ["left"]


def keeping(error: Exception | None = None) -> Callable[[bytes], Any]:
    async def work(connection: AsyncConnection) -> None:
        if error is not None:
            raise error

    return lambda message: work


def of_batches(prompt: Prompt) -> bool:
    return prompt.priority == BATCH_PRIORITY


@pytest.mark.parametrize("why", ["the batch is another's", "the ledger took it for lost"])
async def test_a_result_that_is_kept_is_counted_and_one_that_is_not_is_not(
    why: str, book: Book, disk: Store
) -> None:
    server, other = Server(book, engine := Waiting()), NotKept("It is another's by now")
    asking = begin(server.item(keeping(other if "another" in why else None)))
    await until(lambda: engine.active)
    if "ledger" in why:
        await book.ledger.lose([])
    engine.released.set()
    with pytest.raises((NotKept, NotReady)):
        await asking
    (row,), (told,) = await rows(disk), server.told
    assert (row.state, row.output_tokens) == ("lost" if "ledger" in why else "failed", 0)
    assert (told.state, used(told.usage), told.cost) == ("failed", NOTHING, 0)
    server.limiter.check(BEA)
    await server.item(keeping())
    (done,) = [each for each in await rows(disk) if each.state == "done"]
    assert (done.tier, done.batch_id) == ("batch", "msgbatch_1")
    assert (done.output_tokens, server.told[-1].state) == (len(POEM.split()), "done")
    with pytest.raises(BudgetSpent):
        server.limiter.check(BEA)


async def test_a_server_that_stops_while_a_result_is_written_keeps_and_counts_it(
    book: Book, disk: Store
) -> None:
    server = Server(book, ScriptedEngine())
    book.open.clear()
    asking = begin(server.item(keeping()))
    await book.reached.wait()
    asking.cancel()
    await asyncio.wait({asking})
    book.open.set()
    assert [row.state for row in await rows(disk)] == ["done"]
    assert [told.state for told in server.told] == ["done"]


@pytest.mark.parametrize("before", [0, 3])
async def test_a_batch_gives_way_also_while_the_engine_says_nothing(
    before: int, book: Book, disk: Store
) -> None:
    """A long prompt is read for minutes before its first token."""
    server = Server(book, engine := Waiting(before=before, waits=of_batches), seats=1)
    asking = begin(server.item(keeping()))
    await until(lambda: engine.active)
    message = await asyncio.wait_for(server.whole(), 20)
    assert message["stop_reason"] == "end_turn"
    with pytest.raises(NotReady):
        await asking
    batch = next(row for row in await rows(disk) if row.tier == "batch")
    assert (batch.state, used(batch), batch.cost) == ("failed", NOTHING, 0)
    assert gave_way(server.told[0])
    server.limiter.check(BEA)  # nothing is held, nothing was counted


async def test_what_is_complete_is_not_broken_off(book: Book) -> None:
    server = Server(book, ScriptedEngine("One two"), seats=1)
    ready, batched = await server.ready(caller=BEA), Batched("msgbatch_1", None, keeping())
    async with answering._visit(server.state, ready, batched) as inside:
        prompt = ready.form.turn.prompt
        async with aclosing(inside.generate(prompt, Sampling(max_tokens=9), "m")) as events:
            assert (await anext(events)).finish is None
            assert (await anext(events)).finish is not None
            waits = server.desk.place("ann", 1)
            assert await anext(events, None) is None
        assert await inside.kept(Usage(input_tokens=1, output_tokens=2), "end_turn", keeping()(b""))
    await asyncio.wait_for(waits.seat(), 20)


async def test_in_the_end_each_request_of_a_batch_has_one_result(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it has given way; nobody who waits waits for its end."""
    monkeypatch.setattr(batch_worker, "_LOOK", 0.02)
    monkeypatch.setattr(batch_worker, "_seconds", lambda told, otherwise: 0.01)
    server = Server(Ledger(store, "server_1"), engine := Waiting(waits=of_batches), seats=2)
    answer: Any = partial(answer_item, server.state)
    worker = batching.worker_of(store, answer, clock := batching.Clock(), callers=dict(CALLERS))
    worker.start()
    batches, names = batching.batches_of(store, clock), [f"n{number}" for number in range(5)]
    requests = [{"custom_id": name, "params": json.loads(asked())} for name in names]
    batch = await batches.create(batching.texts(requests), spoken())
    for _ in range(3):
        await until(lambda: server.desk.active_batch == 1 and len(engine.active) == 1)
        async with asyncio.timeout(20):
            await asyncio.gather(server.whole(), server.whole(caller=CALLERS["key_bob"]))
    assert sum(gave_way(told) for told in server.told) == 3
    engine.released.set()
    batch = await batching.ended(batches, batch)
    assert batching.counts(batch) == (5, 0, 0, 0)
    assert sorted(await batching.results(batches, batch)) == names
    await worker.close()
    lines = [row for row in await rows(store) if row.tier == "batch"]
    assert sorted(row.state for row in lines) == ["done"] * 5 + ["failed"] * 3
    assert all(used(row) == NOTHING for row in lines if row.state == "failed")
