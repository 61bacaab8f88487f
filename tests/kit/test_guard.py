"""A subclass of the suite cannot leave a rule out without saying so."""

from __future__ import annotations

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
