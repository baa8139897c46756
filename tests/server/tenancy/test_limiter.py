"""Nobody passes a limit by more than one request, whatever comes between, and all are told so."""

import asyncio
import math
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.server.tenancy.callers import Caller
from senryu.server.tenancy.limiter import Hold, Limiter, Past, Used
from senryu.server.tenancy.limits import NO_LIMITS, Limits
from senryu.server.wire.errors import BudgetSpent, RateLimited

NOON = 1_790_000_000 // 86_400 * 86_400 + 43_200.0
DOLLAR = 10**9


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


def caller(
    key: str = "ann",
    workspace: str | None = None,
    shared: Limits = NO_LIMITS,
    **limits: float,
) -> Caller:
    return Caller(
        name=key,
        salt="",
        key_id=f"settings:{key}",
        workspace_id=workspace,
        limits=Limits(**limits),  # type: ignore[arg-type]
        workspace_limits=shared,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def hold(limiter: Limiter, who: Caller, read: int = 10, written: int = 10, cost: int = 0) -> Hold:
    return limiter.hold(who, input_tokens=read, output_tokens=written, cost=cost)


def settle(limiter: Limiter, held: Hold, read: int = 10, written: int = 10, cost: int = 0) -> None:
    limiter.settle(
        held, input_tokens=read, output_tokens=written, total_tokens=read + written, cost=cost
    )


def refusal(limiter: Limiter, who: Caller) -> RateLimited:
    """It is the same whether it is asked for before the prompt is made or after."""
    with pytest.raises(RateLimited) as early:
        limiter.check(who)
    with pytest.raises(RateLimited) as late:
        hold(limiter, who)
    assert (early.value.message, early.value.status) == (late.value.message, 429)
    return late.value


def test_requests_per_minute_are_let_through_and_come_back_one_by_one(
    limiter: Limiter, clock: Clock
) -> None:
    ann = caller(requests_per_minute=6)
    for _ in range(6):
        settle(limiter, hold(limiter, ann))
    assert refusal(limiter, ann).retry_after == 10
    clock.now += 9.5
    assert refusal(limiter, ann).retry_after == 1
    clock.now += 0.5
    hold(limiter, ann)
    assert refusal(limiter, ann).retry_after == 10
    clock.now += 600
    for _ in range(6):
        hold(limiter, ann)
    refusal(limiter, ann)


def test_input_counts_when_it_is_admitted_and_what_was_cached_is_given_back(
    limiter: Limiter, clock: Clock
) -> None:
    ann = caller(input_tokens_per_minute=600)
    first = hold(limiter, ann, read=900)
    assert refusal(limiter, ann).retry_after == 31
    settle(limiter, first, read=100)
    second = hold(limiter, ann, read=500)
    assert refusal(limiter, ann).retry_after == 1
    clock.now += 20
    settle(limiter, second, read=0)  # 200 of its 500 have come back by themselves
    settle(limiter, hold(limiter, ann, read=499), read=499)
    settle(limiter, hold(limiter, ann, read=1), read=1)
    assert refusal(limiter, ann).retry_after == 1


def test_what_comes_back_late_forgives_nothing_that_others_used(
    limiter: Limiter, clock: Clock
) -> None:
    ann = caller(input_tokens_per_minute=600)
    long = hold(limiter, ann, read=600)
    clock.now += 60
    settle(limiter, hold(limiter, ann, read=600), read=600)
    settle(limiter, long, read=0)
    assert refusal(limiter, ann).retry_after == 1
    assert limiter.headers(ann)["anthropic-ratelimit-input-tokens-remaining"] == "0"


def test_output_that_may_come_is_held_and_only_what_came_is_counted(
    limiter: Limiter, clock: Clock
) -> None:
    ann = caller(output_tokens_per_minute=60)
    held = hold(limiter, ann, written=1_000)
    refused = refusal(limiter, ann)
    assert refused.retry_after == 1
    assert "when they have ended" in refused.message
    assert limiter.headers(ann)["anthropic-ratelimit-output-tokens-remaining"] == "60"
    settle(limiter, held, written=70)
    assert refusal(limiter, ann).retry_after == 11
    clock.now += 11
    hold(limiter, ann)


def test_as_many_run_at_one_time_as_may(limiter: Limiter) -> None:
    ann = caller(concurrent_requests=2)
    first, _ = hold(limiter, ann), hold(limiter, ann)
    assert "2 requests running at one time" in refusal(limiter, ann).message
    settle(limiter, first)
    hold(limiter, ann)
    refusal(limiter, ann)


def test_to_settle_twice_frees_one_place(limiter: Limiter) -> None:
    ann = caller(concurrent_requests=2, tokens_per_day=1_000)
    first, _ = hold(limiter, ann), hold(limiter, ann)
    settle(limiter, first)
    settle(limiter, first, written=5_000)
    hold(limiter, ann)
    assert "2 requests running" in refusal(limiter, ann).message


@pytest.mark.parametrize(
    "limits",
    [
        {"tokens_per_day": 100},
        {"tokens_per_month": 100},
        {"usd_per_day": 0.5},
        {"usd_per_month": 0.5},
    ],
)
def test_a_spent_budget_is_said_so_that_nobody_asks_again_at_once(
    limiter: Limiter, limits: dict[str, float]
) -> None:
    ann = caller(**limits)
    settle(limiter, hold(limiter, ann), read=60, written=40, cost=DOLLAR // 2)
    refused = refusal(limiter, ann)
    assert isinstance(refused, BudgetSpent)
    assert refused.details == {"error_code": "enforced_spend_limit_reached"}
    assert refused.headers() == {"x-should-retry": "false"}
    assert "has spent its budget of" in refused.message


def test_a_budget_that_is_only_held_is_not_spent(limiter: Limiter) -> None:
    ann = caller(usd_per_day=1)
    held = hold(limiter, ann, cost=DOLLAR)
    refused = refusal(limiter, ann)
    assert not isinstance(refused, BudgetSpent)
    assert refused.retry_after == 1
    settle(limiter, held, cost=DOLLAR - 1)
    hold(limiter, ann, cost=10 * DOLLAR)


def test_a_new_day_has_its_own_budget_and_pays_for_nothing_that_began_before(
    limiter: Limiter, clock: Clock
) -> None:
    ann = caller(tokens_per_day=100, tokens_per_month=1_000)
    clock.now = NOON + 43_199  # the last second of 21 September
    held = hold(limiter, ann, written=90)
    refusal(limiter, ann)
    clock.now += 1
    settle(limiter, held, read=0, written=100)
    settle(limiter, hold(limiter, ann), read=0, written=99)
    hold(limiter, ann)
    clock.now += 86_400
    settle(limiter, hold(limiter, ann), read=0, written=801)
    assert "this month" in refusal(limiter, ann).message
    clock.now += 31 * 86_400
    hold(limiter, ann)


def test_keys_of_a_workspace_share_its_limits_and_keep_their_own(limiter: Limiter) -> None:
    shared = Limits(requests_per_minute=3)
    ann, bob = (caller(name, "wrkspc_1", shared, requests_per_minute=2) for name in ("ann", "bob"))
    hold(limiter, ann)
    hold(limiter, ann)
    assert "The key ann" in refusal(limiter, ann).message
    hold(limiter, bob)
    assert "The workspace wrkspc_1" in refusal(limiter, bob).message
    hold(limiter, caller("cyd", "wrkspc_2", shared))


def test_what_one_pool_refuses_the_other_has_not_counted(limiter: Limiter) -> None:
    full = caller("ann", "wrkspc_1", Limits(concurrent_requests=1), concurrent_requests=9)
    held = hold(limiter, full)
    for _ in range(20):
        refusal(limiter, full)
    settle(limiter, held)
    unlimited = caller("ann", None, concurrent_requests=9)
    for _ in range(9):
        hold(limiter, unlimited)
    refusal(limiter, unlimited)


def test_batches_are_held_to_budgets_and_to_no_pace(limiter: Limiter) -> None:
    one_of_each = {"requests_per_minute": 1, "concurrent_requests": 1, "tokens_per_day": 1_000}
    ann = caller(**one_of_each, input_tokens_per_minute=100, output_tokens_per_minute=100)
    held = [
        limiter.hold(ann, input_tokens=100, output_tokens=100, cost=0, paced=False)
        for _ in range(5)
    ]
    with pytest.raises(RateLimited, match="what is left of its budget of 1,000 tokens"):
        limiter.hold(ann, input_tokens=1, output_tokens=1, cost=0, paced=False)
    for each in held[:4]:
        settle(limiter, each, read=100, written=100)
    settle(limiter, held[4], read=0, written=0)
    assert limiter.headers(ann)["anthropic-ratelimit-requests-remaining"] == "1"
    assert limiter.headers(ann)["anthropic-ratelimit-input-tokens-remaining"] == "100"
    settle(limiter, hold(limiter, ann, read=100), read=100, written=100)
    with pytest.raises(BudgetSpent):
        limiter.hold(ann, input_tokens=1, output_tokens=1, cost=0, paced=False)


def test_a_limit_of_nothing_lets_nothing_through(limiter: Limiter, clock: Clock) -> None:
    for name in ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute"):
        refused = refusal(limiter, caller(**{name: 0}))
        assert refused.retry_after is None
        assert "have the limit raised" in refused.message
        assert limiter.headers(caller(**{name: 0}))
    assert refusal(limiter, caller(concurrent_requests=0)).retry_after == 1
    assert isinstance(refusal(limiter, caller(usd_per_month=0)), BudgetSpent)


def test_without_limits_there_is_no_header_and_no_refusal(limiter: Limiter) -> None:
    for _ in range(1_000):
        settle(limiter, hold(limiter, caller(), 10**6, 10**6, 10**12), cost=10**12)
    assert limiter.headers(caller()) == {}
    assert limiter.headers(caller(usd_per_day=1)) == {}


def test_a_budget_given_later_counts_what_was_used_before(limiter: Limiter) -> None:
    settle(limiter, hold(limiter, caller()), read=60, written=40)
    assert isinstance(refusal(limiter, caller(tokens_per_day=100)), BudgetSpent)


def test_headers_tell_the_tightest_of_key_and_workspace(limiter: Limiter, clock: Clock) -> None:
    clock.now = 1_790_000_000.25
    ann = caller(
        "ann",
        "wrkspc_1",
        Limits(requests_per_minute=10, output_tokens_per_minute=60_000),
        requests_per_minute=60,
        input_tokens_per_minute=50_000,
    )
    settle(limiter, hold(limiter, ann, read=4_400), read=4_400, written=20_600)
    assert limiter.headers(ann) == {
        "anthropic-ratelimit-requests-limit": "10",
        "anthropic-ratelimit-requests-remaining": "9",
        "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:27Z",
        "anthropic-ratelimit-input-tokens-limit": "50000",
        "anthropic-ratelimit-input-tokens-remaining": "46000",
        "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:13:26Z",
        "anthropic-ratelimit-output-tokens-limit": "60000",
        "anthropic-ratelimit-output-tokens-remaining": "39000",
        "anthropic-ratelimit-output-tokens-reset": "2026-09-21T14:13:41Z",
        "anthropic-ratelimit-tokens-limit": "60000",
        "anthropic-ratelimit-tokens-remaining": "39000",
        "anthropic-ratelimit-tokens-reset": "2026-09-21T14:13:41Z",
    }


def test_a_restart_forgives_nothing(clock: Clock) -> None:
    def past(**known: object) -> Past:
        sums: dict[str, tuple[Used, ...]] = {"recent": (), "day": (), "month": ()}
        return Past(**sums | known)  # type: ignore[arg-type]

    def used(at: float, requests: int = 1, tokens: int = 0, cost: int = 0) -> Used:
        return Used(
            key_id="settings:ann",
            workspace_id="wrkspc_1",
            at=at,
            requests=requests,
            input_tokens=tokens,
            output_tokens=tokens,
            cost=cost,
        )

    def after(known: Past) -> Limiter:
        limiter = Limiter(clock)
        limiter.remember(known, clock.now)
        return limiter

    lately = past(recent=(used(NOON - 30, requests=6), used(NOON - 60, requests=6)))
    assert refusal(after(lately), caller(requests_per_minute=6)).retry_after == 10
    assert refusal(after(lately), caller("bob", "wrkspc_1", Limits(requests_per_minute=6)))
    hold(after(lately), caller("bob", requests_per_minute=6))
    hold(after(lately), caller(requests_per_minute=7))

    # More than a minute ago, and yet too much to have come back since.
    large = past(recent=(used(NOON - 120, tokens=1_000),))
    assert refusal(after(large), caller(input_tokens_per_minute=300)).retry_after == 21
    assert refusal(after(large), caller(output_tokens_per_minute=300)).retry_after == 21

    this_day = past(day=(used(NOON, tokens=50, cost=DOLLAR),))
    for limits in ({"tokens_per_day": 100}, {"usd_per_day": 1}):
        assert isinstance(refusal(after(this_day), caller(**limits)), BudgetSpent)
    hold(after(this_day), caller(tokens_per_month=100, tokens_per_day=101))
    this_month = past(month=(used(NOON, tokens=50),))
    assert isinstance(refusal(after(this_month), caller(tokens_per_month=100)), BudgetSpent)


def test_a_clock_that_is_set_back_gives_nothing_away(limiter: Limiter, clock: Clock) -> None:
    ann = caller(requests_per_minute=1)
    hold(limiter, ann)
    clock.now -= 3_600
    assert refusal(limiter, ann).retry_after == 60
    clock.now += 60
    hold(limiter, ann)


def test_keys_that_are_gone_are_forgotten_and_those_that_run_or_count_are_not(
    limiter: Limiter, clock: Clock
) -> None:
    running = hold(limiter, caller("stays", concurrent_requests=1))
    for number in range(5_000):
        who = caller(f"key{number}", f"wrkspc_{number}", requests_per_minute=1)
        settle(limiter, hold(limiter, who))
        clock.now += 86_400
    assert limiter.known < 2_100
    refusal(limiter, caller("stays", concurrent_requests=1))
    settle(limiter, running)
    hold(limiter, caller("stays", concurrent_requests=1))


async def test_a_thousand_requests_at_once_pass_no_limit_by_more_than_one(clock: Clock) -> None:
    """Each waits a while between its place and its end, as long as chance will have it."""
    limiter, chance = Limiter(clock), random.Random(7)
    limits = Limits(
        requests_per_minute=800,
        input_tokens_per_minute=40_000,
        output_tokens_per_minute=30_000,
        concurrent_requests=100,
        tokens_per_day=60_000,
        usd_per_month=0.5,
    )
    keys = [caller(f"key{n}", "wrkspc_1", limits) for n in range(7)]
    running = most = read = written = cost = 0

    async def ask(who: Caller) -> bool:
        nonlocal running, most, read, written, cost
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        try:
            held = hold(limiter, who, read=300, written=500, cost=DOLLAR // 100)
        except RateLimited:
            return False
        running += 1
        most = max(most, running)
        for _ in range(chance.randrange(50)):
            await asyncio.sleep(0)
        used = chance.randrange(301), chance.randrange(501), chance.randrange(DOLLAR // 100)
        running, read, written, cost = (
            running - 1,
            read + used[0],
            written + used[1],
            cost + used[2],
        )
        settle(limiter, held, *used)
        return True

    admitted = 0
    for _ in range(4):
        asked = (ask(chance.choice(keys)) for _ in range(1_000))
        admitted += sum(await asyncio.gather(*asked))
    assert 60 < admitted <= 800
    assert most <= 100
    assert read < 40_000 + 300
    assert written < 30_000 + 500
    assert read + written < 60_000 + 800
    assert cost < DOLLAR // 2 + DOLLAR // 100


@dataclass
class Seen:
    """What one key or workspace was let do, and when."""

    limits: Limits
    admitted: list[float] = field(default_factory=list)
    read: list[tuple[float, int]] = field(default_factory=list)
    written: list[tuple[float, int]] = field(default_factory=list)
    tokens: int = 0
    by_day: dict[int, list[int]] = field(default_factory=dict)
    running: int = 0

    def ended(self, began: float, now: float, read: int, written: int, cost: int) -> None:
        self.running -= 1
        self.read.append((began, read))
        self.written.append((now, written))
        self.tokens += read + written
        today = self.by_day.setdefault(int(began // 86_400), [0, 0])
        today[0] += read + written
        today[1] += cost


READ, WRITTEN, COST = 400, 700, 30
# Each alone or a few together: a tight one hides that another does not hold.
LIMITS = st.lists(
    st.sampled_from(
        [
            ("requests_per_minute", 3),
            ("input_tokens_per_minute", 500),
            ("output_tokens_per_minute", 300),
            ("concurrent_requests", 2),
            ("tokens_per_day", 1_500),
            ("tokens_per_month", 2_500),
            ("usd_per_day", 50e-9),
        ]
    ),
    unique=True,
    max_size=3,
).map(lambda chosen: Limits(**dict(chosen)))  # type: ignore[arg-type]


@given(shared=LIMITS, own=LIMITS, seed=st.integers(0, 2**32))
def test_in_whatever_order_requests_begin_and_end_nobody_passes_a_limit_by_more_than_one(
    shared: Limits, own: Limits, seed: int
) -> None:
    """Two keys of one workspace. In no stretch of time did anybody use more than its limit, what
    refilled in that stretch, and one request."""
    chance, clock = random.Random(seed), Clock(NOON + 43_200 - 90)  # midnight is near
    limiter = Limiter(clock)
    workspace, keys = Seen(shared), {"ann": Seen(own), "bob": Seen(own)}
    running: list[tuple[str, Hold, float, tuple[int, int, int]]] = []
    for _ in range(150):
        match chance.choice(("ask", "ask", "end", "end", "wait")):
            case "ask":
                name = chance.choice(("ann", "bob"))
                who = replace(caller(name, "wrkspc_1", shared), limits=own)
                need = tuple(chance.choice((0, most, most)) for most in (READ, WRITTEN, COST))
                try:
                    limiter.check(who)
                except RateLimited:
                    with pytest.raises(RateLimited):
                        hold(limiter, who, *need)
                    continue
                running.append((name, hold(limiter, who, *need), clock.now, need))
                for seen in (workspace, keys[name]):
                    seen.admitted.append(clock.now)
                    seen.running += 1
                    assert seen.running <= _or_any(seen.limits.concurrent_requests)
            case "end" if running:
                name, held, began, need = running.pop(chance.randrange(len(running)))
                used = tuple(chance.choice((0, of, of)) for of in need)
                for _ in range(chance.choice((1, 2))):
                    settle(limiter, held, *used)
                for seen in (workspace, keys[name]):
                    seen.ended(began, clock.now, *used)
            case "wait":
                clock.now += chance.choice((0.1, 1, 7.5, 40))
    for seen in (workspace, *keys.values()):
        limits = seen.limits
        _within([(at, 1) for at in seen.admitted], limits.requests_per_minute, more=0)
        _within(sorted(seen.read), limits.input_tokens_per_minute, more=READ)
        _within(seen.written, limits.output_tokens_per_minute, more=WRITTEN)
        assert seen.tokens < _or_any(limits.tokens_per_month) + READ + WRITTEN
        for tokens, cost in seen.by_day.values():
            assert tokens < _or_any(limits.tokens_per_day) + READ + WRITTEN
            assert cost < _or_any(limits.usd_per_day) * DOLLAR + COST


def _or_any(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _within(used: list[tuple[float, int]], limit: int | None, more: int) -> None:
    if limit is None:
        return
    for first in range(len(used)):
        amount = 0
        for at, each in used[first:]:
            amount += each
            assert amount <= limit + more + (at - used[first][0]) * limit / 60 + 1e-3


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 12))
def test_whoever_waits_as_long_as_it_was_told_is_let_through(
    pauses: list[float], limit: int
) -> None:
    clock = Clock()
    limiter, ann = Limiter(clock), caller(requests_per_minute=limit)
    for pause in pauses:
        clock.now += pause
        try:
            limiter.check(ann)
        except RateLimited as refused:
            clock.now += refused.retry_after or 0
        settle(limiter, hold(limiter, ann))
