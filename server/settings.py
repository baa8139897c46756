"""Every setting of the server, its default and its reason, written once; and the layered loader.

Order: defaults, then `senryu.toml`, then `SENRYU_*`, then flags. An unknown key is an error that
suggests the nearest name. Other rooms load their own dataclass through `load`, and make their
flags with `add_flags`.
"""

import argparse
import difflib
import math
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
# As browsers write it in the Origin header: no path, not even a slash; `null` for pages of no
# origin, `file://` and the like for programs that are made of web pages.
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\sA-Z]*")


class SettingsError(ValueError):
    """A setting is wrong. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What `senryu serve` can be told."""

    model: str = "embedded"
    """A model folder, a hub id, or `embedded`: SmolLM2-135M in 4 bits, which needs no hub."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but a loopback address wants an `api_key`."""

    port: int = 8765
    """The port to listen on; 0 takes a free one and prints it."""

    api_key: str | None = None
    """The key that clients must send. Left out: all that can reach the port are served."""

    api_keys: tuple[str, ...] = ()
    """Keys of several clients, each as `NAME=KEY`. What is cached of a prompt serves requests of
    the same key alone; keys written `NAME@GROUP=KEY` share it within their group."""

    served_name: str | None = None
    """The model id to answer to. Left out: the one in the folder's manifest, or its name."""

    aliases: tuple[str, ...] = ("claude-*haiku*",)
    """Patterns of further model ids that are answered: clients ask for a haiku by default."""

    dialect: str | None = None
    """How the model spells tool calls and thinking. Left out: read off its chat template."""

    engine: Literal["auto", "vllm", "scripted"] = "auto"
    """`auto` and `vllm` open vLLM; `scripted` recites a text and needs no model."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    """`auto` looks for an NVIDIA GPU; `gpu` and `cpu` insist."""

    window: int | None = None
    """Tokens of prompt and answer together. Left out: what the model was trained for, as far
    as the KV memory holds it once."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Type of activations and of unquantized weights; `auto`: as measured best on a
    CPU, and the model's own on a GPU."""

    kv_memory_gib: float | None = None
    """Memory for the KV cache, in GiB. Left out: on a CPU a twelfth of the memory,
    at least 0.5 and at most 4; on a GPU what the weights leave of 90 %."""

    block_size: int | None = None
    """Tokens in one block of the KV cache; prefix hits are whole blocks. Left out: 32 on a CPU,
    and vLLM's own choice on a GPU."""

    kv_files_gib: float = 8.0
    """Disk that prompts marked for the prompt cache may take, in GiB, to outlive the KV memory and
    a restart; 0 keeps none."""

    kv_files: str | None = None
    """The folder to keep them in. Left out: one in the cache folder."""

    kv_cpu_gib: float | None = None
    """Memory of the machine that takes what the KV memory of a GPU has no room for, in GiB; 0 takes
    none, and keeps no prompts in files either. Left out: an eighth of it, as far as its shared
    memory goes. A CPU needs none."""

    cache_minimum: int = 0
    """Tokens that a prefix marked for the prompt cache must have to be counted as cached. 0 counts
    from one block on; the hosted service begins at 512 to 4,096, by model."""

    threads: int | None = None
    """Threads of the engine on a CPU. Left out: one for each core that we may use."""

    compile: bool | None = None
    """Compile the model before the first request. Left out: yes on a GPU, where it takes a minute
    once; no on a CPU, where it takes several."""

    max_streams: int | None = None
    """Requests that are worked on at one time; more wait. Left out: vLLM's default."""

    scripted_text: str = ""
    """What the scripted engine says; it may think and call tools as a Hermes model writes it. Left
    out: a poem."""

    scripted_tokens: int = 0
    """How many tokens the scripted engine says; 0 recites its text once."""

    ping_seconds: float = 4.0
    """Silence on a stream after which a `ping` shows that we are alive."""

    grace_seconds: int = 10
    """Time that open requests get to finish when the server is told to stop."""

    body_limit_mb: float = 32.0
    """Largest request body, packed or unpacked, in MiB."""

    body_seconds: float = 60.0
    """Silence in the middle of a request body after which we stop waiting for the rest."""

    lenient_sampling: bool = False
    """Honour temperature, top_p and top_k also where the hosted service refuses them: for clients
    of API version 2026-10-21, and while the model thinks."""

    strict: bool = False
    """Refuse what the hosted service refuses and we would let pass: a missing anthropic-version,
    unknown betas, signatures of others, schema keywords outside its subset."""

    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may ask, such as `http://localhost:3000`, or patterns of them, such
    as `vscode-webview://*`; `*` lets every page. Left out: only pages that this server itself
    delivers."""

    signing_key: str | None = None
    """The secret that thinking blocks are signed with. Left out: one is made once and kept in the
    cache folder."""

    fetch_media: bool = False
    """Fetch images and documents that a request names by an https URL. Addresses of private
    networks are refused always."""

    verbose: bool = False
    """Show the engine's own log."""

    @property
    def keyless(self) -> bool:
        """Whether all that can reach the port are served."""
        return self.api_key is None and not self.api_keys

    @property
    def body_limit_bytes(self) -> int:
        return int(self.body_limit_mb * 2**20)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port: {self.port} is not a port; take one from 0 to 65535")
        counts = ("window", "block_size", "threads", "max_streams")
        for name in (*counts, "kv_memory_gib"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name}: {value} must be greater than 0")
        sizes = ("kv_memory_gib", "kv_files_gib", "kv_cpu_gib", "body_limit_mb")
        for name in (*sizes, "ping_seconds", "body_seconds"):
            if not math.isfinite(getattr(self, name) or 0.0):
                raise SettingsError(f"{name}: {getattr(self, name)} is not a finite number")
        for name in ("grace_seconds", "cache_minimum", "kv_files_gib", "kv_cpu_gib"):
            if (getattr(self, name) or 0) < 0:
                raise SettingsError(f"{name}: {getattr(self, name)} must not be below 0")
        for name in ("ping_seconds", "body_limit_mb", "body_seconds"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name}: {getattr(self, name)} must be greater than 0")
        for name in sizes:  # 1e308 of them is no number of bytes
            if (getattr(self, name) or 0) > 2**20:
                raise SettingsError(
                    f"{name}: {getattr(self, name):g} is more than a machine has; take at most "
                    f"{2**20}"
                )
        for name in ("api_key", "signing_key"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise SettingsError(
                    f"{name}: an empty key protects nothing; set one, or leave it out"
                )
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"cors_origins: {origin!r} is not an origin; write it as scheme://host:port, "
                    "without a path, or * for all"
                )


Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Settings]):
    """Settings, and for each field the layer that it came from."""

    settings: Settings
    origins: Mapping[str, str]

    def lines(self) -> list[str]:
        """`name = value  # origin`, as `--print-config` shows them; keys are not shown, and what
        is left out is a comment, as TOML has no word for it."""
        lines = []
        for name, origin in self.origins.items():
            value = getattr(self.settings, name)
            if value is None:
                lines.append(f"# {name} is left out")
                continue
            secret = name.endswith(("key", "keys")) and value
            shown = "(set)" if secret else as_toml(value)
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
