"""What a store and its harness declare, compared with what the kit knows of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pytest

from saga_core.discovery import published
from saga_core.hookspecs import Capability
from saga_core.store import CONTRACT_VERSION
from saga_testing.conformance.harness import StoreHarness

__all__ = ["VERSIONS", "check_harness", "check_rule", "check_version", "is_async", "since"]

VERSIONS = range(1, CONTRACT_VERSION + 1)
"""The versions of the contract that this kit has rules for."""

_Rule = TypeVar("_Rule", bound=Callable[..., Any])


def since(version: int) -> Callable[[_Rule], _Rule]:
    """Mark a rule that came with this version of the contract; without, it is of version 1."""

    def mark(rule: _Rule) -> _Rule:
        rule.since = version  # type: ignore[attr-defined]
        return rule

    return mark


def check_version(store: object) -> int:
    """Return the contract version that a store declares; fail if the kit has no rules for it."""
    version = getattr(store, "contract_version", None)
    if type(version) is int and version in VERSIONS:
        return version
    theirs = "no contract_version" if version is None else f"contract_version {version!r}"
    known = " to ".join(dict.fromkeys((str(VERSIONS[0]), str(VERSIONS[-1]))))
    pytest.fail(
        f"{type(store).__name__} declares {theirs}, this kit knows version {known}: install the "
        "saga-core whose kit knows the store's version, or declare the version that it keeps",
        pytrace=False,
    )


def check_rule(rule: object, version: int) -> None:
    """Leave a rule out that is newer than the contract which the store declares."""
    newer = getattr(rule, "since", 1)
    if newer > version:
        pytest.skip(f"a rule since contract version {newer}, the store declares {version}")


def check_harness(harness: object) -> None:
    """Fail, in words that say what to mend, for what is no harness or declares what is not so."""
    if not isinstance(harness, StoreHarness):
        if inspect.iscoroutine(harness):
            harness.close()
        hint = ": make it a plain 'def'" if is_async(harness) else ""
        pytest.fail(
            f"the fixture `harness` gave {harness!r:.80}, not a StoreHarness{hint}; "
            "derive a class from saga_testing.conformance.StoreHarness and return one of it",
            pytrace=False,
        )
    if harness.backend is None:
        return
    spec, theirs = _capabilities(harness.backend), harness.capabilities
    if spec != theirs:
        pytest.fail(
            f"{type(harness).__name__} declares the capabilities {_words(theirs)}, but "
            f"BackendSpec.capabilities of {harness.backend!r} are {_words(spec)}: "
            "make the two equal",
            pytrace=False,
        )


def is_async(what: object) -> bool:
    """Tell whether this is an `async def`, under whatever decorators, or what it returned."""
    function = inspect.unwrap(what) if callable(what) else what
    return any(
        kind(function)
        for kind in (
            inspect.iscoroutinefunction,
            inspect.isasyncgenfunction,
            inspect.iscoroutine,
            inspect.isasyncgen,
        )
    )


@cache
def _capabilities(backend: str) -> frozenset[Capability]:
    found = published()
    if backend not in found:
        pytest.fail(
            f"the harness names the backend {backend!r}, but no installed distribution publishes "
            f"it under 'saga.backends'; there are: {', '.join(found) or 'none'}. Install yours "
            "(pip install -e .), or leave `backend` out",
            pytrace=False,
        )
    return found[backend].load().capabilities


def _words(capabilities: frozenset[Capability]) -> str:
    return ", ".join(sorted(capabilities)) or "(none)"
