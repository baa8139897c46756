"""Which blocks come from files and which become files, without an engine: requests and blocks are
made up here as vLLM has them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from senryu.server.engine.kv.files import KeptBlocks
from senryu.server.engine.kv.planning import KEEP, Planner
from senryu.server.engine.kv.work import Work

BLOCK, SIZE = 32, 100
NOW = 1_800_000_000.0


@dataclass
class Stats:
    """As vLLM's."""

    said: tuple[int, int, int] | None = None

    def set(self, prompt: int, local: int, external: int) -> None:
        self.said = (prompt, local, external)


@dataclass
class Asked:
    """A request, as vLLM has it."""

    num_tokens: int
    keep: Sequence[tuple[int, float]] = ()
    salt: str = ""
    request_id: str = "r"
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    prefill_stats: Any = field(default_factory=Stats)

    @property
    def num_prompt_tokens(self) -> int:
        return self.num_tokens

    @property
    def kv_transfer_params(self) -> dict[str, Any] | None:
        return {KEEP: [list(each) for each in self.keep]} if self.keep else None

    @property
    def block_hashes(self) -> list[bytes]:
        return [
            (self.salt.encode() + number.to_bytes(4, "big")).rjust(32, b"\1")
            for number in range(self.num_tokens // BLOCK)
        ]


@pytest.fixture
def files(tmp_path: Path) -> KeptBlocks:
    return KeptBlocks(tmp_path, "a" * 16, 2**20, reserve=0, clock=lambda: NOW)


@pytest.fixture
def planner(files: KeptBlocks) -> Planner:
    return Planner(files, block=BLOCK, size=SIZE, clock=lambda: NOW)


def step(planner: Planner, request: Asked, tokens: int) -> Work:
    """A step that computes so many tokens; block n of the request lies at 100 + n."""
    work = planner.work({request.request_id: tokens}, lambda _: list(range(100, 400)))
    request.num_computed_tokens += tokens
    return work


def keep(files: KeptBlocks, request: Asked, numbers: Sequence[int]) -> None:
    for number in numbers:
        assert files.write(request.block_hashes[number].hex(), bytes(SIZE), NOW + 300)


def test_blocks_below_a_mark_are_saved_in_the_step_that_computes_them(planner: Planner) -> None:
    request = Asked(1_000, keep=[(200, 300)])
    planner.came(request)
    assert [save.block for save in step(planner, request, 100).saves] == [100, 101, 102]
    assert [save.block for save in step(planner, request, 27).saves] == []
    assert [save.block for save in step(planner, request, 1).saves] == [103]
    assert [save.block for save in step(planner, request, 800).saves] == [104, 105]
    assert step(planner, request, 72).saves == []


def test_a_block_is_kept_as_long_as_the_most_patient_mark_over_it(planner: Planner) -> None:
    request = Asked(1_000, keep=[(96, 3_600), (200, 300)])
    planner.came(request)
    saves = step(planner, request, 1_000).saves
    lives = [save.expires - NOW for save in saves]
    assert [round(life) for life in lives] == [3_600] * 3 + [300] * 3
    assert lives == sorted(lives, reverse=True), "what is behind goes before what is in front"
    assert len(set(lives)) == len(lives)


def test_the_time_counts_from_when_the_last_of_them_is_computed(files: KeptBlocks) -> None:
    now = NOW
    planner = Planner(files, block=BLOCK, size=SIZE, clock=lambda: now)
    request = Asked(1_000, keep=[(200, 300)])
    planner.came(request)
    for save in step(planner, request, 100).saves:
        files.write(save.name, bytes(SIZE), save.expires)
    now += 100
    later = step(planner, request, 900).saves
    assert [save.block for save in later] == [103, 104, 105], "what is kept is not written again"
    first = request.block_hashes[0].hex()
    assert later[0].expires == pytest.approx(NOW + 400, abs=0.01)
    (file,) = (each for each in files._folder.rglob("*.kv") if each.stem == first)
    assert file.stat().st_mtime == pytest.approx(NOW + 400, abs=0.01)


def test_what_nobody_marked_is_not_saved(planner: Planner) -> None:
    for request in (Asked(1_000), Asked(1_000, keep=[(31, 300)])):
        planner.came(request)
        assert step(planner, request, 1_000) == Work()


def test_what_the_engine_had_already_is_saved_too_once_somebody_marks_it(planner: Planner) -> None:
    request = Asked(200, keep=[(190, 300)], num_computed_tokens=160)
    planner.came(request)
    assert [save.block for save in step(planner, request, 40).saves] == [100, 101, 102, 103, 104]


def test_what_is_kept_already_lives_on(planner: Planner, files: KeptBlocks, tmp_path: Path) -> None:
    request = Asked(128, keep=[(128, 3_600)])
    keep(files, request, [0, 2])
    planner.came(request)
    assert [save.block for save in step(planner, request, 128).saves] == [101, 103]
    lives = sorted(file.stat().st_mtime - NOW for file in tmp_path.rglob("*.kv"))
    assert lives == pytest.approx([3_600, 3_600], abs=0.01)


def test_kept_blocks_are_found_up_to_the_first_that_is_not(
    planner: Planner, files: KeptBlocks
) -> None:
    request = Asked(400)
    assert planner.matched(request, 0) == 0
    keep(files, request, [0, 1, 2, 4])
    assert planner.matched(request, 0) == 96
    assert planner.matched(request, 64) == 32, "behind what the engine has itself"
    assert planner.matched(request, 96) == 0


@pytest.mark.parametrize(("tokens", "found"), [(128, 96), (129, 128), (160, 128), (5, 0), (32, 0)])
def test_the_last_token_is_never_found(
    planner: Planner, files: KeptBlocks, tokens: int, found: int
) -> None:
    """It has to be computed for the answer to begin."""
    keep(files, Asked(1_000), range(20))
    assert planner.matched(Asked(tokens), 0) == found


def test_another_salt_finds_nothing(planner: Planner, files: KeptBlocks) -> None:
    keep(files, Asked(400), range(12))
    assert planner.matched(Asked(400, salt="another"), 0) == 0


def test_a_damaged_block_is_not_found_and_saved_anew(
    planner: Planner, files: KeptBlocks, tmp_path: Path
) -> None:
    request = Asked(200, keep=[(192, 300)])
    keep(files, request, range(6))
    damaged = next(tmp_path.rglob(f"*{request.block_hashes[3].hex()}.kv"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    planner.came(request)
    assert planner.matched(request, 0) == 96
    planner.admitted(request, range(100, 107), 96)
    request.num_computed_tokens = 96
    planner.admitted(request, range(100, 107), 0)
    assert [save.block for save in step(planner, request, 104).saves] == [103]


def test_what_is_found_is_loaded_to_where_the_request_has_its_blocks(
    planner: Planner, files: KeptBlocks
) -> None:
    request = Asked(400)
    keep(files, request, range(12))
    assert planner.matched(request, 64) == 10 * BLOCK
    planner.admitted(request, range(100, 113), 10 * BLOCK)
    (load,) = planner.work({}, lambda _: []).loads
    assert load.request_id == "r"
    assert [place for place, _ in load.blocks] == list(range(102, 112))
    assert [name for _, name in load.blocks] == [each.hex() for each in request.block_hashes[2:12]]
    assert planner.work({}, lambda _: []) == Work(), "it is asked for once"


def test_files_are_looked_for_again_and_never_read_in_the_engines_step(
    planner: Planner, files: KeptBlocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Asked(400)
    keep(files, request, range(12))
    monkeypatch.setattr(files, "read_into", lambda *_: pytest.fail("it was read"))
    assert planner.matched(request, 0) == 384
    assert planner.matched(request, 0) == 384
    files.remove(request.block_hashes[5].hex())
    assert planner.matched(request, 0) == 160


@pytest.mark.parametrize(
    ("computed", "said"), [(384, None), (160, (400, 64, 96)), (64, (400, 64, 0))]
)
def test_what_could_not_be_read_after_all_is_not_told_as_found(
    planner: Planner, files: KeptBlocks, computed: int, said: Any
) -> None:
    request = Asked(400)
    keep(files, request, range(12))
    planner.matched(request, 64)
    planner.admitted(request, range(100, 113), 320)
    request.num_computed_tokens = computed  # as vLLM cuts it back
    planner.admitted(request, range(100, 113), 0)
    assert request.prefill_stats.said == said


def test_who_could_not_be_read_anything_is_not_made_to_wait_again(
    planner: Planner, files: KeptBlocks
) -> None:
    """The files may still look whole from here."""
    request = Asked(400)
    keep(files, request, range(12))
    planner.matched(request, 0)
    planner.admitted(request, range(100, 113), 384)
    assert planner.matched(request, 0) == 0
    assert planner.matched(request, 0) == 0, "nor while it waits for memory"
    planner.admitted(request, range(100, 113), 0)
    assert request.prefill_stats.said is None, "vLLM has set it anew"
    request.num_preemptions = 1
    assert planner.matched(request, 0) == 384


def test_what_was_told_before_a_request_was_interrupted_stands(
    planner: Planner, files: KeptBlocks
) -> None:
    request = Asked(400, num_preemptions=1)
    keep(files, request, range(12))
    planner.matched(request, 0)
    planner.admitted(request, range(100, 113), 384)
    request.num_computed_tokens = 32
    planner.admitted(request, range(100, 113), 0)
    assert request.prefill_stats.said is None


def test_a_request_that_is_given_up_is_forgotten(planner: Planner, files: KeptBlocks) -> None:
    request = Asked(400, keep=[(400, 300)])
    planner.came(request)
    planner.matched(request, 0)
    planner.ended("r")
    planner.admitted(request, range(100, 113), 0)
    assert step(planner, request, 400) == Work()


def test_a_request_that_was_interrupted_goes_on_where_it_was(planner: Planner) -> None:
    request = Asked(400, keep=[(400, 300)])
    planner.came(request)
    assert len(step(planner, request, 200).saves) == 6
    request.num_computed_tokens = 0
    assert step(planner, request, 100).saves == []
    assert [save.block for save in step(planner, request, 300).saves] == list(range(106, 112))
