"""The tree keeps the house rules: types, style, size."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("saga_core", "saga_backends", "saga_testing", "saga_cron", "saga_console")
LONGEST = 400
"""Lines. Most modules should have fewer than 250: what a reader holds in the head."""
LONGER = {
    "saga_core/engine.py": 520,
}
"""Modules that may be longer, each with its own bound, because parting them would hide the idea."""


def _run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_strict() -> None:
    _run("mypy", "--no-error-summary")


def test_style_is_clean() -> None:
    _run("ruff", "check", ".")


def test_format_is_clean() -> None:
    _run("ruff", "format", "--check", ".")


def test_a_module_is_small_enough_to_be_read() -> None:
    long = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LONGER.get(name, LONGEST):
                long.append(f"{name}: {lines} lines")
    assert not long, "\n".join(long)


def test_every_package_is_typed() -> None:
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").exists()] == []


def test_rules_that_share_tables_give_their_sagas_no_ids_written_by_hand() -> None:
    """Whoever picks a number has to know all the others; uuid4() knows nobody."""
    by_hand = re.compile(r"(saga_id|SAGA) ?= ?UUID\(")
    found = [
        path.name
        for path in (ROOT / "tests" / "behaviour").glob("*.py")
        if by_hand.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
