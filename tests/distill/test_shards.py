"""What was stored is there, whole, once, and unchanged; whatever breaks in between."""

import errno
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the model packages are not installed: make setup")

from senryu.distill.errors import DistillError
from senryu.distill.prompts.base import Task
from senryu.distill.prompts.wire import conversation_from_json
from senryu.distill.samples import Sample
from senryu.distill.shards import LEFT_OUT, ShardStore, tail_of
from senryu.server.conversation.messages import Message, TextBlock, ToolUseBlock


def made(
    identity: str, *, held_out: bool = False, k: int = 4, answer: int = 5, text: str = "é\n🙂"
) -> Sample:
    generator = np.random.default_rng(abs(hash(identity)) % 2**32)
    logprobs = np.log(np.sort(generator.dirichlet(np.ones(k + 1), answer))[:, :0:-1])
    call = ToolUseBlock(id="toolu_1", name="look", input={"at": [1, None, "ü"]})
    return Sample(
        id=identity,
        kind="tools",
        source="file prompts.jsonl",
        held_out=held_out,
        conversation=conversation_from_json(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
        ),
        answer=Message(role="assistant", content=(TextBlock(text=text), call)),
        token_ids=generator.integers(0, 49_152, 12 + answer).astype(np.int32),
        loss_mask=np.arange(12 + answer) >= 12,
        top_ids=generator.integers(0, 49_152, (answer, k)).astype(np.int32),
        top_logprobs=logprobs[:, :k].astype(np.float32),
        tail=tail_of(logprobs[:, :k]),
    )


def same(one: Sample, other: Sample) -> bool:
    plain = ("id", "kind", "source", "held_out", "conversation", "answer")
    arrays = ("token_ids", "loss_mask", "top_ids", "top_logprobs", "tail")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        getattr(one, name).dtype == getattr(other, name).dtype
        and np.array_equal(getattr(one, name), getattr(other, name))
        for name in arrays
    )


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    """Also samples of text alone, with an empty answer, and held to one token."""
    samples = [
        made("a-0"),
        made("b-0", k=0),
        made("c-0", answer=0),
        made("d-0", held_out=True, answer=900),
    ]
    samples[0].top_logprobs[1] = [0.0, -np.inf, -np.inf, -np.inf]
    store = ShardStore(tmp_path / "samples", 3)
    for sample in samples:
        store.append([sample])
    store.flush()
    read = list(ShardStore(tmp_path / "samples").samples())
    assert [each.id for each in read] == ["a-0", "b-0", "c-0", "d-0"]
    assert all(same(one, other) for one, other in zip(samples, read, strict=True))
    assert len(shards(tmp_path / "samples")) == 2


def test_held_out_samples_are_told_from_the_others(tmp_path: Path) -> None:
    store = ShardStore(tmp_path)
    store.append([made("a-0"), made("b-0", held_out=True), made("c-0")])
    store.flush()
    assert [each.id for each in store.samples(held_out=False)] == ["a-0", "c-0"]
    assert [each.id for each in store.samples(held_out=True)] == ["b-0"]


def test_an_empty_store_has_nothing_and_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "not there")
    store.flush()
    assert store.ids() == set()
    assert list(store.samples()) == []
    assert not (tmp_path / "not there").exists()


def test_a_sample_is_stored_once(tmp_path: Path) -> None:
    """Whether it is known from before, or waits to be written."""
    store = ShardStore(tmp_path)
    store.append([made("a-0"), made("a-1")])
    store.append([made("a-0")])
    store.flush()
    again = ShardStore(tmp_path)
    again.append([made("a-1"), made("b-0")])
    again.flush()
    assert [each.id for each in again.samples()] == ["a-0", "a-1", "b-0"]


def test_samples_of_one_task_stand_in_one_shard(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, 2)
    store.append([made("a-0")])
    store.append([made(f"b-{n}") for n in range(5)])
    store.flush()
    assert len(shards(tmp_path)) == 1


def test_a_shards_name_holds_the_hash_of_its_bytes(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, 1)
    store.append([made("a-0")])
    store.append([made("b-0")])
    for number, shard in enumerate(shards(tmp_path)):
        assert shard.name == (
            f"{number:05d}-{hashlib.sha256(shard.read_bytes()).hexdigest()[:16]}.parquet"
        )


def test_the_tasks_of_now_say_what_is_read_and_what_is_held_out(tmp_path: Path) -> None:
    """Prompts may be gathered anew, with other sides, after they were answered."""
    store = ShardStore(tmp_path)
    store.append([made("a-0"), made("a-1")])
    store.append([made("b-0", held_out=True)])
    store.append([made("c-0")])
    store.flush()
    asked = {
        name: Task(
            id=name,
            source="self",
            kind="chat",
            conversation=made("x").conversation,
            held_out=name != "b",
        )
        for name in "abd"
    }
    read = list(store.samples(tasks=list(asked.values())))
    assert [(each.id, each.held_out) for each in read] == [
        ("a-0", True),
        ("a-1", True),
        ("b-0", False),
    ]
    assert same(read[2], replace(made("b-0"), held_out=False))
    assert [each.id for each in store.samples(True, tasks=[asked["a"]])] == ["a-0", "a-1"]
    assert [each.id for each in store.samples(False, tasks=[asked["b"]])] == ["b-0"]
    assert list(store.samples(tasks=[])) == []
    assert len(list(store.samples())) == 4


def test_a_sample_more_costs_the_same_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is looked up, and never gone through."""
    store = ShardStore(tmp_path, 10)
    store.append([made(f"{n}-0") for n in range(20)])
    monkeypatch.setattr(ShardStore, "ids", None)
    for number in range(15, 25):
        store.append([made(f"{number}-0")])
    store.flush()
    assert [each.id for each in store.samples()] == [f"{n}-0" for n in range(25)]


def test_half_a_letter_does_not_lose_what_waits_with_it(tmp_path: Path) -> None:
    """No file can hold one; in its place stands the sign for what cannot be shown."""
    store = ShardStore(tmp_path)
    store.append([made("a-0"), made("b-0", text="a\ud83d")])
    store.append([replace(made("c-0"), source="file \ud83d")])
    store.leave_out("d", "refused with '\ud83d'")
    store.flush()
    read = list(store.samples())
    assert [each.answer.text for each in read] == ["é\n🙂", "a\ufffd", "é\n🙂"]
    assert read[2].source == "file \ufffd"
    assert list(store.left_out()) == ["d"]


def test_any_program_that_reads_parquet_reads_a_shard(tmp_path: Path) -> None:
    """As docs/samples.md describes it."""
    import pyarrow.parquet as pq

    store = ShardStore(tmp_path)
    store.append([made("a-0", k=4, answer=5)])
    store.flush()
    table = pq.read_table(shards(tmp_path)[0])
    page = (Path(__file__).parents[2] / "docs/samples.md").read_text()
    assert [name for name in table.column_names if f"| `{name}` |" not in page] == []
    (row,) = table.to_pylist()
    assert row["top_k"] == 4
    assert len(row["top_ids"]) == len(row["top_logprobs"]) == 4 * len(row["tail"]) == 20
    assert sum(row["loss_mask"]) == 5
    assert row["conversation"].startswith('{"messages":[{"role":"user","content":[')


@pytest.mark.parametrize("where", [0, 100, -1])
def test_a_damaged_shard_is_named_with_the_way_out(where: int, tmp_path: Path) -> None:
    store = ShardStore(tmp_path, 1)
    store.append([made("a-0")])
    store.append([made("b-0")])
    shard = shards(tmp_path)[1]
    content = bytearray(shard.read_bytes())
    content[where] ^= 1
    shard.write_bytes(content)
    for ask in (
        lambda: ShardStore(tmp_path).ids(),
        lambda: list(ShardStore(tmp_path).samples()),
    ):
        with pytest.raises(DistillError) as caught:
            ask()
        assert str(caught.value) == (
            f"The shard {shard} is damaged (its bytes are not those that were written): delete "
            "it, and its samples are collected again."
        )
    shard.unlink()
    assert ShardStore(tmp_path).ids() == {"a-0"}


def test_a_shard_of_a_later_senryu_is_not_misread(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    store = ShardStore(tmp_path)
    store.append([made("a-0")])
    store.flush()
    (shard,) = shards(tmp_path)
    table = pq.read_table(shard).replace_schema_metadata({"senryu.samples": "2"})
    pq.write_table(table, shard)
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()[:16]
    shard.rename(tmp_path / f"00000-{digest}.parquet")
    with pytest.raises(DistillError, match="its format is 2, this senryu reads 1"):
        list(ShardStore(tmp_path).samples())


def test_what_a_kill_left_half_written_is_no_shard_and_is_removed(tmp_path: Path) -> None:
    half = tmp_path / ".00000-0123456789abcdef.parquet.partial"
    half.write_bytes(b"PAR1")
    store = ShardStore(tmp_path)
    assert store.ids() == set()
    store.append([made("a-0")])
    store.flush()
    assert not half.exists()


def test_tasks_that_gave_nothing_are_remembered(tmp_path: Path) -> None:
    """Also behind a line that a kill cut."""
    store = ShardStore(tmp_path)
    store.append([made("a-0")])
    store.leave_out("b", "empty")
    assert store.left_out() == {"b": "empty"}
    store.flush()
    with (tmp_path / LEFT_OUT).open("a") as file:
        file.write('{"id": "c", "wh')
    store.leave_out("d", "cut off in a call")
    store.flush()
    assert ShardStore(tmp_path).left_out() == {"b": "empty", "d": "cut off in a call"}


def test_without_a_single_sample_no_task_is_given_up(tmp_path: Path) -> None:
    """Then it is not the tasks that are at fault."""
    store = ShardStore(tmp_path)
    store.leave_out("b", "empty")
    store.flush()
    assert ShardStore(tmp_path).left_out() == {}


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_told_in_one_sentence_and_earlier_shards_stay(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is room, what waited is written."""
    store = ShardStore(tmp_path, 1)
    store.append([made("a-0")])
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: Any) -> None:
        raise full

    with monkeypatch.context() as patched:
        if call == "fsync":
            patched.setattr(os, "fsync", refuse)
        else:
            patched.setattr(Path, "open", refuse)
        with pytest.raises(DistillError) as caught:
            store.append([made("b-0")])
    assert str(caught.value) == (
        f"There is no room for more samples in {tmp_path}: what was stored before is kept, so "
        "make room and run the same command again."
    )
    assert ShardStore(tmp_path).ids() == {"a-0"}
    assert not list(tmp_path.glob(".*"))
    store.flush()
    assert ShardStore(tmp_path).ids() == {"a-0", "b-0"}


def test_a_disk_that_really_takes_no_more_leaves_whole_shards(tmp_path: Path) -> None:
    """A child process may write files of 200 kB at the most; the kernel refuses the rest."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    child = f"""
        import sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from pathlib import Path
        from test_shards import made, ShardStore, DistillError
        store = ShardStore(Path({str(tmp_path)!r}), 1)
        store.append([made("a-0")])
        try:
            store.append([made("b-0", answer=5000, k=32)])
        except DistillError as problem:
            print(problem)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(child)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert done.stdout.startswith("There is no room for more samples in "), done.stderr
    assert done.stdout.count("\n") == 1
    assert ShardStore(tmp_path).ids() == {"a-0"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "samples").write_text("a file")
    store = ShardStore(tmp_path / "samples" / "inside", 1)
    with pytest.raises(DistillError, match=r"^Samples cannot be written to .* \(Not a directory\)"):
        store.append([made("a-0")])


COLLECTING = """
    import asyncio, sys
    from pathlib import Path
    sys.path[:0] = {path!r}
    from telling_engine import TellingEngine
    from test_collect import RECIPE, task
    from senryu.distill.collect import collect
    from senryu.distill.shards import ShardStore
    from senryu.distill.teachers.engine import EngineTeacher
    from senryu.quant.progress import Silent

    async def go():
        say = lambda asked: "And you?" if asked.endswith("user\\n") else "Yes."
        teacher = EngineTeacher(TellingEngine(say), folder=None, top_k=4, streams=8)
        store = ShardStore(Path({out!r}), 3)
        asked = [task(f"Question {{n}}", n, further_turns=n % 3) for n in range({count})]
        await collect(asked, teacher, RECIPE, store, Silent())

    asyncio.run(go())
"""


def test_killed_at_any_moment_no_sample_is_lost_or_doubled(tmp_path: Path) -> None:
    """A process that collects is killed with SIGKILL again and again, as often in the middle of a
    write as not, and then left to finish. What it had stored before each kill is still there, and
    a task of several answers is there whole or not at all."""
    count, chance = 120, random.Random(5)

    def answers(task: int) -> set[str]:
        return {f"{task:040x}-{number}" for number in range(1 + task % 3)}

    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "judges")]
    source = textwrap.dedent(COLLECTING).format(path=folders, out=str(tmp_path), count=count)
    stored: set[str] = set()
    for _ in range(3):
        wanted = len(shards(tmp_path)) + chance.randint(1, 12)
        child = subprocess.Popen([sys.executable, "-c", source])
        while child.poll() is None and len(shards(tmp_path)) < wanted:
            time.sleep(chance.random() * 0.004)
        child.kill()
        child.wait()
        now = ShardStore(tmp_path).ids()
        assert stored <= now
        stored = now
        begun = {identity.partition("-")[0] for identity in stored}
        assert stored == {each for task in begun for each in answers(int(task, 16))}
    assert 0 < len(stored) < 2 * count, "the kills came in the middle"
    subprocess.run([sys.executable, "-c", source], check=True)
    found = [sample.id for sample in ShardStore(tmp_path).samples()]
    assert sorted(found) == sorted(each for task in range(count) for each in answers(task))
