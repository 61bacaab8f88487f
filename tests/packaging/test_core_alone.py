"""The core installs with pydantic and pluggy alone, and works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakeVenv, pip, run

SMOKE = Path(__file__).parent / "smoke.py"
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHERS = sorted({"3.11", "3.12", "3.13"} - {THIS})


def interpreter(version: str) -> str | None:
    """Find another Python: on PATH, or among those that pyenv has built."""
    candidates = [shutil.which(f"python{version}")]
    candidates += [
        str(path / "bin" / "python")
        for path in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*"))
    ]
    for candidate in filter(None, candidates):
        # pyenv puts shims on PATH for versions that are not switched on; they only fail.
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def smoke(python: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run([python, SMOKE], cwd=python.parent))
    return answer


def test_the_wheel_needs_pydantic_and_pluggy_only(core_alone: MakeVenv) -> None:
    python = core_alone(sys.executable)

    listed = pip(python, "list", "--format=freeze")

    names = {line.partition("==")[0].lower().replace("_", "-") for line in listed.splitlines()}
    assert names == {
        "saga-core",
        "pluggy",
        "pydantic",
        # what pydantic itself needs
        "annotated-types",
        "pydantic-core",
        "typing-extensions",
        "typing-inspection",
    }


def test_a_saga_runs_in_memory_with_the_core_alone(core_alone: MakeVenv) -> None:
    answer = smoke(core_alone(sys.executable))

    assert answer["saga"] == "COMPLETED [6, 12]"
    assert "site-packages" in answer["file"]


def test_a_missing_driver_is_listed_with_the_line_that_installs_it(core_alone: MakeVenv) -> None:
    problems = smoke(core_alone(sys.executable))["problems"]

    assert problems["memory"] is None
    assert "pip install 'saga-core[postgresql]'" in problems["postgresql"]
    assert "pip install 'saga-core[sqlite]'" in problems["sqlite"]


def test_the_command_without_its_extra_says_how_to_get_it(core_alone: MakeVenv) -> None:
    python = core_alone(sys.executable)

    done = subprocess.run(
        [python.parent / "saga", "demo"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "pip install 'saga-core[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", OTHERS)
def test_a_saga_runs_on_every_python_that_is_here(core_alone: MakeVenv, version: str) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")

    answer = smoke(core_alone(python))

    assert answer["python"].startswith(version)
    assert answer["saga"] == "COMPLETED [6, 12]"
