"""Prompts from a JSONL or Parquet file (`kind = "file"`).

Comes in: rows with `prompt`, or with `messages`; `system` and `tools` may stand beside either, in
the form of the Messages API. Goes out: tasks in the file's order. A row that cannot be used stops
the run with its number, for the file is the user's own and can be put right. It refuses to know
what becomes of the tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from senryu.distill.errors import DistillError
from senryu.distill.recipe import FileSource

from .base import Task
from .making import make_task
from .reading import Unreadable, read_row, without_nulls


def from_file(source: FileSource) -> Iterator[Task]:
    """Raises DistillError."""
    path = Path(source.path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DistillError(
            f"The prompts {path} are of no kind that is read here: give a file that ends in "
            f"{' or '.join(_READERS)}."
        )
    for place, row in islice(read(path), source.count):
        try:
            asked = read_row(row)
        except Unreadable as problem:
            raise DistillError(f"{path}, {place} cannot be used: {problem}.") from None
        yield make_task(asked.conversation, source=f"file {path.name}")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, counted from 1. Raises DistillError."""
    try:
        with path.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DistillError(f"There is no file {path}: correct its path in the recipe.") from None
    except OSError as problem:
        raise DistillError(f"The file {path} cannot be read: {problem.strerror}.") from problem


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import orjson  # it refuses what no request may hold either: lone surrogates, NaN

    for number, line in lines(path):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as problem:
            raise DistillError(f"{path}, line {number} is not valid JSON: {problem}.") from None
        if not isinstance(row, dict):
            raise DistillError(
                f"{path}, line {number} is not a JSON object: write one object a line, such as "
                '{"prompt": "..."}.'
            )
        yield f"line {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            known = ("prompt", "messages", "system", "tools")
            columns = [name for name in opened.schema_arrow.names if name in known]
            for batch in opened.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", without_nulls(row)
    except FileNotFoundError:
        raise DistillError(f"There is no file {path}: correct its path in the recipe.") from None
    except (OSError, pyarrow.ArrowException) as problem:
        raise DistillError(f"The file {path} cannot be read as Parquet: {problem}.") from problem


_READERS = {".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows}
