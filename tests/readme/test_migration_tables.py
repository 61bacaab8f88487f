"""What docs/from-python-saga-orchestrator.md claims is shown by tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

from saga_testing.conformance import rules
from tests.behaviour.conftest import STORES
from tests.readme.documents import ROOT

TEXT = (ROOT / "docs" / "from-python-saga-orchestrator.md").read_text(encoding="utf-8")
Function = ast.FunctionDef | ast.AsyncFunctionDef

NAMED = re.compile(r"`(test_\w+)`")


@cache
def found_in(folder: str) -> dict[str, list[Function]]:
    """Return the test functions below a folder by name."""
    found: dict[str, list[Function]] = {}
    for path in sorted((ROOT / folder).rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                found.setdefault(node.name, []).append(node)
    return found


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the tables below a heading, without their heads."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r" ?\| ?", line)[1:-1]] for line in lines]
    return [row for row in cells if row[-1] not in ("shown by", "the rule here")]


def test_every_test_that_the_guide_names_exists() -> None:
    named = NAMED.findall(TEXT)
    assert len(named) > 40
    assert sorted(set(named) - found_in("tests").keys() - rules().keys()) == []


def test_every_difference_says_why_and_names_a_test() -> None:
    table = rows("What behaves otherwise, and why")
    assert len(table) > 20
    for row in table:
        _, here, why, shown = row
        assert here, row
        assert why, row
        assert NAMED.search(shown), row


def test_everything_kept_names_a_test() -> None:
    table = rows("What stays")
    assert len(table) == 10
    assert [row for row in table if len(row) != 2 or not NAMED.search(row[1])] == []


def test_every_breakage_is_a_test_on_every_store() -> None:
    assert len(STORES) == 6
    table = rows("Sixteen ways to break a saga library")
    assert [int(row[0]) for row in table] == list(range(1, 17))
    for row in table:
        named = NAMED.findall(row[2])
        assert named, row
        for name in named:
            (node,) = found_in("tests/behaviour")[name]
            takes = {argument.arg for argument in node.args.args}
            # Both are made once for each of the stores in tests/behaviour/conftest.py.
            assert takes & {"store", "harness"}, name
