"""DPO moves the student towards what was preferred, by its own words alone, and leaves it a plain
model."""

import copy
from typing import Any

import pytest
import torch
from tiny_student import asked, byte_tokenizer, dialect, tiny_student
from torch.nn.functional import logsigmoid

from senryu.distill.errors import DistillError
from senryu.distill.recipe import RefineRecipe
from senryu.distill.refine.dpo import _on_one_gpu, prefer, refuse_processes
from senryu.distill.refine.pairs import Pair
from senryu.distill.speak import Question, Speaker

RECIPE = RefineRecipe(constitution="packaged", steps=6, batch=2, learning_rate=1e-3, beta=0.1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def pairs(tokenizer: Any) -> list[Pair]:
    """The rejected ones were cut: they have no end, and must not get one."""
    speaker = Speaker(tiny_student(), tokenizer, dialect())
    made = []
    for number in range(4):
        question = Question.of(asked(f"<|im_end|> {number}?"), thinking=False)
        prompt = tuple(speaker.prompt(question).token_ids)
        chosen = (*(60 + number, 61, 62), 256)
        made.append(
            Pair(
                id=str(number),
                prompt_ids=prompt,
                chosen_ids=chosen,
                rejected_ids=(70, 71, 72 + number, 73, 74),
                chosen="a",
                rejected="b",
                reason="",
            )
        )
    return made


def worth(model: Any, pair: Pair, ids: tuple[int, ...]) -> torch.Tensor:
    """The log-probability of an answer behind its prompt."""
    whole = torch.tensor([[*pair.prompt_ids, *ids]])
    told = model(whole).logits.log_softmax(-1)[0, len(pair.prompt_ids) - 1 : -1]
    return told.gather(-1, torch.tensor(ids)[:, None]).sum()


def gains(model: Any, before: Any, pair: Pair) -> tuple[float, float]:
    with torch.inference_mode():
        return tuple(
            float(worth(model, pair, ids) - worth(before, pair, ids))
            for ids in (pair.chosen_ids, pair.rejected_ids)
        )


def test_the_preferred_answers_gain_on_the_others(tokenizer: Any, pairs: list[Pair]) -> None:
    student = tiny_student()
    before = copy.deepcopy(student)
    told = prefer(student, tokenizer, pairs, RECIPE, seed=1)
    assert (told.pairs, told.steps) == (4, 6)
    assert told.last_loss < told.first_loss
    assert told.margin > 0
    assert told.accuracy == 1.0
    for pair in pairs:
        chosen, rejected = gains(student, before, pair)
        assert chosen > rejected


def test_a_step_is_the_papers_own(tokenizer: Any, pairs: list[Pair]) -> None:
    """One step equals AdamW on minus log sigmoid of beta times the difference of gains, with the
    prompt outside and each token as it was written."""
    import dataclasses

    ours, theirs = tiny_student(), tiny_student()
    recipe = dataclasses.replace(RECIPE, steps=1, batch=len(pairs))
    told = prefer(theirs, tokenizer, pairs, recipe, seed=1)
    frozen = copy.deepcopy(ours)
    gaps = [
        worth(ours, each, each.chosen_ids)
        - worth(frozen, each, each.chosen_ids).detach()
        - worth(ours, each, each.rejected_ids)
        + worth(frozen, each, each.rejected_ids).detach()
        for each in pairs
    ]
    loss = -logsigmoid(RECIPE.beta * torch.stack(gaps)).mean()
    assert told.first_loss == pytest.approx(float(loss.detach()), abs=1e-4)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=RECIPE.learning_rate, weight_decay=0.0)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
    optimizer.step()
    start = tiny_student()
    for mine, its, was in zip(
        ours.parameters(), theirs.parameters(), start.parameters(), strict=True
    ):
        # Where the gradient is next to nothing, Adam's first step has the sign of rounding.
        assert ((mine - its).abs() < 1e-4).float().mean() > 0.98
        assert not torch.equal(its, was)


def test_what_comes_back_is_a_plain_model(tokenizer: Any, pairs: list[Pair], tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    student, fresh = tiny_student(), tiny_student()
    pad = tokenizer.pad_token
    prefer(student, tokenizer, pairs, RECIPE, seed=1)
    assert student.config.to_dict() == fresh.config.to_dict()
    assert student.generation_config.to_dict() == fresh.generation_config.to_dict()
    assert "forward" not in student.__dict__
    assert tokenizer.pad_token == pad
    assert student.training == fresh.training
    assert all(weight.requires_grad and weight.grad is None for weight in student.parameters())
    assert not getattr(student, "model_tags", None)
    student.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, student(ids).logits)


def test_the_same_seed_makes_the_same_student(tokenizer: Any, pairs: list[Pair]) -> None:
    students = [tiny_student(), tiny_student()]
    for student in students:
        prefer(student, tokenizer, pairs, RECIPE, seed=3)
    for one, other in zip(*(student.parameters() for student in students), strict=True):
        assert torch.equal(one, other)


def test_nothing_is_reported_to_anybody(
    tokenizer: Any, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """TRL counts who uses it, over the network, unless it is told not to."""
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("somebody was called")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    prefer(tiny_student(), tokenizer, pairs, RECIPE, seed=1)
    assert not list(tmp_path.iterdir())


def test_progress_counts_the_steps(tokenizer: Any, pairs: list[Pair]) -> None:
    class Counter:
        units = finished = 0

        def say(self, sentence: str) -> None: ...
        def stage(self, name: str) -> None: ...
        def begin(self, units: int) -> None:
            self.units = units

        def done(self, detail: str = "") -> None:
            self.finished += 1

    counter = Counter()
    prefer(tiny_student(), tokenizer, pairs, RECIPE, seed=1, progress=counter)
    assert (counter.units, counter.finished) == (6, 6)


def test_no_pairs_are_nothing_to_refine_by(tokenizer: Any) -> None:
    with pytest.raises(DistillError, match="no preference pairs"):
        prefer(tiny_student(), tokenizer, [], RECIPE, seed=1)


def test_nan_is_said_and_the_student_not_kept(tokenizer: Any, pairs: list[Pair]) -> None:
    broken = tiny_student()
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(DistillError, match=r"lower refine\.learning_rate"):
        prefer(broken, tokenizer, pairs, RECIPE, seed=1)


def test_several_processes_are_refused_before_any_work(
    tokenizer: Any, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistillError, match="or run without torchrun"):
        refuse_processes()
    with pytest.raises(DistillError, match="or run without torchrun"):
        prefer(tiny_student(), tokenizer, pairs, RECIPE, seed=1)


@pytest.mark.parametrize(("seen", "used"), [(0, 0), (1, 1), (4, 1)])
def test_of_several_gpus_one_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, seen: int, used: int
) -> None:
    """The batch stays what the recipe says."""
    from trl import DPOConfig

    config = DPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=2
    )
    assert config.n_gpu == 0
    config._n_gpu = seen
    _on_one_gpu(config)
    assert (config.n_gpu, config.train_batch_size) == (used, 2)
