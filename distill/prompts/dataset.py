"""Prompts from a Hugging Face dataset, by its id or from a local folder (`kind = "dataset"`).

Comes in: a dataset with a column that holds each prompt's text or a list of messages. Goes out:
tasks in its order. Rows that cannot be used are counted and passed over, for others wrote them;
a dataset that cannot be had at all is one sentence. It refuses to know what becomes of the tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import DatasetSource

from .base import Task
from .making import make_task
from .reading import Unreadable, read_row, without_nulls


def from_dataset(source: DatasetSource, tally: Counter[str]) -> Iterator[Task]:
    """`tally["unreadable"]` counts the rows that were passed over. Raises DistillError."""
    rows = _loaded(source)
    if source.column not in rows.column_names:
        raise DistillError(
            f"The dataset {source.name} has no column {source.column!r}: name one of "
            f"{', '.join(rows.column_names)} in the recipe."
        )
    used = 0
    for told in islice(rows.select_columns([source.column]), source.count):
        try:
            asked = read_row(_row(told[source.column]))
        except Unreadable:
            tally["unreadable"] += 1
            continue
        used += 1
        yield make_task(asked.conversation, source=f"dataset {source.name}")
    if not used:
        raise DistillError(
            f"No row of the dataset {source.name} can be used: the column {source.column!r} must "
            "hold a text, or a list of messages with role and content."
        )


def _row(told: Any) -> dict[str, Any]:
    return {"prompt": told} if isinstance(told, str) else {"messages": without_nulls(told)}


def _loaded(source: DatasetSource) -> Any:
    import datasets

    # The library raises errors of its own, of the hub's client, of httpx, of pyarrow and of the
    # operating system for the same few causes.
    try:
        return datasets.load_dataset(source.name, source.subset, split=source.split)
    except Exception as problem:
        said = " ".join(str(problem).split()) or type(problem).__name__
        raise DistillError(
            f"The dataset {source.name} cannot be loaded ({said[:300].rstrip('.')}): "
            + (
                "correct the recipe's subset and split."
                if Path(source.name).is_dir()
                else "check its id and the connection to the hub, or give a local folder."
            )
        ) from problem
