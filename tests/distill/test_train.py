"""Training learns, tells how it goes, stops in one sentence, and goes on as if never stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lessons import VOCABULARY, Recorder, made_up, short, some, tiny_student

from senryu.distill import checkpoint, curve, standing
from senryu.distill.errors import DistillError
from senryu.distill.master import Master
from senryu.distill.recipe import TrainRecipe
from senryu.distill.train import plain_again, precision, train


def trained(folder: Path, recipe: TrainRecipe, **more: Any) -> tuple[dict[str, Any], Any]:
    model = more.pop("model", None) or tiny_student()
    lessons = more.pop("lessons", None) or some()
    told = train(model, lessons, recipe, folder, **{"progress": Recorder()} | more)
    return {name: each.detach().clone() for name, each in model.named_parameters()}, told


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("loss", ["sft", "forward-kl", "js"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns(tmp_path: Path, loss: Any, optimizer: Any) -> None:
    """A few samples read many times are known in the end."""
    recipe = short(loss=loss, optimizer=optimizer, tokens=3000, learning_rate=1e-2)
    _, told = trained(tmp_path, recipe, lessons=some(4))
    points = curve.read(tmp_path)
    assert points[-1].loss < 0.5 * points[0].loss
    assert told.steps == len(points)
    assert told.tokens == points[-1].tokens >= 3000


class Stop(Exception):
    """Somebody pulls the plug."""


def stop_at(step: int) -> Any:
    def on_step(point: curve.Point) -> None:
        if point.step == step:
            raise Stop

    return on_step


VARIANTS = {
    "plain": {},
    "muon": {"optimizer": "muon"},
    "ema": {"ema": 0.9},
    "bfloat16": {"precision": "bfloat16"},
    "recomputed": {"gradient_checkpointing": True},
    "student writes": {"on_policy": 0.5, "on_policy_tokens": 5, "loss": "js"},
    "hidden": {"hidden_weight": 0.5},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_stopped_and_gone_on_is_as_never_stopped(tmp_path: Path, name: str) -> None:
    """Bit for bit, and the curve is the same too."""
    recipe = short(**VARIANTS[name])
    more = {"teacher": lambda: tiny_student(4, seed=9), "kept": (0, 2)}
    whole, _ = trained(tmp_path / "whole", recipe, **more)
    with pytest.raises(Stop):
        trained(tmp_path / "parts", recipe, on_step=stop_at(5), **more)
    parts, told = trained(tmp_path / "parts", recipe, **more)
    assert told.resumed_from == 3
    assert equal(whole, parts)
    losses = [
        [(each.step, each.tokens, each.loss, each.kl) for each in curve.read(tmp_path / which)]
        for which in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    first, once = trained(tmp_path, short(ema=0.9))
    second, again = trained(tmp_path, short(ema=0.9), on_step=lambda _: pytest.fail("a step"))
    assert equal(first, second)
    assert (again.loss, again.seconds) == (once.loss, once.seconds)


def test_a_damaged_checkpoint_costs_only_what_came_after_the_one_before(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path, short())
    newest = checkpoint.steps(tmp_path)[-1]
    (tmp_path / f"step-{newest:08d}" / "state.pt").write_bytes(b"damaged")
    recorder = Recorder()
    again, _ = trained(tmp_path, short(), progress=recorder)
    assert equal(whole, again)
    assert "is damaged" in recorder.sentences[0]


def test_the_way_it_is_computed_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    """Pieces of another size and recomputed layers: equal but for rounding."""
    plain, _ = trained(tmp_path / "a", short())
    other, _ = trained(tmp_path / "b", short(vocabulary_chunk=1000, gradient_checkpointing=True))
    for name, weight in plain.items():
        torch.testing.assert_close(other[name], weight, atol=1e-4, rtol=1e-3)


def test_an_average_is_what_becomes_the_student(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "a", short())
    average, _ = trained(tmp_path / "b", short(ema=0.5))
    first, _ = trained(tmp_path / "c", short(tokens=1, ema=0.999))
    assert not equal(first, dict(tiny_student().named_parameters()))
    assert not equal(plain, average)
    state = checkpoint.newest(tmp_path / "b", pytest.fail)
    assert state is not None
    assert equal(plain, state[1]["weights"]), "but it is the plain weights that go on learning"


def test_people_are_told_how_it_goes(tmp_path: Path) -> None:
    recorder = Recorder()
    _, told = trained(tmp_path, short(), progress=recorder)
    assert recorder.units == told.steps == len(recorder.details)
    assert "loss" in recorder.details[-1]
    assert "KL" in recorder.details[-1]
    assert "tokens/s, 0:00 left" in recorder.details[-1]
    line = json.loads((tmp_path / "curve.jsonl").read_text().splitlines()[0])
    assert line["step"] == 1
    assert {"tokens", "loss", "kl", "learning_rate", "gradient_norm", "seconds"} <= set(line)


def test_text_alone_has_no_distance(tmp_path: Path) -> None:
    _, told = trained(tmp_path, short(loss="sft"), lessons=some(top_k=0))
    assert told.kl is None


def test_the_callers_chance_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    model = tiny_student()
    torch.manual_seed(5)
    trained(tmp_path, short(), model=model)
    assert torch.equal(torch.rand(3), wanted)


def test_tokens_that_the_student_wrote_are_those_that_are_counted(tmp_path: Path) -> None:
    """And the distance at the end is that of stored samples: its own words are other questions."""
    recipe = short(on_policy=0.5, on_policy_tokens=5, loss="js")
    seen: list[int] = []
    original = Master.have_written

    def watch(self: Master, *args: Any) -> Any:
        rows = original(self, *args)
        seen.append(sum(len(each.token_ids) for row in rows for each in row))
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Master, "have_written", watch)
        _, told = trained(tmp_path, recipe, teacher=lambda: tiny_student(4, seed=9))
    points = curve.read(tmp_path)
    before = [0, *(each.tokens for each in points)]
    read = [each.tokens - was for each, was in zip(points, before, strict=False) if each.on_policy]
    assert read == seen
    assert told.tokens == points[-1].tokens
    stored = [each for each in points if not each.on_policy]
    assert told.kl == pytest.approx(stored[-1].kl)


def test_what_is_for_training_alone_is_taken_off(tmp_path: Path) -> None:
    """Also when training breaks off."""
    model = tiny_student()
    recipe = short(gradient_checkpointing=True, ema=0.5)
    with pytest.raises(Stop):
        trained(tmp_path, recipe, model=model, on_step=stop_at(2))
    assert not model.is_gradient_checkpointing
    for layer in model.model.layers:
        layer.compile(backend="eager")
    plain_again(model)
    assert all(layer._compiled_call_impl is None for layer in model.model.layers)


def test_nothing_is_compiled_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step would be compiled anew. It is said."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: pytest.fail("compiled"))
    recorder = Recorder()
    trained(tmp_path, short(compile=True, tokens=1), progress=recorder)
    assert any("train.compile is of use on a GPU alone" in each for each in recorder.sentences)


def test_a_teacher_with_more_rows_than_its_student_can_be_learnt_from(tmp_path: Path) -> None:
    """What it stored of rows that the student lacks counts as any other token."""
    lessons = some()
    for each in lessons:
        each.top_ids[0, 0] = VOCABULARY + 3
    _, told = trained(tmp_path, short(), lessons=lessons)
    assert told.kl is not None
    assert told.kl > 0


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lessons": [made_up(5, 0)]}, "no sample to train on"),
        ({"lessons": some(top_k=0)}, "hold text only"),
        ({"tokens": 0}, "train.tokens is 0"),
        ({"sequence": 1}, "train.sequence must be"),
        ({"on_policy": 0.5}, "need the teacher as a model"),
        ({"hidden_weight": 0.5}, "need the teacher as a model"),
        ({"loss": "skew-kl", "mix": 1.0}, "whatever the student says"),
        ({"ema": 1.0}, "train.ema is 1; it takes 0 to below 1"),
    ],
)
def test_what_cannot_end_does_not_begin(
    tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    lessons = changed.pop("lessons", None)
    with pytest.raises(DistillError, match=sentence):
        trained(tmp_path, short(**changed), lessons=lessons)


def test_samples_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    lesson = made_up(3, 4)
    lesson.token_ids[1] = VOCABULARY
    with pytest.raises(DistillError, match="must have the tokenizer"):
        trained(tmp_path, short(), lessons=[lesson])


def test_a_loss_that_is_no_number_stops_before_it_harms(tmp_path: Path) -> None:
    """The step is named, the checkpoint kept, and a lower rate goes on from there."""
    model = tiny_student()

    def spoil(point: curve.Point) -> None:
        if point.step == 4:
            with torch.no_grad():
                model.model.norm.weight.fill_(float("nan"))

    with pytest.raises(DistillError, match=r"step 5 is nan .* checkpoint of step 3 is kept.*lower"):
        trained(tmp_path, short(), model=model, on_step=spoil)
    recorder = Recorder()
    _, told = trained(tmp_path, short(learning_rate=1e-3), progress=recorder)
    assert told.resumed_from == 3
    assert any("learning_rate is 0.001 now; it was 0.003" in each for each in recorder.sentences)


def test_other_samples_are_another_training(tmp_path: Path) -> None:
    trained(tmp_path, short())
    with pytest.raises(DistillError, match=f"other samples: .* delete the folder {tmp_path} to"):
        trained(tmp_path, short(), lessons=some(5))


def test_another_student_is_another_training(tmp_path: Path) -> None:
    """Of other weights or of another shape."""
    trained(tmp_path, short())
    for other in (tiny_student(seed=1), tiny_student(3)):
        with pytest.raises(DistillError, match="began with other student: put back"):
            trained(tmp_path, short(), model=other)


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [
        ("sequence", 40, "32"),
        ("batch_tokens", 96, "64"),
        ("seed", 18, "17"),
        ("optimizer", "muon", '"adamw"'),
        ("loss", "js", '"forward-kl"'),
        ("sft_weight", 0.5, "0.0"),
        ("ema", 0.5, '"none"'),
    ],
)
def test_what_makes_another_student_may_not_change_on_the_way(
    tmp_path: Path, key: str, value: Any, before: str
) -> None:
    """The key is named, and what it was."""
    trained(tmp_path, short())
    with pytest.raises(DistillError, match=f"began with train.{key} = {before}.*: put back what"):
        trained(tmp_path, short(**{key: value}))


def test_what_only_changes_how_it_is_learnt_may_change_and_is_said(tmp_path: Path) -> None:
    """And it holds: an optimizer goes on with what the recipe says now."""
    with pytest.raises(Stop):
        trained(tmp_path, short(), on_step=stop_at(5))
    recorder = Recorder()
    now = short(weight_decay=0.2, betas=(0.8, 0.9), clip=0.5, vocabulary_chunk=8, mix=0.1)
    _, told = trained(tmp_path, now, progress=recorder)
    assert told.resumed_from == 3
    said = " ".join(recorder.sentences)
    for key in ("weight_decay is 0.2", "betas is (0.8, 0.9)", "clip is 0.5", "_chunk is 8"):
        assert f"{key} now; it was" in said
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None
    groups = found[1]["optimizers"][0]["param_groups"]
    assert [each["weight_decay"] for each in groups] == [0.2, 0.0]
    assert [list(each["betas"]) for each in groups] == [[0.8, 0.9]] * 2


def test_a_student_is_known_again_by_another_machine() -> None:
    """One that was pruned there has other roundings."""
    model = tiny_student()
    before = standing.nature_of(model, some(), short())
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 1e-6)
    assert standing.nature_of(model, some(), short()) == before


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (OSError(28, "No space left on device"), "disk of .* is full: make room"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), "is full"),
        (MemoryError(), "ran out of memory: lower train.batch_tokens"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "ran out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory"),
    ],
)
def test_what_runs_out_is_one_sentence(tmp_path: Path, problem: Exception, sentence: str) -> None:
    def fail(_: curve.Point) -> None:
        raise problem

    with pytest.raises(DistillError, match=sentence):
        trained(tmp_path, short(), on_step=fail)


def test_other_failures_are_not_hidden(tmp_path: Path) -> None:
    def fail(_: curve.Point) -> None:
        raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError, match="a bug of ours"):
        trained(tmp_path, short(), on_step=fail)


@pytest.mark.parametrize(
    ("kind", "sets", "told"),
    [
        ("gpu", (), torch.bfloat16),
        ("cpu", ("avx2", "avx512_bf16"), torch.bfloat16),
        ("cpu", ("avx512f", "amx"), torch.bfloat16),
        ("cpu", ("avx2", "avx512_vnni"), torch.float32),
    ],
)
def test_precision_is_what_was_asked_or_what_is_quick(
    kind: str, sets: tuple[str, ...], told: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimpleNamespace(kind=kind, instruction_sets=sets)
    monkeypatch.setattr("senryu.distill.train.detect", lambda: device)
    assert precision(short(precision="auto")) == told
    assert precision(short(precision="float32")) == torch.float32
    assert precision(short(precision="bfloat16")) == torch.bfloat16


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Processes of their own, killed with SIGKILL at many steps of a run and while a checkpoint is
    written, and started again: the weights equal, bit for bit, those of a run that nobody
    disturbed."""
    script = Path(__file__).with_name("killed_training.py")
    judges = Path(__file__).parents[1] / "judges"
    told = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(judges), "OMP_NUM_THREADS": "1"},
    )
    assert told.returncode == 0, told.stderr[-2000:]
    result = json.loads(told.stdout.splitlines()[-1])
    assert result["kills"] == len(result["moments"]), result
    assert result["whole"] == result["killed"], result
