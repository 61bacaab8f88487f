"""Every public name and option is used in a program of the documents that the tests run."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, get_type_hints

import pytest

import saga_backends.sql
import saga_core
import saga_testing
from saga_core import (
    AwaitEvent,
    BranchSnapshot,
    ExponentialRetry,
    FixedRetry,
    HistoryItem,
    HookContext,
    InputContext,
    NotifyResult,
    SagaAdmin,
    SagaAdminSnapshot,
    SagaBuilder,
    SagaOrchestrator,
    SagaPage,
    SagaSnapshot,
    SagaWorker,
    Sleep,
    StepContext,
    copy_sagas,
    open_store,
)
from saga_core.finding import Conditions
from saga_core.hooking import HookBuilder
from tests.readme.diffing import patched
from tests.readme.documents import ROOT, blocks, programs

CLASSES = (HookBuilder, SagaAdmin, SagaBuilder, SagaOrchestrator, SagaWorker)
PARTS = (AwaitEvent, ExponentialRetry, FixedRetry, Sleep)
FUNCTIONS = (copy_sagas, open_store)
READ = (
    BranchSnapshot,
    HistoryItem,
    HookContext,
    InputContext,
    NotifyResult,
    SagaAdminSnapshot,
    SagaPage,
    SagaSnapshot,
    StepContext,
)
"""What users are given to look at."""


def executed() -> Iterator[str]:
    """Yield the code that the tests of this folder and of the backend's guide run."""
    for document, name in programs():
        yield blocks(ROOT / document)[name]
    yield blocks(ROOT / "README.md")["quick-start"]
    yield blocks(ROOT / "docs" / "moving-stores.md")["program"]
    old = blocks(ROOT / "docs" / "from-python-saga-orchestrator.md")
    yield patched(old["before"], old["diff"])
    yield from (old["start"], old["calls"])
    guide = blocks(ROOT / "docs" / "testing-your-sagas.md")
    yield from (guide["shop"], guide["test_shop"])
    backend = (ROOT / "docs" / "write-a-backend.md").read_text(encoding="utf-8")
    yield from re.findall(r"```python\n# \S+\n(.*?)```\n", backend, re.S)


@cache
def used() -> dict[str, frozenset[str]]:
    """Return its names, its attributes, and each `function(keyword=` of its calls.

    An import alone is no use.
    """
    kinds: dict[str, set[str]] = {"names": set(), "attributes": set(), "keywords": set()}
    for code in executed():
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Name):
                kinds["names"].add(node.id)
            elif isinstance(node, ast.Attribute):
                kinds["attributes"].add(node.attr)
            elif isinstance(node, ast.Call):
                called = node.func
                name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
                kinds["keywords"] |= {f"{name}({keyword.arg}=" for keyword in node.keywords}
    return {kind: frozenset(found) for kind, found in kinds.items()}


@pytest.mark.parametrize("package", [saga_core, saga_testing, saga_backends.sql])
def test_every_public_name_is_used(package: Any) -> None:
    assert sorted(set(package.__all__) - used()["names"]) == []


@pytest.mark.parametrize("kind", CLASSES)
def test_every_public_method_is_used(kind: type) -> None:
    assert public(kind)
    assert sorted(public(kind) - used()["attributes"]) == []


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize("kind", READ)
def test_everything_that_can_be_read_is_read(kind: type) -> None:
    names = [*get_type_hints(kind), *public(kind)]
    members = {name: inspect.getattr_static(kind, name, None) for name in names}
    read = {
        name
        for name, member in members.items()
        if not name.startswith(("_", "model_")) and not isinstance(member, classmethod)
    }
    assert len(read) > 1
    assert sorted(read - used()["attributes"]) == []


def options() -> dict[str, set[str]]:
    """Return the keyword-only parameters of whatever is public and called, by its name."""
    called: list[tuple[str, Callable[..., Any]]] = [
        (function.__name__, function) for function in (*CLASSES, *PARTS, *FUNCTIONS)
    ]
    for kind in CLASSES:
        members = [(name, vars(kind)[name]) for name in sorted(public(kind))]
        called += [(name, member) for name, member in members if inspect.isfunction(member)]
    found: dict[str, set[str]] = {}
    for name, function in called:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                found.setdefault(name, set()).add(parameter.name)
    return found


@pytest.mark.parametrize("name", options())
def test_every_option_is_used(name: str) -> None:
    wanted = {f"{name}({option}=" for option in options()[name]}
    assert sorted(wanted - used()["keywords"]) == []


def test_every_condition_is_used() -> None:
    finders = ("find", "find_all", "count")
    left = [
        condition
        for condition in Conditions.__annotations__
        if not {f"{finder}({condition}=" for finder in finders} & used()["keywords"]
    ]
    assert left == []
