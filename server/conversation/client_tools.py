"""The tools that the Messages API defines and the client runs (contract 1.6.2).

Their entries in a request carry no schema: what such a tool does and takes is worded here, for a
model that was never trained on it, so each text says how the tool is used.
"""

from typing import Any

from senryu.server.wire import tools as wire

_Object = dict[str, Any]

ClientTool = (
    wire.BashTool
    | wire.CuttingTextEditorTool
    | wire.TextEditorTool
    | wire.OldTextEditorTool
    | wire.MemoryTool
    | wire.ComputerTool
    | wire.ZoomingComputerTool
)


def definition(entry: ClientTool) -> tuple[str, _Object]:
    """The description and the input schema that the model is shown."""
    match entry:
        case wire.BashTool():
            return _BASH, _BASH_INPUT
        case wire.CuttingTextEditorTool():
            cut = entry.max_characters
            limit = f" A file is shown up to {cut} characters." if cut is not None else ""
            return _EDITOR + limit, _EDITOR_INPUT
        case wire.TextEditorTool():
            return _EDITOR, _EDITOR_INPUT
        case wire.OldTextEditorTool():
            return _OLD_EDITOR, _OLD_EDITOR_INPUT
        case wire.MemoryTool():
            return _MEMORY, _MEMORY_INPUT
        case wire.ComputerTool() | wire.ZoomingComputerTool():
            return _computer(entry)


def _object(properties: _Object, *required: str) -> _Object:
    schema: _Object = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return schema | {"additionalProperties": False}


def _text(description: str) -> _Object:
    return {"type": "string", "description": description}


def _number(description: str, least: int = 0) -> _Object:
    return {"type": "integer", "minimum": least, "description": description}


def _one_of(values: list[str], description: str) -> _Object:
    return {"type": "string", "enum": values, "description": description}


def _numbers(count: int, description: str, least: int | None = 0) -> _Object:
    item: _Object = {"type": "integer"}
    if least is not None:
        item["minimum"] = least
    return {
        "type": "array",
        "items": item,
        "minItems": count,
        "maxItems": count,
        "description": description,
    }


_BASH = (
    "Runs a command in a bash shell and returns what it prints. The shell stays open between "
    "calls: its folder and its variables are kept. Commands that wait for input do not work. "
    "Give `command` to run something, or `restart` set to true to start a new shell when the "
    "old one hangs."
)
_BASH_INPUT: _Object = {
    "type": "object",
    "anyOf": [
        _object({"command": _text("The command line to run.")}, "command"),
        _object({"restart": {"const": True, "description": "Start a new shell."}}, "restart"),
    ],
}

_RANGE = _numbers(
    2,
    "For `view`: the first and the last line to show, counted from 1; -1 as the last means up to "
    "the end.",
    least=None,
)
_EDITOR = (
    "Looks at text files and changes them. `view` shows a file, or lists a folder; `create` "
    "writes a new file with `file_text`; `str_replace` puts `new_str` where `old_str` stands, "
    "which has to occur exactly once, white space included; `insert` puts `insert_text` behind "
    "line `insert_line`, 0 for the top of the file."
)
_OLD_EDITOR = (
    "Looks at text files and changes them. `view` shows a file, or lists a folder; `create` "
    "writes a new file with `file_text`; `str_replace` puts `new_str` where `old_str` stands, "
    "which has to occur exactly once, white space included; `insert` puts `new_str` behind line "
    "`insert_line`, 0 for the top of the file; `undo_edit` takes the last change back."
)
_PATH = _text("The file or folder.")
_EDITOR_INPUT = _object(
    {
        "command": _one_of(["view", "create", "str_replace", "insert"], "What to do."),
        "path": _PATH,
        "view_range": _RANGE,
        "file_text": _text("For `create`: the whole content of the new file."),
        "old_str": _text("For `str_replace`: the text to be replaced."),
        "new_str": _text("For `str_replace`: what stands there instead; empty to delete."),
        "insert_line": _number("For `insert`: the line behind which to insert."),
        "insert_text": _text("For `insert`: the text to insert."),
    },
    "command",
    "path",
)
_OLD_EDITOR_INPUT = _object(
    {
        "command": _one_of(["view", "create", "str_replace", "insert", "undo_edit"], "What to do."),
        "path": _PATH,
        "view_range": _RANGE,
        "file_text": _text("For `create`: the whole content of the new file."),
        "old_str": _text("For `str_replace`: the text to be replaced."),
        "new_str": _text("For `str_replace` and `insert`: the new text."),
        "insert_line": _number("For `insert`: the line behind which to insert."),
    },
    "command",
    "path",
)

_MEMORY = (
    "Keeps notes in files that outlive this conversation. All paths begin with /memories. Look "
    "there with `view` before you begin a task, and write down progress and what you learn. "
    "`view` shows a file or lists a folder; `create` writes a file; `str_replace` puts `new_str` "
    "where `old_str` stands, which has to occur exactly once; `insert` puts `insert_text` behind "
    "line `insert_line`; `delete` removes a file or folder; `rename` moves `old_path` to "
    "`new_path`."
)


def _memory_command(name: str, *optional: str, **properties: _Object) -> _Object:
    required = [key for key in properties if key not in optional]
    return _object({"command": {"const": name}, **properties}, "command", *required)


_MEMORY_PATH = _text("A path under /memories.")
_MEMORY_INPUT: _Object = {
    "type": "object",
    "anyOf": [
        _memory_command("view", "view_range", path=_MEMORY_PATH, view_range=_RANGE),
        _memory_command(
            "create", path=_MEMORY_PATH, file_text=_text("The whole content of the file.")
        ),
        _memory_command(
            "str_replace",
            path=_MEMORY_PATH,
            old_str=_text("The text to be replaced."),
            new_str=_text("What stands there instead."),
        ),
        _memory_command(
            "insert",
            path=_MEMORY_PATH,
            insert_line=_number("The line behind which to insert, 0 for the top."),
            insert_text=_text("The text to insert."),
        ),
        _memory_command("delete", path=_MEMORY_PATH),
        _memory_command("rename", old_path=_MEMORY_PATH, new_path=_MEMORY_PATH),
    ],
}

# What each version of the computer tool adds to the actions of the one before.
_FIRST_ACTIONS = [
    "screenshot",
    "left_click",
    "right_click",
    "middle_click",
    "double_click",
    "left_click_drag",
    "mouse_move",
    "cursor_position",
    "type",
    "key",
]
_LATER_ACTIONS = [
    "triple_click",
    "left_mouse_down",
    "left_mouse_up",
    "scroll",
    "hold_key",
    "wait",
]


def _computer(entry: wire.ComputerTool | wire.ZoomingComputerTool) -> tuple[str, _Object]:
    width, height = entry.display_width_px, entry.display_height_px
    first = entry.type == "computer_20241022"
    actions = _FIRST_ACTIONS if first else _FIRST_ACTIONS + _LATER_ACTIONS
    zooms = isinstance(entry, wire.ZoomingComputerTool) and bool(entry.enable_zoom)
    place = "as [x, y] in pixels from the top left corner"
    properties = {
        "action": _one_of([*actions, "zoom"] if zooms else actions, "What to do."),
        "coordinate": _numbers(2, f"Where to click, move, scroll or drag to, {place}."),
        "text": _text(
            "For `type`: the text; for `key` and `hold_key`: the keys, such as ctrl+s; for a "
            "click: a key held down meanwhile."
        ),
    }
    if not first:
        properties |= {
            "start_coordinate": _numbers(2, f"For `left_click_drag`: where it begins, {place}."),
            "duration": {
                "type": "number",
                "minimum": 0,
                "description": "For `wait` and `hold_key`: seconds.",
            },
            "scroll_direction": _one_of(["up", "down", "left", "right"], "For `scroll`."),
            "scroll_amount": _number("For `scroll`: how many clicks of the wheel."),
        }
    if zooms:
        properties["region"] = _numbers(4, "For `zoom`: what to enlarge, as [x0, y0, x1, y1].")
    description = (
        f"Uses a computer by its screen, mouse and keyboard. The screen is {width} pixels wide "
        f"and {height} high. Take a `screenshot` first and after each step, to see what is there; "
        "click in the middle of what you mean."
    )
    if entry.display_number is not None:
        description += f" This is display :{entry.display_number}."
    return description, _object(properties, "action")
