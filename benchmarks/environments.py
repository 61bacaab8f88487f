"""Environments of their own for the libraries we compare with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["OLD_VERSIONS", "EnvironmentMissingError", "python_with"]

OLD_LIBRARY = "python-saga-orchestrator"
OLD_VERSIONS = ("0.1.1", "0.7.3")
OLDEST_PYTHON = (3, 12)


class EnvironmentMissingError(RuntimeError):
    """An environment cannot be made; the text says why, and what to do."""


def python_with(version: str) -> Path:
    """Return an interpreter that has this version of the old library; make it if need be."""
    folder = _cache() / f"{OLD_LIBRARY}-{version}"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making an environment with {OLD_LIBRARY} {version} ...", file=sys.stderr)
    for command in (
        [_interpreter(), "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", f"{OLD_LIBRARY}=={version}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EnvironmentMissingError(
                f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}"
            )
    (folder / "ready").touch()
    return python


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "saga-benchmarks"


def _interpreter() -> str:
    """Find a Python that the old library supports: this one, one on PATH, or one of pyenv's."""
    if sys.version_info >= OLDEST_PYTHON:
        return sys.executable
    for minor in (12, 13, 14):
        found = shutil.which(f"python3.{minor}")
        if found and _runs(found):
            return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in sorted(root.glob("versions/3.1[2-9].*/bin/python3")):
        if _runs(str(path)):
            return str(path)
    raise EnvironmentMissingError(
        f"{OLD_LIBRARY} needs Python 3.12 or newer: put one on PATH, or use --without-old"
    )


def _runs(python: str) -> bool:
    done = subprocess.run([python, "-c", "import venv"], capture_output=True, check=False)
    return done.returncode == 0
