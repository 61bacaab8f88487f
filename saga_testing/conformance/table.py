"""A pytest plugin: after a run of the suite, print which store keeps which rule.

    python -m pytest tests/test_conformance.py -p saga_testing.conformance.table

A run in which a rule is red, was not run for a store, or was left out without a capability behind
it exits with a failure. It may be spread over processes by pytest-xdist.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from saga_testing.conformance import topic
from saga_testing.conformance.guard import StoreConformance, rules

__all__ = ["RulesTable", "pytest_configure"]

_PROPERTY = "saga_rule"
_UNDECLARED = re.compile(r"does not declare the capability '(\w+)'")


class Mark(Enum):
    """What became of one rule on one store; the worst of its cases."""

    PASSED = "+"
    LEFT_OUT = "-"
    DEVIATES = "x"
    NOT_RUN = "?"
    FAILED = "F"


_ORDER = tuple(Mark)


@dataclass
class Cell:
    """One rule on one store."""

    mark: Mark = Mark.PASSED
    why: str = ""
    cases: set[str] = field(default_factory=set)

    def add(self, mark: Mark, why: str = "") -> None:
        """Count what became of one case."""
        if _ORDER.index(mark) > _ORDER.index(self.mark):
            self.mark, self.why = mark, why


@dataclass(eq=False)  # pytest keeps its plugins in sets
class RulesTable:
    """Collects what became of each rule and prints it when the run is over."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=lambda: defaultdict(Cell))
    """By rule and store."""

    @property
    def stores(self) -> Sequence[str]:
        return sorted({store for _, store in self.cells})

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        known = rules()
        for item in session.items:
            owner = getattr(item, "cls", None)
            rule = getattr(item, "originalname", item.name)
            if owner is not None and issubclass(owner, StoreConformance) and rule in known:
                # Goes with the reports, which may be all that another process hears of an item.
                item.user_properties.append((_PROPERTY, f"{rule} {_store_name(item)}"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = [str(value) for name, value in report.user_properties if name == _PROPERTY]
        if not told:
            return
        rule, _, store = told[0].partition(" ")
        cell = self.cells[rule, store]
        cell.cases.add(report.nodeid)
        if report.failed:
            cell.add(Mark.FAILED)
        elif report.skipped and hasattr(report, "wasxfail"):
            cell.add(Mark.DEVIATES, report.wasxfail)
        elif report.skipped:
            cell.add(*_left_out(report.longrepr))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_one_of_many = hasattr(session.config, "workerinput")
        if session.exitstatus == pytest.ExitCode.OK and not is_one_of_many and self.problems():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("rules by stores")
        for line in self.lines():
            terminalreporter.write_line(line)

    def problems(self) -> list[str]:
        """Say what is red, was not run, or was left out for no reason that counts."""
        if not self.stores:
            return ["no rule was run"]
        return [
            f"{rule} on {store}: {_WORDS[cell.mark]}{f' ({cell.why})' if cell.why else ''}"
            for rule in rules()
            for store in self.stores
            if (cell := self._cell(rule, store)).mark in (Mark.FAILED, Mark.NOT_RUN)
        ]

    def lines(self) -> Iterator[str]:
        """Yield the table, what its signs mean, and the sum."""
        stores = self.stores
        heads = list(stores)
        if _NAME + sum(len(head) + 2 for head in heads) > _WIDTH:
            heads = [str(number) for number in range(1, len(stores) + 1)]
            told = (f"{head} {store}" for head, store in zip(heads, stores, strict=True))
            yield f"stores: {', '.join(told)}"
        head = "".join(f"  {name}" for name in heads)
        before = None
        for rule, owner in rules().items():
            if owner is not before:
                before = owner
                yield ""
                yield f"{_topic_name(owner):<{_NAME}}{head}"
            cells = [self._cell(rule, store) for store in stores]
            said = _said(rule, max((len(cell.cases) for cell in cells), default=0))
            marks = "".join(
                f"  {cell.mark.value:^{len(name)}}" for cell, name in zip(cells, heads, strict=True)
            )
            yield f"  {said:<{_NAME - 2}}{marks}".rstrip()
        yield ""
        yield "+ kept   - needs a capability that the store does not declare   x says why not"
        yield "F red    ? not run, or left out with no capability behind it"
        yield from self._notes()
        yield ""
        yield self._sum()

    def _notes(self) -> Iterator[str]:
        notes: dict[str, list[str]] = defaultdict(list)
        for (rule, store), cell in self.cells.items():
            if cell.mark is Mark.LEFT_OUT:
                notes[f"- {store} does not declare: {cell.why}"].append(rule)
            elif cell.mark is Mark.DEVIATES:
                notes[f"x {store}: {rule}: {cell.why}"].append(rule)
        yield from notes
        for problem in self.problems():
            yield f"! {problem}"

    def _sum(self) -> str:
        counts = dict.fromkeys(Mark, 0)
        for rule in rules():
            for store in self.stores:
                counts[self._cell(rule, store).mark] += 1
        told = ", ".join(f"{count} {_WORDS[mark]}" for mark, count in counts.items() if count)
        return f"{len(rules())} rules on {len(self.stores)} stores: {told or 'nothing'}"

    def _cell(self, rule: str, store: str) -> Cell:
        return self.cells.get((rule, store)) or Cell(Mark.NOT_RUN)


_NAME = 72
_WIDTH = 100
"""Columns of a rule's name, and of the whole table."""

_WORDS = {
    Mark.PASSED: "kept",
    Mark.LEFT_OUT: "left out for want of a capability",
    Mark.DEVIATES: "deviating, with a reason",
    Mark.NOT_RUN: "not run",
    Mark.FAILED: "red",
}


def _left_out(longrepr: Any) -> tuple[Mark, str]:
    """Tell whether the kit itself left a rule out, for a capability that is not declared."""
    path, _, reason = longrepr if isinstance(longrepr, tuple) else ("", 0, str(longrepr))
    found = _UNDECLARED.search(reason)
    if found and path == topic.__file__:
        return Mark.LEFT_OUT, found[1]
    return Mark.NOT_RUN, reason


def _store_name(item: pytest.Item) -> str:
    module = getattr(item, "module", None)
    name = getattr(module, "__name__", "").rpartition(".")[2].removeprefix("test_")
    return name.replace("_", "-") if name != "conformance" else item.cls.__name__  # type: ignore[attr-defined]


def _topic_name(owner: type) -> str:
    return owner.__name__.removesuffix("Rules").upper()


def _said(rule: str, cases: int) -> str:
    words = rule.removeprefix("test_").replace("_", " ")
    said = f"{words} (x{cases})" if cases > 1 else words
    return said if len(said) <= _NAME - 2 else f"{said[: _NAME - 5]}..."


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RulesTable(), "saga-rules-table")
