"""A backend of somebody else's, from its own wheel beside ours: found, right, and usable.

Here in a short form; `nox -s third_party` does the same on every Python and shows the stranger's
own output.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, STRANGER, build, new_venv, run

PUBLIC = {f"saga_core.{name}" for name in ("errors", "hookspecs", "records", "status", "store")}
"""For who writes a backend, as the docstring of saga_core says."""
SMOKE = Path(__file__).parent / "third_party.py"


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with both wheels and what the kit needs, and no source tree."""
    theirs = build(STRANGER, tmp_path_factory.mktemp("stranger-wheel"))
    folder = tmp_path_factory.mktemp("stranger-venv")
    return new_venv(sys.executable, folder, str(wheel), f"{theirs}[test]")


def smoke(python: Path, what: str, url: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run([python, SMOKE, what, url], cwd=python.parent))
    return answer


def test_stranger_is_found_by_its_entry_point(stranger: Path) -> None:
    answer = smoke(stranger, "look", "lmdb:///unused.lmdb")

    assert "lmdb" in answer["backends"]
    assert answer["distribution"] == "saga-lmdb 1.0.0"
    assert answer["problem"] is None
    assert answer["capabilities"] == ["durable", "multi_process"]
    for file in answer["files"]:
        assert "site-packages" in file
        assert not Path(file).is_relative_to(ROOT)


def test_stranger_drives_sagas_that_outlive_the_process(stranger: Path, tmp_path: Path) -> None:
    url = f"lmdb:///{tmp_path}/orders.lmdb"

    started = smoke(stranger, "start", url)
    ended = smoke(stranger, "work", url)

    assert started == {"status": "RUNNING"}
    assert ended == {"status": "COMPLETED", "outputs": [6, 12]}


def test_stranger_passes_the_kit_without_a_deviation(stranger: Path, tmp_path: Path) -> None:
    shutil.copytree(STRANGER / "tests", tmp_path / "tests")
    shutil.copy(STRANGER / "pyproject.toml", tmp_path)

    output = run([stranger, "-m", "pytest", "-q", "-rsxX", "-p", "no:cacheprovider"], cwd=tmp_path)

    counted = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", output.splitlines()[-1])}
    assert counted["passed"] > len(_rules())
    assert set(counted) <= {"passed", "skipped", "in"}, output
    skips = [line for line in output.splitlines() if line.startswith("SKIPPED")]
    undeclared = re.compile(r"does not declare the capability '(wakeup|transaction)'")
    assert all(undeclared.search(line) for line in skips), output


def test_readme_of_the_stranger_shows_its_files_as_they_are() -> None:
    readme = (STRANGER / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"```(?:python|toml)\n# (\S+\.\w+)\n(.*?)```\n", readme, re.S)

    assert len(shown) > 5
    changed = [
        f"{name}: {text[:60]}"
        for name, text in shown
        if text.strip() not in (STRANGER / name).read_text(encoding="utf-8")
    ]
    assert not changed, "\n".join(changed)
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert [link for link in links if not (STRANGER / link).exists()] == []


def test_stranger_needs_nothing_of_the_core_that_is_not_public() -> None:
    imported = {
        (node.module, alias.name)
        for path in (STRANGER / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("saga_core")
        for alias in node.names
    }

    for module, name in imported:
        assert module in PUBLIC, f"{module}.{name}"
        assert name in importlib.import_module(module).__all__


def _rules() -> dict[str, type]:
    from saga_testing.conformance import rules

    return rules()
