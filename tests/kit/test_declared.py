"""What a store and its harness declare is checked, and what is wrong is said in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

MODULE = """
import pytest
from saga_core.hookspecs import Capability
from saga_testing import MemoryStore
from saga_testing.conformance import StoreConformance, StoreHarness, declared
from saga_testing.conformance.creation import CreationRules
from saga_testing.conformance.topic import Topic, since
from tests.conformance.test_memory import MemoryHarness

{body}
"""
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return Run(pytester)


class Run:
    """Runs a stranger's test module in a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(self, body: str) -> tuple[dict[str, int], str]:
        self._pytester.makeini(INI)
        self._pytester.makepyfile(MODULE.format(body=body))
        done = self._pytester.runpytest_subprocess(
            "-q", "-rasxX", "-W", "error", "-p", "no:cacheprovider"
        )
        return done.parseoutcomes(), re.sub(r"\s+", " ", done.stdout.str())


VERSIONED = """
class Store(MemoryStore):
    contract_version = {version}

class Harness(MemoryHarness):
    store_class = Store

class TestStore(Topic):
    @pytest.fixture
    def harness(self): return Harness()

    async def test_old(self, store): ...

    @since(2)
    async def test_new(self, harness): ...
"""
TWO = "declared.VERSIONS = range(1, 3)\n"


def test_rules_of_the_declared_version_run(run: Run) -> None:
    counted, _ = run(TWO + VERSIONED.format(version=2))
    assert counted == {"passed": 2}


def test_rule_newer_than_the_store_is_left_out_with_its_version(run: Run) -> None:
    counted, output = run(TWO + VERSIONED.format(version=1))
    assert counted == {"passed": 1, "skipped": 1}
    assert "a rule since contract version 2, the store declares 1" in output


@pytest.mark.parametrize("version", ["2", "0", "None", "True", "'1'"])
def test_version_that_the_kit_does_not_know_is_named_beside_its_own(run: Run, version: str) -> None:
    counted, output = run(VERSIONED.format(version=version))
    assert counted == {"errors": 2}
    theirs = "no contract_version" if version == "None" else f"contract_version {version}"
    assert f"Store declares {theirs}, this kit knows version 1: install" in output


HARNESS = """
{harness}

class TestStore(CreationRules):
    @pytest.fixture
    def harness(self): return {made}
"""


@pytest.mark.parametrize(
    ("harness", "made", "words"),
    [
        ("", "object()", r"gave <object .*, not a StoreHarness; derive a class from"),
        (
            "async def make(): return MemoryHarness()",
            "make()",
            r"gave <coroutine .*, not a StoreHarness: make it a plain 'def'",
        ),
        (
            "class Harness(MemoryHarness): capabilities = frozenset()",
            "Harness()",
            r"Harness declares the capabilities \(none\), but BackendSpec.capabilities of 'memory' "
            "are wakeup: make the two equal",
        ),
        (
            "class Harness(MemoryHarness): capabilities = frozenset(Capability)",
            "Harness()",
            "declares the capabilities durable, multi_process, transaction, wakeup, but",
        ),
        (
            "class Harness(MemoryHarness): backend = 'mine'",
            "Harness()",
            "names the backend 'mine', but no installed distribution .* there are: memory, ",
        ),
    ],
    ids=["no harness", "async", "fewer", "more", "unknown"],
)
def test_wrong_harness_is_told_what_to_mend(run: Run, harness: str, made: str, words: str) -> None:
    counted, output = run(HARNESS.format(harness=harness, made=made))
    assert set(counted) == {"errors"}
    assert re.search(words, output), output


def test_harness_that_names_no_backend_is_not_compared(run: Run) -> None:
    lone = "class Harness(MemoryHarness): backend, capabilities = None, frozenset()"
    counted, output = run(HARNESS.format(harness=lone, made="Harness()"))
    assert set(counted) == {"passed"}, output


def test_harnesses_that_see_each_others_sagas_are_found_out(run: Run) -> None:
    counted, output = run(HARNESS.format(harness="ONE = MemoryHarness()", made="ONE"))
    assert counted["failed"] >= 1
    assert "FAILED" in output
    assert "harness 2 has a saga of an earlier one: give each a file, a schema" in output


DEVIATION = """
class Store(MemoryStore):
    async def create(self, new):
        {wrong}
        return await super().create(new)

class Harness(MemoryHarness):
    store_class = Store

class TestStore(StoreConformance):
    @pytest.fixture
    def harness(self): return Harness()

    @pytest.mark.xfail(reason="not yet")
    def test_store_of_each_harness_begins_empty(self): ...

del StoreConformance, CreationRules, Topic
"""


@pytest.mark.parametrize(
    ("wrong", "ended"), [("raise NotImplementedError", "xfailed"), ("pass", "failed")]
)
def test_deviation_runs_the_rule_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch, wrong: str, ended: str
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k begins_empty")
    counted, output = run(DEVIATION.format(wrong=wrong))
    assert counted[ended] == 2, output
    assert "passed" not in counted
