"""The wheel, built once, and empty environments to put it into."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STRANGER = Path(__file__).parent / "saga-lmdb"

collect_ignore = [STRANGER.name]  # not ours: its tests run where it is installed

Run = Callable[..., str]
MakeVenv = Callable[[str], Path]


def run(command: Sequence[str | Path], *, cwd: Path) -> str:
    """Run a program far from the source tree; return its output, fail with it on an error."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, folder: Path) -> Path:
    """Build a wheel into an empty folder, with the hatchling at hand: nothing is downloaded."""
    run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
         "-w", folder, source],
        cwd=folder,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


def new_venv(interpreter: str | Path, folder: Path, *wanted: str) -> Path:
    """Make an environment that holds what is wanted; return its Python.

    The pip at hand installs into it, and compiles nothing that is not imported: half of the time.
    """
    run([interpreter, "-m", "venv", "--without-pip", folder], cwd=folder)
    python = folder / "bin" / "python"
    pip(python, "install", "-q", "--no-compile", *wanted)
    return python


def pip(python: Path, *command: str) -> str:
    """Run the pip at hand for another environment."""
    return run([sys.executable, "-m", "pip", "--python", python, *command], cwd=python.parent)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def core_alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeVenv:
    """Make an environment that holds the wheel and what it cannot do without; return its Python."""
    made: dict[str, Path] = {}

    def make(interpreter: str) -> Path:
        if interpreter not in made:
            folder = tmp_path_factory.mktemp("venv")
            made[interpreter] = new_venv(interpreter, folder, str(wheel))
        return made[interpreter]

    return make
