"""Prompts of a file come in its order, and what is wrong in it is named by its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from senryu.distill.errors import DistillError
from senryu.distill.prompts.files import from_file
from senryu.distill.recipe import FileSource

Jsonl = Callable[..., Path]
TOOL = {
    "name": "weather",
    "description": "Looks outside.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def source(file: Path, count: int | None = None) -> FileSource:
    return FileSource(kind="file", path=str(file), count=count)


def test_a_row_is_a_prompt_or_a_conversation(jsonl: Jsonl) -> None:
    """Both kinds may stand in one file; other keys are nobody's business."""
    talk = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
        {"role": "user", "content": "Rain in Bergen?"},
    ]
    file = jsonl(
        {"prompt": "Why is the sky blue?", "id": 7},
        "",
        {"messages": talk, "system": "Be short.", "tools": [TOOL]},
    )
    plain, tools = from_file(source(file))
    assert (plain.kind, plain.source) == ("chat", "file prompts.jsonl")
    assert plain.conversation.messages[0].text == "Why is the sky blue?"
    assert tools.kind == "tools"
    assert tools.conversation.system_text == "Be short."
    assert [tool.name for tool in tools.conversation.tools] == ["weather"]
    assert [message.role for message in tools.conversation.messages] == [
        "user",
        "assistant",
        "user",
    ]


def test_the_first_so_many_rows(jsonl: Jsonl) -> None:
    """What lies behind them is not even read."""
    file = jsonl({"prompt": "One?"}, {"prompt": "Two?"}, "no JSON")
    assert len(list(from_file(source(file, count=2)))) == 2


def test_parquet_gives_the_same_tasks(jsonl: Jsonl, tmp_path: Path) -> None:
    """Also where its columns fill up the keys that a block does not have."""
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Bergen"}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "rain"}
    rows: list[dict[str, Any]] = [
        {"prompt": "Why is the sky blue?", "messages": None, "tools": None},
        {
            "prompt": None,
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Rain in Bergen?"}]},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]},
            ],
            "tools": [TOOL],
        },
    ]
    table = tmp_path / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    of_table = [task.id for task in from_file(source(table))]
    assert of_table == [task.id for task in from_file(source(jsonl(*rows)))]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"prompt": ""}, "line 2 cannot be used: its prompt is empty"),
        ({"text": "Hello"}, "line 2 cannot be used: it has neither messages nor a prompt"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2 cannot be used: messages.0"),
        ('{"prompt": "\\ud800"}', "line 2 is not valid JSON"),
    ],
)
def test_a_bad_row_is_named_by_its_line(jsonl: Jsonl, row: Any, said: str) -> None:
    with pytest.raises(DistillError, match=said):
        list(from_file(source(jsonl({"prompt": "Good?"}, row))))


def test_a_bad_row_of_a_table_is_named_by_its_number(tmp_path: Path) -> None:
    table = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["Good?", None]}), table)
    with pytest.raises(DistillError, match="row 2 cannot be used"):
        list(from_file(source(table)))


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(DistillError, match=r"There is no file .*none.*: correct its path"):
        list(from_file(source(tmp_path / name)))


def test_a_kind_of_file_that_is_not_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match=r"ends in \.jsonl or"):
        list(from_file(source(tmp_path / "prompts.xlsx")))


def test_a_table_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    table = tmp_path / "prompts.parquet"
    table.write_bytes(b"no table")
    with pytest.raises(DistillError, match="cannot be read as Parquet"):
        list(from_file(source(table)))


def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "prompts.jsonl"
    folder.mkdir()
    with pytest.raises(DistillError, match="cannot be read: Is a directory"):
        list(from_file(source(folder)))
