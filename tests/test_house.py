"""The house keeps its shape: who imports whom, what stays pure, what no file may name.

In:  the source files as they are found, read and never imported. Out: for each rule, the files
that break it. A rule that chafes is changed here, in the open.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("server", "distill", "quant", "benches")

# Room -> the modules of other rooms that it may import. `server` needs no other room: its cli.py
# names them as strings. The others learn from it exactly what is served.
ARROWS: dict[str, tuple[str, ...]] = {
    "server": (),
    "distill": (
        "senryu.server.conversation",
        "senryu.server.turn",
        "senryu.server.engine",  # a teacher that runs here is served like any model
        "senryu.server.wire",
        "senryu.server.manifest",
        "senryu.server.settings",
        "senryu.server.device",
        "senryu.quant.embedded",
        "senryu.quant.export",
        "senryu.quant.once",
        "senryu.quant.progress",
    ),
    "quant": (
        "senryu.server.manifest",
        "senryu.server.settings",
        "senryu.server.device",
        "senryu.server.conversation",  # what calibration sets and comparisons are made of
        "senryu.server.turn",
        "senryu.server.engine",  # a quantized model is judged by how it serves
        "senryu.server.wire",
        "senryu.distill.samples",  # the model's own traffic
        "senryu.distill.shards",
        "senryu.distill.encode",
        "senryu.distill.compare",
        "senryu.distill.prompts.wire",
        "senryu.distill.errors",
        "senryu.distill.recipe",  # recipes are read by one reader
        "senryu.distill.recipe_file",
        "senryu.distill.schedule",  # training goes up, level and down as there
        "senryu.distill.compare",
        "senryu.distill.page",
        "senryu.distill.curves",
    ),
    "benches": (
        "senryu.server.layers",
        "senryu.server.manifest",
        "senryu.server.settings",
        "senryu.server.device",
        "senryu.server.engine",  # others are started on the same model and settings, or on it bare
        "senryu.server.conversation",  # the prompts of which are made as the server makes them
        "senryu.server.turn",
        "senryu.distill",  # trained side by side with others' trainers
        "senryu.quant",  # quantized side by side with others' quantizers
    ),
}

# The rented engine has one door, and what stands directly beside it.
MAY_IMPORT_VLLM = (
    "server/engine/vllm_engine.py",
    "server/engine/vllm_arguments.py",
    # What vLLM loads into its own processes.
    "server/engine/kv/connector.py",
    "server/engine/kv/telling.py",
)

# Pure: values in, values out. No clock, no socket, no event loop, no framework, no tensors.
PURE = (
    "server/wire",
    "server/conversation",
    "server/turn",
    "server/engine/vllm_arguments.py",
    "server/engine/profiles.py",
    "server/engine/base.py",
    "server/engine/pace.py",
    "server/engine/kv/work.py",
    "server/install_plan.py",
    "benches/asks.py",
    "benches/client/sample.py",
    "benches/comparing.py",
    "benches/figures.py",
    "benches/plan.py",
    "benches/record.py",
    "benches/table.py",
    "benches/truth.py",
    "benches/workloads/base.py",
)
NOT_PURE = ("server/turn/turn.py", "server/turn/tokenizer.py")
IMPURE_MODULES = {
    "asyncio",
    "fastapi",
    "httpx",
    "random",
    "socket",
    "starlette",
    "subprocess",
    "threading",
    "time",
    "torch",
    "transformers",
    "uvicorn",
    "vllm",
}

# Set-up runs these on a Python that has nothing installed.
BARE = ("server/__init__.py", "server/install.py", "server/install_plan.py", "server/device.py")

LINES = 500

# The only hosts that a file may name: this machine, reserved names, the licence, the drafts of JSON
# Schema (names, not addresses). A registry or a hub is configured where senryu is installed.
HOSTS = re.compile(
    r"127\b.*|localhost|.*\.(example|test)|example\.org|www\.apache\.org|json-schema\.org|x"
)
ADDRESS = re.compile(r"https?://([\w.-]+)")
SOMEBODYS_FOLDER = re.compile(r"(?<![\w.~])/(?:home|root|Users)/\w")


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project, tracked or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = (ROOT / name for name in listed.stdout.split("\0") if name)
    return tuple(sorted(path for path in set(found) if path.is_file()))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*folders: str) -> list[Path]:
    return [
        path
        for path in files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    ]


@cache
def imports(path: Path) -> tuple[str, ...]:
    """The full name of all that a file imports, at its top or inside a function.

    `from a.b import c` gives a.b.c: c may be a module, and the rules ask by prefix anyway.
    """
    package = ["senryu", *path.relative_to(ROOT).parent.parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            found += [".".join([*base, alias.name]) for alias in node.names]
    return tuple(found)


def within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def offences(paths: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{name(path)} imports {module}"
        for path in paths
        for module in imports(path)
        if module.split(".")[0] in forbidden
    ]


def reversed_arrows() -> Iterator[str]:
    for room in ROOMS:
        allowed = (f"senryu.{room}", *ARROWS[room])
        for path in python_files(room):
            for module in imports(path):
                if module.startswith("senryu") and not within(module, allowed):
                    yield f"{name(path)} imports {module}"


def test_the_rules_see_the_house() -> None:
    """A rule over no files holds always; these were found and read."""
    for room in ROOMS:
        assert python_files(room), room
    assert "senryu.server.device.detect" in imports(ROOT / "server" / "install.py")


def test_no_arrow_is_reversed() -> None:
    assert not list(reversed_arrows())


def test_rooms_are_imported_by_their_surname() -> None:
    """From the root `import server` works by accident and yields different classes."""
    assert not offences(python_files(*ROOMS, "tests", "examples"), {*ROOMS, "tests"})


def test_a_relative_import_stays_in_its_room() -> None:
    """Across rooms the full name is written, so that the arrow can be seen."""
    for path in python_files(*ROOMS):
        depth = len(path.relative_to(ROOT).parent.parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level > depth), name(path)


def test_vllm_has_one_door() -> None:
    others = [path for path in python_files(*ROOMS) if name(path) not in MAY_IMPORT_VLLM]
    assert not offences(others, {"vllm"})


def test_the_pure_middle_is_pure() -> None:
    pure = [
        path
        for path in python_files(*ROOMS)
        if name(path).startswith(PURE) and name(path) not in NOT_PURE
    ]
    assert len(pure) > 5
    assert not offences(pure, IMPURE_MODULES)


def test_set_up_needs_nothing_installed() -> None:
    for path in python_files("server"):
        if name(path) in BARE:
            for module in imports(path):
                assert module.split(".")[0] in sys.stdlib_module_names or within(
                    module, ("senryu.server.device", "senryu.server.install_plan")
                ), f"{name(path)} imports {module}"


def test_no_file_names_a_registry_or_somebodys_folder() -> None:
    found = []
    for path in files():
        text = path.read_text(encoding="utf-8", errors="replace")
        hosts = {host for host in ADDRESS.findall(text) if not HOSTS.fullmatch(host)}
        found += [f"{name(path)} names {host}" for host in hosts]
        if SOMEBODYS_FOLDER.search(text):
            found.append(f"{name(path)} names a folder of one machine")
    assert not found


def test_every_file_fits_one_sitting_and_introduces_itself() -> None:
    for path in python_files(*ROOMS):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= LINES, f"{name(path)} is over {LINES} lines: which room is it?"
        assert ast.get_docstring(ast.parse(text)), f"{name(path)} does not say its job"
