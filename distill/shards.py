"""Samples on the disk: Parquet files that are written once and never touched again.

Comes in: samples, those of one task together. Goes out: the same, in the order in which they were
written. A shard is whole or not there: it is written beside its place, forced to the disk and then
named, and its name holds its SHA-256. Whatever a kill interrupts leaves no half of a task and no
sample twice. It refuses to know who answered and how samples are trained on.

docs/samples.md describes the record.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DistillError
from .prompts.base import Task
from .prompts.wire import (
    conversation_from_json,
    conversation_to_json,
    message_from_json,
    message_to_json,
    whole_letters,
)
from .samples import Sample

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "1"
"""Raised when a reader of the old record would misread the new one."""
LEFT_OUT = "left-out.jsonl"
"""Tasks that gave no sample, one a line, so that nobody asks them again."""

_NAME = re.compile(r"(\d{5,})-([0-9a-f]{16})\.parquet")
_PARTIAL = ".partial"


class ShardStore:
    """The samples in one folder, which only one process may write to at a time."""

    def __init__(self, folder: Path, shard_samples: int = 256) -> None:
        self._folder = folder
        self._shard_samples = max(1, shard_samples)
        self._waiting: list[Sample] = []
        self._waiting_ids: set[str] = set()
        self._left_waiting: dict[str, str] = {}
        self._known: set[str] | None = None

    def ids(self) -> set[str]:
        """Those of all samples, also of those that wait to be written. Raises DistillError for a
        damaged shard."""
        return self._ids() | self._waiting_ids

    def left_out(self) -> dict[str, str]:
        """The tasks that gave no sample, and why."""
        try:
            lines = (self._folder / LEFT_OUT).read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            lines = []
        told = {}
        for line in lines:
            try:
                entry = json.loads(line)
                told[str(entry["id"])] = str(entry["why"])
            except (ValueError, KeyError, TypeError):  # a kill in the middle of the line
                continue
        return told | self._left_waiting

    def append(self, samples: Sequence[Sample]) -> None:
        """Those of one task, which reach the disk together; known ones are passed over. Raises
        DistillError when the disk takes no more."""
        known = self._ids()
        for each in samples:
            if each.id not in known and each.id not in self._waiting_ids:
                self._waiting.append(each)
                self._waiting_ids.add(each.id)
        if len(self._waiting) >= self._shard_samples:
            self.flush()

    def leave_out(self, task: str, why: str) -> None:
        self._left_waiting[task] = why

    def flush(self) -> None:
        """All that waits is on the disk when this returns. Raises DistillError."""
        if not self._waiting and not self._left_waiting:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            if self._waiting:
                self._write_shard()
            # As long as there is no sample at all, something else than the tasks is wrong.
            if self._left_waiting and self._ids():
                self._write_left_out()
        except OSError as problem:
            raise DistillError(_disk_sentence(problem, self._folder)) from problem

    def samples(
        self, held_out: bool | None = None, *, tasks: Sequence[Task] | None = None
    ) -> Iterator[Sample]:
        """What is on the disk; only the held out, or only the others, if asked. Given `tasks`, of
        these alone, and they say what is held out: prompts that were gathered anew may have changed
        sides since they were answered. Raises DistillError for a damaged shard."""
        sides = None if tasks is None else {task.id: task.held_out for task in tasks}
        for shard in self._shards():
            for sample in _samples(_table(shard), shard):
                if sides is not None:
                    side = sides.get(_task_of(sample.id))
                    if side is None:
                        continue
                    sample = sample if sample.held_out is side else replace(sample, held_out=side)
                if held_out is None or sample.held_out is held_out:
                    yield sample

    def _shards(self) -> list[Path]:
        try:
            found = [each for each in self._folder.iterdir() if _NAME.fullmatch(each.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found, key=lambda shard: (_number(shard), shard.name))

    def _ids(self) -> set[str]:
        if self._known is None:
            self._known = set()
            for shard in self._shards():
                self._known.update(_table(shard).column("id").to_pylist())
        return self._known

    def _sweep(self) -> None:
        """Removes what a kill left half-written."""
        for partial in self._folder.glob(f".*{_PARTIAL}"):
            partial.unlink(missing_ok=True)

    def _write_shard(self) -> None:
        content = _bytes(self._waiting)
        number = max((_number(shard) for shard in self._shards()), default=-1) + 1
        name = f"{number:05d}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        partial = self._folder / f".{name}{_PARTIAL}"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._folder / name)
            _sync(self._folder)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._ids().update(self._waiting_ids)
        self._waiting.clear()
        self._waiting_ids.clear()

    def _write_left_out(self) -> None:
        """Appended: half a line at its end, from a kill, is ended first and passed over after."""
        lines = [json.dumps({"id": task, "why": why}) for task, why in self._left_waiting.items()]
        with (self._folder / LEFT_OUT).open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))
            file.flush()
            os.fsync(file.fileno())
        self._left_waiting.clear()


def _task_of(sample: str) -> str:
    return sample.rpartition("-")[0]


def _number(shard: Path) -> int:
    return int(shard.name.partition("-")[0])


def _sync(folder: Path) -> None:
    """The new name is on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_sentence(problem: OSError, folder: Path) -> str:
    kept = "what was stored before is kept, so make room and run the same command again"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"There is no room for more samples in {folder}: {kept}."
    reason = problem.strerror or str(problem)
    return f"Samples cannot be written to {folder} ({reason}): {kept}."


def _bytes(samples: Sequence[Sample]) -> bytes:
    """A Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {field.name: _column(field.name, field.type, samples) for field in _schema()},
        schema=_schema(),
    )
    sink = io.BytesIO()
    # Floats hardly repeat, so a dictionary of them only costs time.
    words = ["kind", "source"]
    pq.write_table(table, sink, compression="zstd", use_dictionary=words)
    return sink.getvalue()


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("kind", pa.string()),
            ("source", pa.string()),
            ("held_out", pa.bool_()),
            ("conversation", pa.string()),
            ("answer", pa.string()),
            ("token_ids", pa.list_(pa.int32())),
            ("loss_mask", pa.list_(pa.bool_())),
            ("top_k", pa.int32()),
            ("top_ids", pa.list_(pa.int32())),
            ("top_logprobs", pa.list_(pa.float32())),
            ("tail", pa.list_(pa.float32())),
        ],
        metadata={"senryu.samples": FORMAT},
    )


def _column(name: str, kind: pa.DataType, samples: Sequence[Sample]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    match name:
        case "conversation":
            return pa.array([_json(conversation_to_json(each.conversation)) for each in samples])
        case "answer":
            return pa.array([_json(message_to_json(each.answer)) for each in samples])
        case "top_k":
            return pa.array([each.top_ids.shape[1] for each in samples], kind)
        case "id" | "kind" | "source" | "held_out":
            return pa.array([whole_letters(getattr(each, name)) for each in samples], kind)
    rows = [getattr(each, name).reshape(-1) for each in samples]
    ends = np.cumsum([0, *map(len, rows)])
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(np.concatenate(rows), kind.value_type)
    )


def _json(value: Any) -> str:
    return json.dumps(whole_letters(value), ensure_ascii=False, separators=(",", ":"))


def _table(shard: Path) -> pa.Table:
    """What a shard holds, once its bytes are those that were written. Raises DistillError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = shard.read_bytes()
    except OSError as problem:
        raise _damaged(shard, f"it cannot be read, {problem.strerror}") from problem
    named = _NAME.fullmatch(shard.name)
    if not named or hashlib.sha256(content).hexdigest()[:16] != named[2]:
        raise _damaged(shard, "its bytes are not those that were written")
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as problem:
        raise _damaged(shard, str(problem)) from problem
    written = (table.schema.metadata or {}).get(b"senryu.samples", b"none").decode()
    if written != FORMAT or table.schema.names != _schema().names:
        raise _damaged(shard, f"its format is {written}, this senryu reads {FORMAT}")
    return table


def _damaged(shard: Path, why: str) -> DistillError:
    return DistillError(
        f"The shard {shard} is damaged ({why}): delete it, and its samples are collected again."
    )


def _samples(table: pa.Table, shard: Path) -> Iterator[Sample]:
    columns = {name: _values(table.column(name)) for name in table.schema.names}
    for row in range(table.num_rows):
        values: dict[str, Any] = {name: column[row] for name, column in columns.items()}
        width = values.pop("top_k")
        for name in ("top_ids", "top_logprobs"):
            values[name] = values[name].reshape(-1 if width else len(values["tail"]), width)
        try:
            conversation = conversation_from_json(json.loads(values.pop("conversation")))
            answer = message_from_json(json.loads(values.pop("answer")))
        except (KeyError, TypeError, ValueError) as problem:
            raise _damaged(shard, f"{type(problem).__name__}: {problem}") from problem
        yield Sample(conversation=conversation, answer=answer, **values)


def _values(column: Any) -> Sequence[Any]:
    """The values of a column: of lists, one array each."""
    import pyarrow as pa

    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # which combines to none when it is empty
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    if not pa.types.is_list(whole.type):
        values: list[Any] = whole.to_pylist()
        return values
    flat = whole.values.to_numpy(zero_copy_only=False)
    ends = whole.offsets.to_numpy()
    return [flat[start:end] for start, end in itertools.pairwise(ends)]


def tail_of(logprobs: Any) -> Any:
    """float32 [n]: what is left of each row's probability for the tokens that are not stored."""
    import numpy as np

    stored = np.exp(np.asarray(logprobs, np.float64)).sum(axis=-1)
    return np.clip(1.0 - stored, 0.0, 1.0).astype(np.float32)
