"""The layered loader of settings, for the dataclass of any room.

Order: defaults, then `senryu.toml`, then `SENRYU_*`, then flags. An unknown key is an error that
suggests the nearest name. Each room loads its own dataclass through `load`, and makes its flags
with `add_flags`.
"""

import argparse
import difflib
import os
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

ENVIRONMENT_PREFIX = "SENRYU_"
# Names with our prefix that are not settings of a room.
_NOT_SETTINGS = {"SENRYU_CACHE", "SENRYU_SERVER_PID"}
# The tables of senryu.toml, one for each room; a room reads its own.
_TABLES = ("server", "distill", "quant", "benches")
# That of an address, up to its last @: a password may have one in it.
_PASSWORD = re.compile(r"(://[^:/@]*:).*@")


class SettingsError(ValueError):
    """A setting is wrong. The text is one sentence for the user."""


Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Settings]):
    """Settings, and for each field the layer that it came from."""

    settings: Settings
    origins: Mapping[str, str]

    def lines(self) -> list[str]:
        """`name = value  # origin`, as `--print-config` shows them; keys and passwords are not
        shown, and what is left out is a comment, as TOML has no word for it."""
        lines = []
        for name, origin in self.origins.items():
            value = getattr(self.settings, name)
            if value is None:
                lines.append(f"# {name} is left out")
                continue
            secret = name.endswith(("key", "keys")) and value
            shown = "(set)" if secret else _PASSWORD.sub(r"\1***@", as_toml(value))
            lines.append(f"{name} = {shown}  # {origin}")
        return lines


def load(
    shape: type[Settings],
    *,
    table: str,
    file: Path | None = None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Loaded[Settings]:
    """Layer the four sources into one `shape`.

    `table` names the room's table in the TOML file; `file` None reads `senryu.toml` of the
    current folder if there is one. Flags that are None were not given. Raises SettingsError.

    The server's variables are `SENRYU_NAME`, those of another room `SENRYU_ROOM_NAME`. So a
    shell that sets up several rooms suits all of them, and yet each room can refuse every name
    with its prefix that it does not know: no room needs the names of another, and a mistyped
    one never passes in silence.
    """
    hints = get_type_hints(shape)
    names = [field.name for field in fields(shape)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(names, "default")

    def take(name: str, value: Any, origin: str) -> None:
        values[name] = _converted(name, value, hints[name], origin)
        origins[name] = origin

    for name, value in _file_table(file, table).items():
        _known(name, names, f"[{table}] in {file or 'senryu.toml'}")
        take(name, value, str(file or "senryu.toml"))
    mine, others = _prefixes(table)
    for variable, text in environment.items():
        if not variable.startswith(mine) or variable in _NOT_SETTINGS:
            continue
        if not variable.startswith(others):
            name = variable.removeprefix(mine).lower()
            _known(name, names, variable)
            take(name, text, variable)
    for name, value in flags.items():
        if value is not None:
            take(name, value, f"--{name.replace('_', '-')}")
    return Loaded(shape(**values), origins)


def add_flags(parser: argparse.ArgumentParser, shape: type[Any], names: Sequence[str]) -> None:
    """Flags for these fields of `shape`, each with its docstring; and `--config`."""
    texts, hints = documented(shape), get_type_hints(shape)
    defaults = {field.name: field.default for field in fields(shape)}
    for name in names:
        flag, text, default = f"--{name.replace('_', '-')}", texts[name], defaults[name]
        text = text.replace("%", "%%")  # argparse fills in what looks like a format
        wanted = _wanted(hints[name])
        if wanted is bool:
            parser.add_argument(flag, help=text, action=argparse.BooleanOptionalAction)
            continue
        if default is not None:
            text += f" (default: {default})"
        parser.add_argument(flag, help=text, metavar=_placeholder(name, wanted))
    parser.add_argument("--config", type=Path, metavar="PATH", help="read instead of senryu.toml")


def load_arguments(
    shape: type[Settings], *, table: str, arguments: argparse.Namespace
) -> Loaded[Settings]:
    """Layer this process's environment and what a parser with `add_flags` found. Raises
    SettingsError."""
    names = {field.name for field in fields(shape)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return load(shape, table=table, file=arguments.config, environment=os.environ, flags=given)


def _placeholder(name: str, wanted: Any) -> str:
    """What stands behind a flag in its help: N, GIB, {auto,gpu,cpu}."""
    if get_origin(wanted) is Literal:
        return "{" + ",".join(get_args(wanted)) + "}"
    return "N" if wanted is int else name.rpartition("_")[2].upper()


def _prefixes(table: str) -> tuple[str, tuple[str, ...]]:
    """How the variables of a room begin, and those that begin so too but are another room's."""
    rooms = tuple(f"{ENVIRONMENT_PREFIX}{room.upper()}_" for room in _TABLES if room != "server")
    if table == "server":
        return ENVIRONMENT_PREFIX, rooms
    return f"{ENVIRONMENT_PREFIX}{table.upper()}_", ()


def _file_table(file: Path | None, table: str) -> dict[str, Any]:
    path = file or Path("senryu.toml")
    if file is None and not path.exists():
        return {}
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    for name, value in content.items():
        if name != table and not isinstance(value, dict):
            raise SettingsError(f"{path}: {name} stands outside a table; write it under [{table}]")
        if name not in _TABLES:
            near = difflib.get_close_matches(name, _TABLES, n=1)
            hint = f"did you mean [{near[0]}]?" if near else f"the tables are {', '.join(_TABLES)}"
            raise SettingsError(f"{path}: there is no table [{name}]; {hint}")
    found = content.get(table, {})
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: {table} must be a table; write [{table}]")
    return found


def _known(name: str, names: list[str], where: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; the names are {', '.join(names)}"
        raise SettingsError(f"{where}: there is no setting {name}{hint}")


def _converted(name: str, value: Any, hint: Any, origin: str) -> Any:
    """`value` as the field's type: TOML and flags bring types, the environment brings text."""
    wanted = _wanted(hint)
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise SettingsError(f"{name}: {value!r} is not one of {', '.join(get_args(wanted))}")
        return value
    try:
        if get_origin(wanted) is tuple:
            items = value.split(",") if isinstance(value, str) else value
            return tuple(text for item in items if (text := str(item).strip()))
        if wanted is bool:
            return _switch(value)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        if wanted is int and isinstance(value, float):
            raise ValueError
        return wanted(value)
    except (ValueError, TypeError, OverflowError):
        kind = getattr(wanted, "__name__", "list")
        raise SettingsError(f"{name}: {value!r} ({origin}) is not of type {kind}") from None


def _wanted(hint: Any) -> Any:
    """The type itself, of `int | None` as of `int`."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next(kind for kind in kinds if kind is not type(None))


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


def as_toml(value: Any) -> str:
    """A value as it stands in senryu.toml."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def documented(shape: type[Any]) -> dict[str, str]:
    """Each field's docstring, read from the source: help texts and docs come from here."""
    import ast
    import inspect
    import textwrap

    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(shape))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, note in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(note, ast.Expr)
            and isinstance(note.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(note.value.value).split())
    return texts
