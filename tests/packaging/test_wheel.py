"""What is shipped, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from .conftest import ROOT

PACKAGES = {"saga_core", "saga_backends", "saga_testing", "saga_cron", "saga_console"}


def test_the_wheel_ships_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    shipped = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    in_tree = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert shipped == in_tree
    assert {f"{package}/py.typed" for package in PACKAGES} <= shipped
    assert [name for name in shipped if name.endswith(".sql")], "the migrations are missing"


def test_importing_the_core_loads_no_driver_and_no_test_tool() -> None:
    code = "import sys, saga_core; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = set(done.stdout.split())
    assert {"saga_core", "pydantic", "pluggy"} <= loaded
    assert not loaded & {
        *("asyncpg", "aiosqlite", "sqlalchemy", "sqlite3", "pytest", "_pytest", "hypothesis"),
        *("typer", "rich", "saga_backends", "saga_testing", "saga_cron", "saga_console"),
        "cronsim",
    }
