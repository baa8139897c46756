"""The model card is what hubs read, and says nothing that nobody told it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from senryu.distill.card import render, write_card
from senryu.distill.evaluation import Count, Evaluation, Measures, Row, RunFacts
from senryu.distill.recipe import (
    DatasetSource,
    FileSource,
    Recipe,
    RequestsSource,
    SelfSource,
    StudentRecipe,
    TeacherRecipe,
    ToolsSource,
)
from senryu.server.manifest import Manifest, record_files

FACTS = RunFacts(
    name="ours",
    student="senryu/tiny",
    teacher="SmolLM2 135M Instruct (maker/SmolLM2-135M)",
    licence="Apache-2.0",
    terms="The licence\nallows <it>.",
    loss="forward-kl",
    tokens_trained=123_456,
    train_seconds=700.0,
    parameters=64_000_000,
    machine="a machine",
    versions={"torch": "2.13.0"},
    date="2026-11-22T06:00:00+00:00",
)
ROW = Row(id="a", kind="chat", tokens=10, surprise=20.0, compared=10, kl=10.0)
EVALUATION = Evaluation(
    run=FACTS,
    samples_digest="d",
    after=Measures(rows=(ROW,), over="vocabulary"),
    before=Measures(rows=(dataclasses.replace(ROW, kl=40.0),), over="vocabulary"),
)


def recipe(**changed: Any) -> Recipe:
    teacher = TeacherRecipe(licence="Apache-2.0", allows_training=True, terms="It says so.")
    return dataclasses.replace(Recipe(teacher=teacher), **changed)


def card(evaluation: Evaluation = EVALUATION, **changed: Any) -> Any:
    return ModelCard(render(evaluation, recipe(**changed)))


def test_hubs_read_its_front_matter() -> None:
    told = card().data
    assert told.license == "apache-2.0"
    assert told.base_model == "maker/SmolLM2-135M"
    assert told.pipeline_tag == "text-generation"
    assert {"senryu", "distillation", "loss:forward-kl"} <= set(told.tags)


def test_a_licence_that_hubs_do_not_know_is_named_beside_other() -> None:
    odd = dataclasses.replace(FACTS, licence="Tiny Model Licence 2.0")
    told = card(dataclasses.replace(EVALUATION, run=odd)).data
    assert (told.license, told.license_name) == ("other", "tiny-model-licence-2.0")


@pytest.mark.parametrize(
    ("student", "teacher", "base"),
    [
        (StudentRecipe(shape="scratch"), "maker/big", None),
        (StudentRecipe(shape="layerwise"), "maker/big", None),
        (StudentRecipe(shape="model", model="maker/small"), "maker/big", "maker/small"),
        (StudentRecipe(shape="model", model="models/somewhere/here"), "maker/big", None),
        (StudentRecipe(shape="depth"), "maker/big", "maker/big"),
    ],
)
def test_the_base_model_is_what_the_weights_began_with(
    student: StudentRecipe, teacher: str, base: str | None
) -> None:
    named = TeacherRecipe(
        licence="Apache-2.0", allows_training=True, terms="It says so.", model=teacher
    )
    assert card(student=student, teacher=named).data.base_model == base


def test_figures_licence_terms_and_making_are_in_it() -> None:
    told = card().text
    for words in (
        "| KL to the teacher, nats a token | 4.000 (interval not known) | "
        "1.000 (interval not known) |",
        "KL after over KL before: 0.250",
        "The teacher's licence is Apache-2.0.",
        "allows &lt;it>.",
        "123,456 tokens in 11.7 min",
        "64,000,000 parameters.",
        "Tool calls were not measured.",
        "Its safety was not measured.",
        "400 that the teacher wrote itself",
    ):
        assert words in told


def test_it_counts_the_tokens_that_were_trained_on() -> None:
    count = Count(
        source="self",
        kind="chat",
        trained=900,
        held_out=100,
        prompt_tokens=5000,
        answer_tokens=70_000,
        trained_tokens=63_000,
    )
    told = card(dataclasses.replace(EVALUATION, counts=(count,))).text
    assert "900 samples, with 63,000 tokens that the teacher wrote." in told


def test_of_a_shared_layer_it_says_that_copies_are_counted() -> None:
    shared = StudentRecipe(shape="shared-ffn")
    assert "- 64,000,000 parameters as stored, copies counted.\n" in card(student=shared).text
    of = dataclasses.replace(FACTS, teacher_parameters=134_500_000)
    told = card(dataclasses.replace(EVALUATION, run=of), student=shared).text
    assert "as stored, copies counted, of the teacher's 134,500,000." in told


def test_a_student_of_text_alone_says_so() -> None:
    teacher = TeacherRecipe(
        licence="MIT", allows_training=True, terms="Yes.", api="messages", url="x"
    )
    rows = (dataclasses.replace(ROW, compared=0, kl=0.0),)
    bare = dataclasses.replace(EVALUATION, after=Measures(rows=rows, over="nothing"), before=None)
    told = card(bare, teacher=teacher).text
    assert "from the teacher's text alone" in told
    assert "| KL to the teacher, nats a token | not measured | not known |" in told
    assert "KL after over" not in told


def test_sources_are_named_without_paths_of_the_machine(tmp_path: Path) -> None:
    sources = (
        SelfSource(kind="self", count=12),
        FileSource(kind="file", path=str(tmp_path / "asked.jsonl")),
        DatasetSource(kind="dataset", name="maker/questions"),
        DatasetSource(kind="dataset", name=str(tmp_path / "local")),
        RequestsSource(kind="requests", path=str(tmp_path / "log.jsonl"), opt_in=True),
        ToolsSource(kind="tools", path="packaged", count=5, results="teacher"),
    )
    told = card(prompts=sources).text
    assert str(tmp_path) not in told
    for words in (
        "12 that",
        "asked.jsonl",
        "maker/questions",
        "local",
        "log.jsonl",
        "the packaged tools;",
    ):
        assert words in told


def test_it_stands_in_the_folder_and_in_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    manifest = Manifest(
        model_id="senryu/tiny",
        display_name="tiny",
        source="here",
        licence=None,
        scheme="bf16",
        group_size=None,
        parameters=None,
        created_at=None,
        files=record_files(tmp_path),
    )
    manifest.write(tmp_path)
    for text in ("one", "another"):
        write_card(tmp_path, text)
        told = Manifest.read(tmp_path)
        assert told
        assert set(told.files) == {"weights", "README.md"}
        told.verify(tmp_path)
    assert (tmp_path / "README.md").read_text() == "another"


def test_a_folder_without_a_manifest_gets_a_card_too(tmp_path: Path) -> None:
    write_card(tmp_path, "it")
    assert [each.name for each in tmp_path.iterdir()] == ["README.md"]
