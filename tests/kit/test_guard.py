"""A subclass of the suite cannot leave a rule out without saying so."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from saga_testing.conformance import StoreConformance

RULE = "test_purge_is_bounded"


async def override(self: Any) -> None:
    """Stand in for the rule."""


def marked(*marks: pytest.MarkDecorator) -> Any:
    async def rule(self: Any) -> None:
        await override(self)

    for mark in marks:
        mark(rule)
    return rule


XFAIL = pytest.mark.xfail(reason="not bounded yet")


@pytest.mark.parametrize(
    "rule",
    [
        None,
        marked(),
        marked(pytest.mark.xfail),
        marked(pytest.mark.xfail(reason="  ")),
        marked(pytest.mark.xfail(reason="not bounded yet", run=False)),
        marked(pytest.mark.xfail(reason="not bounded yet", strict=False)),
        marked(pytest.mark.skip(reason="not bounded yet")),
        marked(XFAIL, pytest.mark.skipif(True, reason="not bounded yet")),
    ],
    ids=["dropped", "changed", "bare", "blank", "not run", "not strict", "skip", "skipif"],
)
def test_rule_is_not_left_out_in_silence(rule: Any) -> None:
    with pytest.raises(TypeError, match=RULE):
        type("TestMyStore", (StoreConformance,), {RULE: rule})


def test_explained_deviation_fails_once_the_rule_passes() -> None:
    rule = marked(pytest.mark.xfail(reason="not bounded yet"))
    made = type("TestMyStore", (StoreConformance,), {RULE: rule})
    (mark,) = getattr(made, RULE).pytestmark
    assert mark.kwargs["strict"] is True


def test_deviation_of_a_deviation_is_marked_once() -> None:
    made = type("TestMyStore", (StoreConformance,), {RULE: marked(XFAIL)})
    heir = type("TestHeir", (made,), {})
    assert getattr(heir, RULE) is getattr(made, RULE)


WHOLE = [
    pytest.mark.skip(reason="not yet"),
    pytest.mark.skipif(True, reason="not yet"),
    pytest.mark.xfail(reason="not yet"),
]


@pytest.mark.parametrize("mark", WHOLE, ids=lambda mark: mark.name)
def test_whole_suite_is_not_left_out_by_one_mark(
    mark: pytest.MarkDecorator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeError, match=f"'{mark.name}' on TestMyStore"):
        mark(type("TestMyStore", (StoreConformance,), {}))
    with pytest.raises(TypeError, match=f"'{mark.name}' on TestMyStore"):
        type("TestMyStore", (StoreConformance,), {"pytestmark": [mark]})
    module = ModuleType("test_mine")
    module.pytestmark = mark  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_mine", module)
    with pytest.raises(TypeError, match=f"'{mark.name}' on test_mine"):
        type("TestMyStore", (StoreConformance,), {"__module__": "test_mine"})


def test_other_marks_are_welcome_on_the_class() -> None:
    pytest.mark.timeout(5)(type("TestMyStore", (StoreConformance,), {}))


def test_async_harness_is_refused() -> None:
    @pytest.fixture
    async def harness(self: Any) -> None: ...

    with pytest.raises(TypeError, match="`harness` of TestMyStore is async: make it a plain 'def'"):
        type("TestMyStore", (StoreConformance,), {"harness": harness})
