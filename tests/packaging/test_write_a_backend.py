"""docs/write-a-backend.md works as printed: who copies its files has a store that is green."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from saga_testing.conformance import rules

from .conftest import ROOT

GUIDE = (ROOT / "docs" / "write-a-backend.md").read_text(encoding="utf-8")
FILES = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```\n", GUIDE, re.S)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the files of the guide's first step, and what an install would add."""
    for name, text in reversed(FILES):  # of a file that is shown twice, the first
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    described = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    name, version = described["project"]["name"], described["project"]["version"]
    info = tmp_path / "src" / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    ((group, points),) = described["project"]["entry-points"].items()
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def kit(project: Path) -> tuple[dict[str, int], str]:
    """Run the project's tests; return how many ended how, and the output."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{project / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stdout.splitlines() or [done.stderr])[-1]
    return {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", last)}, done.stdout


def test_skeleton_of_the_guide_is_red_in_every_rule(project: Path) -> None:
    counted, output = kit(project)

    assert counted["failed"] > len(rules())
    assert "passed" not in counted, "a rule is green on a store that can do nothing"
    assert "'JsonFileStore' object has no attribute 'create'" in output


def test_store_of_the_guide_is_green(project: Path) -> None:
    (project / FILES[-1][0]).write_text(FILES[-1][1], encoding="utf-8")

    counted, output = kit(project)

    assert FILES[-1][0].endswith("store.py")
    assert "failed" not in counted, output
    assert "error" not in counted, output
    assert counted["passed"] > len(rules()) - counted["skipped"]


def test_every_rule_that_the_guide_names_exists() -> None:
    named = re.findall(r"`(test_\w+)`", GUIDE)

    assert named
    assert [name for name in named if name not in rules()] == []


def test_every_topic_is_in_the_order_in_which_to_mend() -> None:
    order = GUIDE.partition("in this order")[2].partition("\n*")[0]
    topics = {topic.__module__.rpartition(".")[2] for topic in rules().values()}

    assert topics <= set(re.findall(r"\w+", order))
