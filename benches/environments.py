"""Environments beside ours, for programs whose libraries cannot live with the engine.

Comes in: packages with their versions, and a folder. Goes out: a Python that has them. It refuses
to know what the programs do. Whole or made again: a stamp is written last.
"""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path


def python_with(packages: Sequence[str], environment: Path) -> Path:
    """Of an environment that holds these and our torch; it is made if it does not stand there.

    Raises OSError or CalledProcessError."""
    wanted = [f"torch=={our_torch()}", *packages]
    stamp = environment / "packages.json"
    python = environment / "bin" / "python"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    if environment.exists():
        shutil.rmtree(environment)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([*_install(python), *wanted], stdout=sys.stderr, check=True)
    stamp.write_text(json.dumps(wanted))
    return python


def our_torch() -> str:
    """All shall compute with the same one. The registry has no `+cpu` build, but has the ones for
    GPUs, without the ending that their own index gives them."""
    version = metadata.version("torch")
    return version if version.endswith("+cpu") else version.partition("+")[0]


def _install(python: Path) -> list[str]:
    """The words before the packages. What our environment alone was told of where wheels lie, a new
    one does not see."""
    links = _find_links()
    # Set-up leaves uv beside our Python: it knows the index where the `+cpu` build lies.
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None and not links and our_torch().endswith("+cpu"):
        named = ["--python", str(python), "--torch-backend", "cpu"]
        return [uv, "pip", "install", "--quiet", *named]
    told = [word for link in links for word in ("--find-links", link)]
    return [str(python), "-m", "pip", "install", "--quiet", *told]


def _find_links() -> list[str]:
    """Of our pip, wherever it was told them."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True)
    found: list[str] = []
    for line in listing.stdout.splitlines():
        key, _, quoted = line.partition("=")
        if key.endswith(".find-links"):
            found += str(ast.literal_eval(quoted)).split()
    return list(dict.fromkeys(found))
