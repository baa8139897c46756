"""A plan is measured as it says, and what was measured before it was stopped is kept."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from senryu.benches import run
from senryu.benches.asks import Conversation
from senryu.benches.client.sample import Failure, Sample, Usage
from senryu.benches.figures import Figures, Slo
from senryu.benches.plan import Level, Plan
from senryu.benches.run import Found, measure
from senryu.benches.truth import ENGINE, Counters
from senryu.benches.workloads.base import Shape, Workload
from senryu.benches.workloads.chat import CHAT
from senryu.benches.workloads.recorded import recorded

Make = Callable[..., Sample]
ONE, EIGHT = (Level(kind="concurrency", value=width) for width in (1, 8))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """This engine has counted when it has told."""
    monkeypatch.setattr(run, "_SETTLE", 0.0)


class Server:
    """Answers each request with its own sample, and counts as an engine does."""

    def __init__(self, sample: Make, *, counts: bool = True, **told: Any) -> None:
        self._sample = sample
        self._told = told
        self._counts = counts
        self.now = 0.0
        self.asked: list[tuple[Level, list[Conversation], str]] = []
        self.prompt = self.output = self.requests = 0

    async def count(self, body: Mapping[str, Any]) -> int | None:
        words = f"{body['system']} {body['messages'][0]['content']}".split()
        return len(words) if self._counts else None

    async def counters(self) -> Counters | None:
        return Counters(prompt=self.prompt, output=self.output, requests=self.requests)

    async def ask(
        self,
        level: Level,
        conversations: Sequence[Conversation],
        *,
        seed: str,
        heard: Callable[[Sample], None],
    ) -> None:
        self.asked.append((level, list(conversations), seed))
        for conversation in conversations:
            for ask in conversation:
                heard(self.answered(ask.counted))
                await asyncio.sleep(0)

    def answered(self, counted: int | None) -> Sample:
        self.now += 1.0
        self.requests += 1
        self.prompt += counted or 0
        self.output += 4
        usage = Usage(input=counted or 0, output=4)
        told = {"due": self.now, "usage": usage, "counted": counted} | self._told
        return self._sample(**told)


class Shown:
    """Writes down what a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.heard_of = 0

    def begins(self, what: str, requests: int) -> None:
        self.lines.append(f"{what}: {requests}")

    def heard(self, sample: Sample) -> None:
        self.heard_of += 1

    def ends(self, figures: Figures | None) -> None:
        self.lines.append("nothing" if figures is None else f"{figures.requests} ended")


def plan(*levels: Level, **told: Any) -> Plan:
    given = {
        "workload": "chat",
        "shape": Shape(input=40, output=4),
        "levels": levels,
        "requests": 4,
        "repeats": 2,
        "slo": Slo(),
        "seed": 7,
    }
    return Plan(**given | told)


async def measured(
    server: Any, *levels: Level, workload: Workload = CHAT, **told: Any
) -> tuple[Found, Shown]:
    shown = Shown()
    return await measure(plan(*levels, **told), workload, server, shown), shown


async def test_every_level_is_warmed_up_and_repeated(sample: Make) -> None:
    server = Server(sample)
    found, shown = await measured(server, ONE, EIGHT)
    assert [(level, len(asked)) for level, asked, _ in server.asked] == [
        *((ONE, 2), (ONE, 4), (ONE, 4)),
        *((EIGHT, 8), (EIGHT, 8), (EIGHT, 8)),
    ]
    assert [each.level for each in found.levels] == [ONE, EIGHT]
    assert [[of.requests for of in each.repeats] for each in found.levels] == [[4, 4], [8, 8]]
    assert shown.lines[:4] == [
        *("concurrency 1, warm-up: 2", "nothing"),
        *("concurrency 1, repeat 1 of 2: 4", "4 ended"),
    ]
    assert shown.heard_of == 34
    assert not found.notes
    assert not found.interrupted


async def test_the_warm_up_is_not_measured(sample: Make) -> None:
    found, _ = await measured(Server(sample), ONE)
    assert len(found.samples) == 8
    assert [(level, repeat) for level, repeat, _ in found.samples] == [
        (ONE, repeat) for repeat in (1, 2) for _ in range(4)
    ]


async def test_no_two_requests_of_a_run_are_the_same(sample: Make) -> None:
    """Neither of warm-up and repeats nor of levels: a cache would be measured."""
    server = Server(sample)
    await measured(server, ONE, EIGHT)
    systems = [ask.body["system"] for _, all_of, _ in server.asked for (ask,) in all_of]
    assert len(set(systems)) == len(systems) == 34
    assert len({seed for _, _, seed in server.asked}) == 6


async def test_the_same_plan_asks_the_same(sample: Make) -> None:
    servers = Server(sample), Server(sample)
    for server in servers:
        await measured(server, ONE)
    assert servers[0].asked == servers[1].asked


async def test_usage_is_held_against_count_tokens_and_the_engines_counters(sample: Make) -> None:
    found, _ = await measured(Server(sample), ONE)
    (level,) = found.levels
    assert level.truth.verdict == "true"
    assert ENGINE in {check.name for check in level.truth.checks}


class Late(Server):
    """Counts what it answered a while later."""

    def __init__(self, sample: Make) -> None:
        super().__init__(sample)
        self._looks = 0

    async def counters(self) -> Counters | None:
        self._looks += 1
        told = await super().counters()
        late = self._looks % 4 and self.requests
        return Counters(prompt=0, output=0, requests=0) if late else told


async def test_an_engine_that_is_late_to_count_is_waited_for(sample: Make) -> None:
    found, _ = await measured(Late(sample), ONE, warm_up=0, repeats=1)
    assert ENGINE in {check.name for check in found.levels[0].truth.checks}
    assert found.levels[0].truth.verdict == "true"


async def test_a_server_that_lies_is_found_out(sample: Make) -> None:
    lying = Server(sample, usage=Usage(input=39, output=4))
    found, _ = await measured(lying, ONE)
    assert "usage says 39 prompt tokens, and count_tokens said 40" in str(found.levels[0].truth)


async def test_failures_are_samples_too(sample: Make) -> None:
    failure = Failure(kind="silent", text="nothing came")
    found, _ = await measured(Server(sample, failure=failure), ONE)
    (level,) = found.levels
    assert (level.requests, level.failed) == (8, 8)
    assert level.first_tokens == ()


async def test_a_server_that_cannot_count_is_told_of(sample: Make) -> None:
    found, _ = await measured(Server(sample, counts=False), ONE)
    (note,) = found.notes
    assert "cannot count tokens: prompts have about 40 words" in note


async def test_prompts_that_cannot_be_so_short_are_told_of(sample: Make) -> None:
    found, _ = await measured(Server(sample), ONE, shape=Shape(input=3, output=4))
    (note,) = found.notes
    assert "and 3 were asked for" in note


async def test_a_file_that_is_asked_twice_is_told_of(sample: Make, tmp_path: Any) -> None:
    file = tmp_path / "asks.jsonl"
    line = '{"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}\n'
    file.write_text(line * 10)
    found, _ = await measured(Server(sample), ONE, workload=recorded(str(file)))
    assert not found.notes  # two and four and four are ten
    found, _ = await measured(Server(sample), ONE, workload=recorded(str(file)), repeats=3)
    assert "fewer requests, 10, than were sent, 14" in found.notes[0]


async def test_a_client_that_was_late_says_so(sample: Make) -> None:
    found, _ = await measured(Server(sample, late=0.5), ONE)
    assert "up to 0.50 s late" in found.notes[0]


class Stopped(Server):
    """Somebody presses Ctrl-C when so many requests have ended."""

    def __init__(self, sample: Make, after: int, *, politely: bool) -> None:
        super().__init__(sample)
        self._after = after
        self._politely = politely

    def answered(self, counted: int | None) -> Sample:
        if self.requests == self._after:
            task = asyncio.current_task()
            assert task
            task.cancel()
        return super().answered(counted)

    async def ask(self, *given: Any, **told: Any) -> None:
        try:
            await super().ask(*given, **told)
        except asyncio.CancelledError:
            # A client that puts away what is running may break off or come back.
            if not self._politely:
                raise asyncio.CancelledError(3) from None


@pytest.mark.parametrize("politely", [True, False])
async def test_what_was_measured_before_it_was_stopped_is_kept(
    sample: Make, politely: bool
) -> None:
    server = Stopped(sample, after=2 + 4 + 1, politely=politely)
    task = asyncio.create_task(measured(server, ONE, EIGHT))
    found, _ = await task
    assert found.interrupted
    (level,) = found.levels
    assert [of.requests for of in level.repeats] == [4, 2]
    assert len(found.samples) == 6
    (note,) = found.notes
    assert "in concurrency 1, repeat 2 of 2, when 2 of its 4 requests had ended" in note
    assert ("left out are those that were running: 3" in note) is not politely


async def test_what_is_stopped_in_its_warm_up_has_measured_nothing(sample: Make) -> None:
    found, _ = await asyncio.create_task(measured(Stopped(sample, after=1, politely=False), ONE))
    assert found.interrupted
    assert not found.levels
    assert "warm-up, when 2 of its 2 requests" in found.notes[0]
