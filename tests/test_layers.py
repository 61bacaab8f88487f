"""Who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = {"saga_core", "saga_backends", "saga_testing", "saga_cron", "saga_console"}
PYDANTIC = {"pydantic", "pydantic_core"}
DRIVERS = {"asyncpg", "aiosqlite", "hiredis", "redis", "sqlalchemy"}

MAY_IMPORT = {
    "saga_core": {*PYDANTIC, "pluggy"},
    "saga_backends": {*PYDANTIC, *DRIVERS},
    "saga_backends/postgresql": {*PYDANTIC, "asyncpg", "sqlalchemy"},
    "saga_backends/redis": {*PYDANTIC, "hiredis", "redis"},
    "saga_backends/sqlite": {*PYDANTIC, "aiosqlite", "sqlalchemy"},
    "saga_testing": PYDANTIC,
    "saga_testing/conformance": {*PYDANTIC, "pytest", "pytest_asyncio", "hypothesis"},
    "saga_cron": {*PYDANTIC, "cronsim"},
    "saga_console": {*PYDANTIC, "typer", "click", "rich"},
}
"""From outside the standard library and this project; the longest folder that fits counts."""


def test_imports_keep_to_the_layers() -> None:
    # In a process of its own: run here, it would switch off the loggers of all later tests.
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports; "
            "sys.exit(lint_imports(no_cache=True))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_package_imports_only_what_it_may_install() -> None:
    modules = [path for package in sorted(OURS) for path in (ROOT / package).rglob("*.py")]
    wrong = []
    for path in modules:
        relative = path.relative_to(ROOT)
        folder = max((name for name in MAY_IMPORT if relative.is_relative_to(name)), key=len)
        allowed = {*MAY_IMPORT[folder], *OURS, *sys.stdlib_module_names}
        wrong += [f"{relative}: {name}" for name in sorted(_imported(path) - allowed)]

    assert modules
    assert not wrong, "\n".join(wrong)


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names
