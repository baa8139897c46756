"""Known weaknesses of dependencies end `make check`; a database that is away does not."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "locks" / "audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


audit = _loaded()
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The status and the words of an audit of two packages with these weaknesses."""

    def run(
        *weaknesses: dict[str, Any], ignored: str = "", ask: Any = None, unknown: int = 0
    ) -> tuple[int, str]:
        for lock in audit.LOCKS:
            (tmp_path / lock).write_text("weak==1.0 \\\n    --hash=sha256:0\nsound==2.0\n")
        (tmp_path / audit.IGNORED).write_text(ignored)
        said: list[str] = []

        def told(pins: dict[str, str]) -> str:
            assert pins == {"weak": "1.0", "sound": "2.0"}
            packages: list[dict[str, Any]] = [
                {"name": "weak", "version": "1.0", "vulns": list(weaknesses)},
                {"name": "sound", "version": "2.0", "vulns": []},
            ]
            for package in packages[:unknown]:
                del package["vulns"]
                package["skip_reason"] = "it is not there"
            return json.dumps({"dependencies": packages, "fixes": []})

        return audit.audit(tmp_path, ask or told, said.append), "\n".join(said)

    return run


def weakness(name: str, *aliases: str, fixed: tuple[str, ...] = ("1.1",)) -> dict[str, Any]:
    return {"id": name, "aliases": list(aliases), "fix_versions": list(fixed), "description": ""}


def test_nothing_found_is_said_in_a_line(run: Run) -> None:
    status, said = run()
    assert (status, said) == (0, "audit: 2 packages without a known weakness that concerns us")


def test_a_weakness_ends_the_check_and_says_what_to_do(run: Run) -> None:
    status, said = run(weakness("X-1"), weakness("X-2", fixed=()))
    assert status == 1
    assert said.splitlines()[:2] == [
        "audit: weak 1.0 has X-1; fixed in 1.1",
        "audit: weak 1.0 has X-2; not fixed yet",
    ]
    assert "make lock" in said


def test_a_weakness_is_let_pass_for_a_reason_by_any_of_its_names(run: Run) -> None:
    found = weakness("X-1", "Y-1")
    for name in ("X-1", "Y-1"):
        assert run(found, ignored=f"# a heading\n{name}  # we never call it\n")[0] == 0
    assert run(found, weakness("X-2"), ignored="X-1 # we never call it")[0] == 1


@pytest.mark.parametrize("line", ["X-1", "X-1 #", "X-1 we never call it # why"])
def test_no_weakness_is_let_pass_without_a_reason(run: Run, line: str) -> None:
    status, said = run(weakness("X-1"), ignored=f"\n{line}\n")
    assert status == 1
    assert "line 2: write it as `ID  # why`" in said


def test_a_reason_that_is_out_of_date_is_named(run: Run) -> None:
    status, said = run(ignored="X-1  # we never call it")
    assert status == 0
    assert "X-1 is not found any more" in said


def test_a_database_that_is_away_is_said_in_a_line_and_stops_nobody(run: Run) -> None:
    def ask(pins: dict[str, str]) -> str:
        raise audit.Unanswered("no route")

    status, said = run(ask=ask)
    assert status == 0
    assert re.fullmatch(r"audit: cut short, for the database .* answer \(no route\)", said)


def test_packages_that_the_index_does_not_know_are_told(run: Run) -> None:
    status, said = run(unknown=2)
    assert (status, said) == (
        0,
        "audit: skipped, for this package index knows no weaknesses (2 packages)",
    )
    status, said = run(unknown=1)
    assert status == 0
    assert said.startswith("audit: the database does not know 1 of them: weak\n")


def test_what_was_found_counts_also_when_the_database_is_away_in_the_middle(
    run: Run, tmp_path: Path
) -> None:
    def ask(pins: dict[str, str]) -> str:
        if pins["weak"] == "2.0":
            raise audit.Unanswered("no route")
        package = {"name": "weak", "version": "1.0", "vulns": [weakness("X-1")]}
        return json.dumps({"dependencies": [package]})

    run()
    (tmp_path / audit.LOCKS[-1]).write_text("weak==2.0\n")
    said: list[str] = []
    assert audit.audit(tmp_path, ask, said.append) == 1
    assert "cut short" in said[0]
    assert "X-1" in said[1]


def test_an_answer_that_is_none_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def done(out: str, error: str) -> None:
        result = subprocess.CompletedProcess([], 1, out, error)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: result)

    done("", "Traceback\nConnectionError: no route\n")
    with pytest.raises(audit.Unanswered, match=r"^ConnectionError: no route$"):
        audit.pip_audit({"weak": "1.0"})
    done('{"dependencies": []}', "Found 1 known vulnerability")
    assert audit.pip_audit({"weak": "1.0"}) == '{"dependencies": []}'


def test_every_pin_of_every_lock_is_asked_about() -> None:
    asked = {
        (name, version) for pins in audit.rounds(ROOT / "locks") for name, version in pins.items()
    }
    assert {lock.name for lock in (ROOT / "locks").glob("*.txt")} == {*audit.LOCKS, audit.IGNORED}
    for lock in audit.LOCKS:
        for line in (ROOT / "locks" / lock).read_text().splitlines():
            if "==" in line and not line.startswith("#"):
                name, _, version = re.split(r"[\s;\\]", line)[0].partition("==")
                name = name.partition("[")[0].lower()
                version = version.lstrip("=").partition("+")[0]
                assert (name, version) in asked, line


def test_the_list_of_what_is_let_pass_can_be_read() -> None:
    audit.read_ignored(ROOT / "locks" / audit.IGNORED)


def test_make_check_audits() -> None:
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    assert "audit" in check
