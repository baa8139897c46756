"""Looks for known weaknesses of what the locks name; `make audit`, and part of `make check`.

In: the locks beside this file, which pip-audit asks the database of its package index about; it
installs nothing. Out: a line for each weakness, and status 1. A weakness that does not concern us
is let pass once `audit-ignored.txt` says why. A database that does not answer, or does not know
the packages, is no reason to stop all work: that is said in one line, and the status is 0.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
LOCKS = ("cpu.txt", "gpu.txt", "dev.txt", "torch-cpu.txt", "uv.txt")
IGNORED = "audit-ignored.txt"
_SECONDS = 180
# Of a line of a lock, the name and the version; of torch===2.13.0+cpu those that databases know.
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?===?([^\s;+\\]+)")

Pins = dict[str, str]
"""The version of each package."""
Ask = Callable[[Pins], str]
"""What pip-audit says of them, as JSON. Raises Unanswered."""


class Unanswered(Exception):
    """The database was not reached. The text says why."""


class Malformed(Exception):
    """The list of ignored weaknesses cannot be read. The text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Weakness:
    """A known weakness of a version that is locked."""

    package: str
    version: str
    id: str
    names: frozenset[str]
    """Its id and those that other databases know it by."""
    fixed: str
    """The versions without it, or how to say that there is none."""


def audit(folder: Path, ask: Ask, say: Callable[[str], None] = print) -> int:
    """The exit status, once all that is known was said."""
    try:
        ignored = read_ignored(folder / IGNORED)
    except Malformed as error:
        say(f"audit: {error}")
        return 1
    found: set[Weakness] = set()
    known, unknown = set[str](), set[str]()
    try:
        for pins in rounds(folder):
            for package in json.loads(ask(pins))["dependencies"]:
                (unknown if "skip_reason" in package else known).add(package["name"])
                found.update(_weaknesses(package))
    except Unanswered as error:
        say(f"audit: cut short, for the database of weaknesses does not answer ({error})")
        if not found:
            return 0
    if not known:
        say(f"audit: skipped, for this package index knows no weaknesses ({len(unknown)} packages)")
        return 0
    if unknown:
        say(f"audit: the database does not know {len(unknown)} of them: {_listed(unknown)}")
    names = {name for weakness in found for name in weakness.names}
    for stale in sorted(set(ignored) - names):
        say(f"audit: {stale} is not found any more; take it out of locks/{IGNORED}")
    open_ones = sorted(each for each in found if not each.names & set(ignored))
    for each in open_ones:
        say(f"audit: {each.package} {each.version} has {each.id}; {each.fixed}")
    if open_ones:
        say(f"audit: run make lock for newer versions, or say in locks/{IGNORED} why not")
        return 1
    say(f"audit: {len(known)} packages without a known weakness that concerns us")
    return 0


def rounds(folder: Path) -> list[Pins]:
    """All that the locks pin, as often as one package has several versions: it can be asked about
    one at a time."""
    found: list[Pins] = []
    for lock in LOCKS:
        for line in (folder / lock).read_text(encoding="utf-8").splitlines():
            if pin := _PIN.match(line):
                _add(found, pin[1].lower(), pin[2])
    return found


def _add(found: list[Pins], name: str, version: str) -> None:
    for pins in found:
        if pins.setdefault(name, version) == version:
            return
    found.append({name: version})


def read_ignored(file: Path) -> dict[str, str]:
    """The reason for each weakness that is let pass: lines of `ID  # why`. Raises Malformed."""
    ignored = {}
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        name, _, reason = (part.strip() for part in line.partition("#"))
        if not name:
            continue
        if not reason or " " in name:
            raise Malformed(f"locks/{IGNORED}, line {number}: write it as `ID  # why`")
        ignored[name] = reason
    return ignored


def pip_audit(pins: Pins) -> str:
    """Asks pip-audit. Nothing is installed or resolved: the pins are all there is."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format=json"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in sorted(pins.items()))
        file.flush()
        command += ["--progress-spinner=off", "--requirement", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unanswered(f"nothing within {_SECONDS} seconds") from None
    if not done.stdout.lstrip().startswith("{"):  # with weaknesses its status is 1, too
        lines = done.stderr.strip().splitlines()
        raise Unanswered(lines[-1] if lines else f"pip-audit ended with {done.returncode}")
    return done.stdout


def _weaknesses(package: dict[str, object]) -> Iterator[Weakness]:
    listed = package.get("vulns", [])
    assert isinstance(listed, list)
    for each in listed:
        fixes = each["fix_versions"]
        yield Weakness(
            package=str(package["name"]),
            version=str(package["version"]),
            id=each["id"],
            names=frozenset([each["id"], *each["aliases"]]),
            fixed=f"fixed in {', '.join(fixes)}" if fixes else "not fixed yet",
        )


def _listed(names: Iterable[str], most: int = 5) -> str:
    first = sorted(names)
    more = f" and {len(first) - most} more" if len(first) > most else ""
    return ", ".join(first[:most]) + more


def main(argv: Sequence[str]) -> int:
    if argv:
        print("usage: python locks/audit.py", file=sys.stderr)
        return 2
    if importlib.util.find_spec("pip_audit") is None:
        print("audit: pip-audit is not installed; run make setup-dev", file=sys.stderr)
        return 1
    return audit(FOLDER, pip_audit)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
