"""A student is measured as its definition says, on the same samples always, or refused in words."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_student import sample, tiny_student, top_of

from senryu.distill import evaluate as evaluating
from senryu.distill.errors import DistillError
from senryu.distill.evaluate import Evaluation, RunFacts, evaluate, measure, measure_all
from senryu.distill.recipe import EvaluateRecipe
from senryu.distill.samples import Sample
from senryu.quant.progress import Silent

FACTS = RunFacts(name="ours", student="s", teacher="t", licence="Apache-2.0", terms="It says so.")


@pytest.fixture(scope="module")
def teacher() -> Any:
    return tiny_student(1)


@pytest.fixture(scope="module")
def student() -> Any:
    return tiny_student(2)


def slow_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        told = copy.deepcopy(model).double()(torch.from_numpy(ids.astype("int64"))[None]).logits
    return np.asarray(told[0].numpy())


def log_softmax(values: np.ndarray) -> np.ndarray:
    return np.asarray(values - np.log(np.exp(values).sum(-1, keepdims=True)))


def reference(student: Any, teacher: Any, one: Sample) -> tuple[float, float, int]:
    """KL, surprise and agreement over the answer, from all logits in float64."""
    places = np.flatnonzero(one.loss_mask) - 1
    p = log_softmax(slow_logits(teacher, one.token_ids)[places])
    q = log_softmax(slow_logits(student, one.token_ids)[places])
    kl = float((np.exp(p) * (p - q)).sum())
    surprise = -float(q[np.arange(len(places)), one.token_ids[places + 1]].sum())
    return kl, surprise, int((p.argmax(-1) == q.argmax(-1)).sum())


@pytest.mark.parametrize("chunk", [3, 256])
def test_a_row_is_what_float64_says(
    student: Any, teacher: Any, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many positions stand in memory at once."""
    monkeypatch.setattr(evaluating, "CHUNK", chunk)
    samples = [sample(f"{seed}-0", seed=seed, length=20 + seed) for seed in range(3)]
    told = measure(student, samples, teacher=teacher)
    assert told.over == "vocabulary"
    for one, row in zip(samples, told.rows, strict=True):
        kl, surprise, same = reference(student, teacher, one)
        assert row.kl == pytest.approx(kl, rel=1e-4)
        assert row.surprise == pytest.approx(surprise, rel=1e-4)
        assert (row.tokens, row.compared, row.agreed) == (10, 10, same)
    assert told.kl
    assert told.kl.value == pytest.approx(sum(row.kl for row in told.rows) / 30)
    assert told.perplexity
    assert told.perplexity.value == pytest.approx(
        np.exp(sum(row.surprise for row in told.rows) / 30)
    )


def test_the_teacher_is_no_nats_from_itself(teacher: Any) -> None:
    told = measure(teacher, [sample()], teacher=teacher)
    assert told.kl
    assert abs(told.kl.value) < 1e-6
    assert told.agreement
    assert told.agreement.value == 1.0
    assert told.own_perplexity == told.perplexity


def test_without_the_teacher_what_was_stored_is_compared(student: Any, teacher: Any) -> None:
    """Stored with nearly all tokens it is the KL over the vocabulary, with few a little less."""
    one = sample()
    places = np.flatnonzero(one.loss_mask) - 1
    logits = slow_logits(teacher, one.token_ids)[places]
    found = []
    for k in (4, 257):
        kept, ids, tail = top_of(logits, k)
        stored = dataclasses.replace(one, top_ids=ids, top_logprobs=kept, tail=tail)
        told = measure(student, [stored])
        assert told.over == "stored"
        found.append(told.rows[0])
    whole = measure(student, [one], teacher=teacher).rows[0]
    assert found[0].kl < whole.kl
    assert found[1].kl == pytest.approx(whole.kl, rel=1e-3)
    assert found[0].agreed == found[1].agreed == whole.agreed


def test_text_alone_gives_perplexity_and_no_kl(student: Any) -> None:
    told = measure(student, [sample()])
    assert (told.over, told.kl, told.agreement) == ("nothing", None, None)
    assert told.perplexity


@pytest.mark.parametrize(
    ("held_to", "tail"),
    [
        ([0.0, -np.inf, -np.inf, -np.inf], 0.0),
        ([-0.7, -1.2, -np.inf, -np.inf], 0.0),
        ([-0.4, -1.9, -2.3, -np.inf], 0.1),
    ],
)
def test_positions_that_were_held_to_a_grammar_are_not_compared(
    student: Any, teacher: Any, held_to: list[float], tail: float
) -> None:
    """What is stored there is not what the teacher would have chosen among all tokens."""
    one = sample(k=4)
    one.top_logprobs[:3] = held_to
    one.tail[:3] = tail
    free = sample(k=4)
    for master in (None, teacher):
        held, all_of_it = (measure(student, [each], teacher=master).rows[0] for each in (one, free))
        assert (held.tokens, held.compared) == (10, 7)
        assert (all_of_it.tokens, all_of_it.compared) == (10, 10)
        assert held.kl < all_of_it.kl


def test_a_sample_longer_than_the_window_is_measured_at_its_end(teacher: Any) -> None:
    short = tiny_student(2, window=16)
    one = sample(length=24, answer=20, k=4)
    row = measure(short, [one]).rows[0]
    assert (row.tokens, row.compared) == (15, 15)
    assert measure(short, [one], teacher=teacher).rows[0].tokens == 15


def test_students_measured_together_are_measured_as_if_alone(student: Any, teacher: Any) -> None:
    samples = [sample()]
    both = measure_all({"one": student, "two": teacher}, samples, teacher=teacher)
    assert both["one"] == measure(student, samples, teacher=teacher)
    assert both["two"] == measure(teacher, samples, teacher=teacher)


def test_a_model_is_left_in_the_mode_that_it_was_in(student: Any) -> None:
    student.train()
    measure(student, [sample()])
    assert student.training
    student.eval()


def padded(model: Any, rows: int) -> Any:
    """The same model with rows that no token stands for, none of them likely."""
    larger = tiny_student(vocabulary=258 + rows)
    theirs = dict(model.named_parameters())
    for name, weight in larger.named_parameters():
        weight.data[: len(theirs[name])] = theirs[name].data
    larger.lm_head = torch.nn.Linear(32, 258 + rows)
    larger.lm_head.weight.data[:258] = model.lm_head.weight.data
    larger.lm_head.weight.data[258:] = 0.0
    larger.lm_head.bias.data[:258] = 0.0
    larger.lm_head.bias.data[258:] = -1e4
    return larger.eval()


def test_vocabularies_that_are_padded_to_other_lengths_are_compared_on_the_shared_rows(
    student: Any, teacher: Any
) -> None:
    """Of one family the large models pad theirs further than the small."""
    samples = [sample(f"{seed}-0", seed=seed) for seed in range(2)]
    plain = measure(student, samples, teacher=teacher)
    pairs = [(student, padded(teacher, 42)), (padded(student, 42), teacher)]
    for one, other in pairs:
        told = measure(one, samples, teacher=other)
        for row, wanted in zip(told.rows, plain.rows, strict=True):
            assert row.kl == pytest.approx(wanted.kl, rel=1e-4)
            assert row.surprise == pytest.approx(wanted.surprise, rel=1e-4)
            assert (row.agreed, row.compared) == (wanted.agreed, wanted.compared)


def test_a_stored_row_of_padding_is_one_of_the_others(student: Any) -> None:
    """A teacher with more rows may have stored one that the student lacks; it says no word."""
    one = sample(k=4)
    wanted = measure(student, [one]).rows[0]
    odd = dataclasses.replace(
        one,
        top_ids=np.concatenate([one.top_ids, np.full((10, 1), 299, np.int32)], 1),
        top_logprobs=np.concatenate([one.top_logprobs, np.full((10, 1), -30.0, np.float32)], 1),
    )
    told = measure(student, [odd]).rows[0]
    assert told.kl == pytest.approx(wanted.kl, rel=1e-4)
    assert told.compared == wanted.compared


def test_samples_of_another_tokenizer_are_refused(student: Any) -> None:
    with pytest.raises(DistillError, match=r"and the student knows 258: .* another tokenizer"):
        measure(student, [sample(vocabulary=4000)])
    stored = sample(k=4)
    stored.top_ids[3, 0] = 300
    with pytest.raises(DistillError, match="hold token 300 and the student knows 258"):
        measure(student, [stored])
    with pytest.raises(DistillError, match="and the teacher knows 258"):
        measure(
            tiny_student(vocabulary=400),
            [sample(vocabulary=400)],
            teacher=tiny_student(vocabulary=258),
        )


class Removed:
    """A model that tells where it is moved, and a GPU that is none."""

    def __init__(self, model: Any, name: str, moves: list[str], *, fits: bool = True) -> None:
        self._model, self._name, self._moves, self._fits = model, name, moves, fits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def to(self, device: torch.device) -> Any:
        self._moves.append(f"{self._name} to {device.type}")
        if device.type != "cpu" and not self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self


def test_models_are_moved_to_the_device_one_after_another(student: Any, teacher: Any) -> None:
    """And the student once more to answer; what is measured is the same."""
    moves: list[str] = []
    told = evaluate(
        samples(),
        EvaluateRecipe(),
        FACTS,
        Removed(student, "student", moves),
        before=lambda: Removed(tiny_student(3), "before", moves),
        teacher=lambda: Removed(teacher, "teacher", moves),
        speak=lambda chosen: moves.append("speaks") or [],  # type: ignore[func-returns-value]
        device=torch.device("cpu"),
    )
    assert [each.partition(" ")[0] for each in moves] == [
        *("student", "student", "before", "before", "teacher", "teacher"),
        *("student", "speaks", "student"),
    ]
    plain = evaluate(
        samples(),
        EvaluateRecipe(),
        FACTS,
        student,
        before=lambda: tiny_student(3),
        teacher=lambda: teacher,
    )
    assert told.after == plain.after
    assert told.before == plain.before


def test_a_gpu_that_is_too_small_leaves_the_measuring_to_the_cpu(
    student: Any, teacher: Any
) -> None:
    moves: list[str] = []
    heard: list[str] = []

    class Listener(Silent):
        def say(self, sentence: str) -> None:
            heard.append(sentence)

    told = measure_all(
        {"it": Removed(student, "student", moves, fits=False)},
        [sample()],
        teacher=teacher,
        progress=Listener(),
        device=torch.device("cuda"),
    )
    assert told["it"] == measure(student, [sample()], teacher=teacher)
    assert moves == ["student to cuda", "student to cpu", "student to cpu", "student to cpu"]
    assert len(heard) == 1
    assert "made on the CPU" in heard[0]


def test_a_measured_model_can_still_be_trained(student: Any) -> None:
    one = copy.deepcopy(student)
    measure(one, [sample()], teacher=student)
    one(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(weight.grad is not None for weight in one.parameters())


def test_a_student_of_nan_is_refused() -> None:
    broken = tiny_student()
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(DistillError, match=r"lower train\.learning_rate"):
        measure(broken, [sample()])


def test_nothing_held_out_is_said() -> None:
    with pytest.raises(DistillError, match=r"raise evaluate\.held_out"):
        measure(tiny_student(), [])
    with pytest.raises(DistillError, match=r"raise evaluate\.held_out"):
        evaluate([sample(held_out=False)], EvaluateRecipe(), FACTS, tiny_student())


def samples() -> list[Sample]:
    kinds = ("chat", "tools", "thinking")
    return [
        sample(f"{place:02x}-0", kind=kinds[place % 3], held_out=place % 2 == 0, seed=place)
        for place in (7, 4, 1, 0, 2, 6, 3, 5)
    ]


def test_an_evaluation_says_before_and_after_on_the_held_out_samples(
    student: Any, teacher: Any
) -> None:
    told = evaluate(
        samples(),
        EvaluateRecipe(max_samples=3),
        FACTS,
        student,
        before=lambda: tiny_student(3),
        teacher=lambda: teacher,
    )
    assert [row.id for row in told.after.rows] == ["00-0", "02-0", "04-0"]
    assert told.before
    assert told.relative_kl
    assert told.relative_kl.value == pytest.approx(
        sum(row.kl for row in told.after.rows) / sum(row.kl for row in told.before.rows)
    )
    assert sum(each.trained for each in told.counts) == 4
    assert sum(each.held_out for each in told.counts) == 4
    assert sum(each.answer_tokens for each in told.counts) == 80
    assert sum(each.trained_tokens for each in told.counts) == 40
    assert told.run.machine
    assert told.run.date
    assert {"python", "torch", "transformers"} <= set(told.run.versions)


def test_the_same_samples_are_chosen_in_any_order(student: Any) -> None:
    recipe = EvaluateRecipe(max_samples=3)
    one = evaluate(samples(), recipe, FACTS, student)
    two = evaluate(reversed(samples()), recipe, FACTS, student)
    assert one.samples_digest == two.samples_digest
    assert one.after == two.after


def test_the_student_answers_some_of_each_kind(student: Any) -> None:
    heard: list[str] = []

    def speak(chosen: Any) -> list[Any]:
        heard.extend(each.kind for each in chosen)
        return []

    held = [dataclasses.replace(each, held_out=True) for each in samples()]
    evaluate(held, EvaluateRecipe(generate=4), FACTS, student, speak=speak)
    assert heard == ["chat", "tools", "thinking", "chat"]


def test_runs_with_the_same_samples_stand_beside_each_other(student: Any, tmp_path: Path) -> None:
    recipe = EvaluateRecipe(max_samples=3)
    held = [dataclasses.replace(each, held_out=True) for each in samples()]
    stored = [dataclasses.replace(sample(each.id, k=4), kind=each.kind) for each in held]
    other = evaluate(stored, recipe, dataclasses.replace(FACTS, name="theirs"), tiny_student(5))
    other.write(tmp_path / "evaluation.json")
    ours = evaluate(stored, recipe, FACTS, student, beside=[tmp_path])
    (theirs,) = ours.beside
    assert (theirs.run.name, theirs.kl) == ("theirs", other.after.kl)
    assert theirs.kl_difference
    assert other.after.kl
    assert ours.after.kl
    assert theirs.kl_difference.value == pytest.approx(other.after.kl.value - ours.after.kl.value)


def test_a_run_with_other_samples_is_refused_before_anything_is_measured(
    student: Any, tmp_path: Path
) -> None:
    other = evaluate([sample("bb-0", seed=9)], EvaluateRecipe(), FACTS, student)
    other.write(tmp_path / "evaluation.json")

    def never() -> Any:
        raise AssertionError("a model was opened")

    with pytest.raises(DistillError, match="measured with other held-out samples"):
        evaluate([sample()], EvaluateRecipe(), FACTS, student, before=never, beside=[tmp_path])


def test_a_run_that_was_compared_over_something_else_is_refused_before_anything_is_measured(
    student: Any, tmp_path: Path
) -> None:
    held = [sample(k=4)]
    evaluate(held, EvaluateRecipe(), FACTS, student).write(tmp_path / "evaluation.json")

    def never() -> Any:
        raise AssertionError("a model was opened before the runs were compared")

    with pytest.raises(DistillError, match="evaluate both on a machine that has the teacher"):
        evaluate(held, EvaluateRecipe(), FACTS, student, teacher=never, beside=[tmp_path])


def test_an_evaluation_is_read_as_it_was_written(
    student: Any, teacher: Any, tmp_path: Path
) -> None:
    file = tmp_path / "evaluation.json"
    told = evaluate(samples(), EvaluateRecipe(), FACTS, student, teacher=lambda: teacher)
    told.write(file)
    assert Evaluation.read(file) == told
