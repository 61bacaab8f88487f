"""The suite as one class, and the guard that makes every deviation from it visible."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import pytest

from saga_testing.conformance.cancellation import CancellationRules
from saga_testing.conformance.catalog import CatalogRules
from saga_testing.conformance.claims import ClaimRules
from saga_testing.conformance.concurrency import ConcurrencyRules
from saga_testing.conformance.creation import CreationRules
from saga_testing.conformance.declared import is_async
from saga_testing.conformance.durability import DurabilityRules
from saga_testing.conformance.export import ExportRules
from saga_testing.conformance.handles import HandleRules
from saga_testing.conformance.history import HistoryRules
from saga_testing.conformance.leases import LeaseRules
from saga_testing.conformance.machine import MachineRules
from saga_testing.conformance.payloads import PayloadRules
from saga_testing.conformance.processes import ProcessRules
from saga_testing.conformance.queues import QueueRules
from saga_testing.conformance.repeats import RepeatRules
from saga_testing.conformance.retention import RetentionRules
from saga_testing.conformance.signals import SignalRules
from saga_testing.conformance.transactions import TransactionRules
from saga_testing.conformance.transitions import TransitionRules
from saga_testing.conformance.turns import TurnRules
from saga_testing.conformance.wakeups import WakeupRules

__all__ = ["TOPICS", "StoreConformance", "rules"]

TOPICS = (
    CreationRules,
    TransitionRules,
    ClaimRules,
    LeaseRules,
    SignalRules,
    HistoryRules,
    PayloadRules,
    CatalogRules,
    RetentionRules,
    ExportRules,
    RepeatRules,
    ConcurrencyRules,
    MachineRules,
    CancellationRules,
    QueueRules,
    TurnRules,
    WakeupRules,
    HandleRules,
    DurabilityRules,
    ProcessRules,
    TransactionRules,
)


def rules() -> dict[str, type]:
    """Return the name of every rule, with its topic."""
    return {name: topic for topic in TOPICS for name in vars(topic) if name.startswith("test_")}


class _Guarded(type):
    """Sees the marks that decorators put on a class once it is made."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if name == "pytestmark":
            _refuse_marks(cls.__name__, value)
        super().__setattr__(name, value)


class StoreConformance(
    CreationRules,
    TransitionRules,
    ClaimRules,
    LeaseRules,
    SignalRules,
    HistoryRules,
    PayloadRules,
    CatalogRules,
    RetentionRules,
    ExportRules,
    RepeatRules,
    ConcurrencyRules,
    MachineRules,
    CancellationRules,
    QueueRules,
    TurnRules,
    WakeupRules,
    HandleRules,
    DurabilityRules,
    ProcessRules,
    TransactionRules,
    metaclass=_Guarded,
):
    """All rules. Subclass it in one test module, beside a sync fixture `harness`:

        class TestMyStore(StoreConformance):
            @pytest.fixture
            def harness(self, tmp_path) -> StoreHarness:
                return MyHarness(tmp_path)

    A rule that the store does not keep yet is overridden, with its reason as visible text:

            @pytest.mark.xfail(reason="purge is not bounded yet")
            def test_purge_is_bounded(self): ...

    The override lends its marks only: what runs is the rule itself, so that the deviation is
    shown, and fails as XPASS once the store keeps the rule. Marks that leave out the whole class
    or its module, and an async `harness`, are refused with `TypeError`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        module = sys.modules.get(cls.__module__)
        _refuse_marks(cls.__module__, getattr(module, "pytestmark", ()))
        _refuse_marks(cls.__name__, getattr(cls, "pytestmark", ()))
        if is_async(vars(cls).get("harness")):
            raise TypeError(
                f"the fixture `harness` of {cls.__name__} is async: make it a plain 'def' that "
                "returns the harness, and open things in StoreHarness.open"
            )
        for name in rules():
            inherited = getattr(StoreConformance, name)
            found = getattr(cls, name, None)
            if found is inherited or hasattr(found, _DEVIATION):
                continue
            if not _is_explained(found):
                raise TypeError(
                    f"{cls.__name__} drops or changes the rule {name}: mark the override with "
                    '@pytest.mark.xfail(reason="...") and say why the store does not keep it'
                )
            setattr(cls, name, _under(inherited, getattr(found, "pytestmark", ())))


_DEVIATION = "_deviation"


def _refuse_marks(where: str, marks: Any) -> None:
    for mark in marks if isinstance(marks, (list, tuple)) else [marks]:
        if mark.name in {"skip", "skipif", "xfail"}:
            raise TypeError(
                f"the mark '{mark.name}' on {where} leaves out every rule of the suite at once: "
                'take it away, and mark each rule that is not kept with xfail(reason="...")'
            )


def _is_explained(rule: Any) -> bool:
    """Tell whether an override is an xfail that says why, runs, and fails once the rule passes."""
    marks = list(getattr(rule, "pytestmark", ()))
    if any(mark.name in {"skip", "skipif"} for mark in marks):
        return False
    expected = [mark for mark in marks if mark.name == "xfail"]
    for mark in expected:
        if not str(mark.kwargs.get("reason") or "").strip() or not mark.kwargs.get("run", True):
            return False
        if not mark.kwargs.setdefault("strict", True):
            return False
    return bool(expected)


def _under(rule: Any, marks: Iterable[pytest.Mark]) -> Any:
    """Return a copy of a rule that bears these marks too."""
    copy = FunctionType(
        rule.__code__, rule.__globals__, rule.__name__, rule.__defaults__, rule.__closure__
    )
    copy.__kwdefaults__ = rule.__kwdefaults__
    copy.__annotations__ = rule.__annotations__
    copy.__qualname__ = rule.__qualname__
    copy.__dict__.update(rule.__dict__)
    copy.pytestmark = [*getattr(rule, "pytestmark", ()), *marks]  # type: ignore[attr-defined]
    setattr(copy, _DEVIATION, True)
    return copy


_ALL = [name for topic in TOPICS for name in vars(topic) if name.startswith("test_")]
if len(_ALL) != len(set(_ALL)):
    raise TypeError("two rules of the suite have one name, so one of them would never run")
