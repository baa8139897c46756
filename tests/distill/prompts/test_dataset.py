"""Prompts of a Hugging Face dataset; here one in a local folder, for tests have no network."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.dataset import from_dataset
from senryu.distill.recipe import DatasetSource


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left in the cache of the person who runs the tests, and nobody is asked."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def source(folder: Path, **others: Any) -> DatasetSource:
    return DatasetSource(kind="dataset", name=str(folder), **others)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_a_column_of_texts(folder: Path) -> None:
    """From Parquet; the first so many of them."""
    asks = ["Why is the sky blue?", "Who was Ada?", "What is rain?"]
    pq.write_table(pa.table({"question": asks}), folder / "train.parquet")
    tasks = list(from_dataset(source(folder, column="question", count=2), Counter()))
    assert [task.conversation.messages[0].text for task in tasks] == asks[:2]
    assert tasks[0].source == f"dataset {folder}"


def test_a_column_of_messages(folder: Path) -> None:
    """From JSONL; the answer in it is left out, and its system prompt is one."""
    talk = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]
    (folder / "train.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    (task,) = from_dataset(source(folder, column="messages"), Counter())
    assert task.conversation.system_text == "Be short."
    assert [message.text for message in task.conversation.messages] == ["Why?"]


def test_rows_that_cannot_be_used_are_counted(folder: Path) -> None:
    """Others wrote them: they cost themselves and not the run."""
    pq.write_table(pa.table({"prompt": ["Why?", "", None]}), folder / "train.parquet")
    tally: Counter[str] = Counter()
    assert len(list(from_dataset(source(folder), tally))) == 1
    assert tally["unreadable"] == 2


def test_without_one_usable_row_it_stops(folder: Path) -> None:
    pq.write_table(pa.table({"prompt": [1, 2]}), folder / "train.parquet")
    with pytest.raises(DistillError, match="No row of the dataset"):
        list(from_dataset(source(folder), Counter()))


def test_another_column_is_suggested(folder: Path) -> None:
    pq.write_table(pa.table({"question": ["Why?"]}), folder / "train.parquet")
    with pytest.raises(DistillError, match="no column 'prompt': name one of question"):
        list(from_dataset(source(folder), Counter()))


def test_a_split_that_is_not_there_is_one_sentence(folder: Path) -> None:
    pq.write_table(pa.table({"prompt": ["Why?"]}), folder / "train.parquet")
    with pytest.raises(DistillError, match=r"cannot be loaded .*: correct the recipe's subset"):
        list(from_dataset(source(folder, split="dev"), Counter()))


def test_without_the_hub_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library raises, and however many lines it takes for it."""

    def offline(*asked: Any, **more: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub:\n  offline mode is enabled.")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DistillError) as refused:
        list(from_dataset(DatasetSource(kind="dataset", name="someone/prompts"), Counter()))
    said = str(refused.value)
    assert "someone/prompts cannot be loaded (Couldn't reach the Hub: offline mode" in said
    assert "give a local folder." in said
    assert "\n" not in said
