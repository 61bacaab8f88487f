"""The table of rules by stores tells what is red, left out or not run, and fails the run for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

MODULE = """
from dataclasses import replace

import pytest
from saga_testing import MemoryStore
from saga_testing.conformance import StoreConformance
from tests.conformance.test_memory import MemoryHarness


class Odd(MemoryStore):
    async def find(self, query):
        is_odd = query.cursor == "not-a-cursor"
        return await super().find(replace(query, cursor=None) if is_odd else query)


class OddHarness(MemoryHarness):
    store_class = {store}


class TestOddStore(StoreConformance):
    @pytest.fixture
    def harness(self):
        return OddHarness()
{more}
"""

DEVIATION = """
    @pytest.mark.xfail(reason="nobody counts here")
    def test_foreign_cursor_is_refused(self): ...
"""

SKIP = """
    @pytest.fixture(autouse=True)
    def _tired(self, request):
        if "foreign_cursor" in request.node.name:
            pytest.skip("the store does not declare the capability 'patience'")
"""


def run(folder: Path, *choice: str, store: str = "MemoryStore", more: str = "") -> tuple[int, str]:
    module = folder / "test_odd.py"
    module.write_text(MODULE.format(store=store, more=more))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "saga_testing.conformance.table"),
            *("-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)),
            *(str(module), *choice),
        ],
        cwd=ROOT,
        env={**os.environ, "SAGA_MACHINE_EXAMPLES": "1"},  # the table is tested, not the store
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def row(told: str, rule: str) -> str:
    (line,) = [line for line in told.splitlines() if line.startswith(f"  {rule}")]
    return line.split()[-1]


def test_healthy_store_keeps_every_rule_or_lacks_a_capability(tmp_path: Path) -> None:
    code, told = run(tmp_path)

    assert code == 0, told
    assert row(told, "foreign cursor is refused") == "+"
    assert "- odd does not declare: multi_process" in told
    assert "not run," not in told.rpartition("rules on 1 stores")[2]


def test_red_rule_is_shown_and_fails_the_run(tmp_path: Path) -> None:
    code, told = run(tmp_path, store="Odd")

    assert code == 1
    assert row(told, "foreign cursor is refused") == "F"
    assert "! test_foreign_cursor_is_refused on odd: red" in told


def test_deviation_is_told_with_its_reason(tmp_path: Path) -> None:
    code, told = run(tmp_path, store="Odd", more=DEVIATION)

    assert code == 0, told
    assert row(told, "foreign cursor is refused") == "x"
    assert "x odd: test_foreign_cursor_is_refused: nobody counts here" in told


def test_skip_with_no_capability_behind_it_fails_the_run(tmp_path: Path) -> None:
    code, told = run(tmp_path, more=SKIP)

    assert code == 1
    assert row(told, "foreign cursor is refused") == "?"


def test_rule_that_was_not_run_fails_the_run_spread_over_processes_too(tmp_path: Path) -> None:
    choice = "foreign_cursor_is_refused or exported_name"
    # With a folder that has a conftest of its own, for which pytest looks through its plugins.
    code, told = run(tmp_path, "tests/packaging", "-k", choice, "-n", "2")

    assert code == 1
    assert row(told, "foreign cursor is refused") == "+"
    assert row(told, "last page has no cursor") == "?"
