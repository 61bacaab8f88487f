"""The suite as one class, and the guard that makes every deviation from it visible."""

from __future__ import annotations

from typing import Any

from saga_testing.conformance.cancellation import CancellationRules
from saga_testing.conformance.catalog import CatalogRules
from saga_testing.conformance.claims import ClaimRules
from saga_testing.conformance.concurrency import ConcurrencyRules
from saga_testing.conformance.creation import CreationRules
from saga_testing.conformance.durability import DurabilityRules
from saga_testing.conformance.export import ExportRules
from saga_testing.conformance.handles import HandleRules
from saga_testing.conformance.history import HistoryRules
from saga_testing.conformance.leases import LeaseRules
from saga_testing.conformance.machine import MachineRules
from saga_testing.conformance.payloads import PayloadRules
from saga_testing.conformance.processes import ProcessRules
from saga_testing.conformance.repeats import RepeatRules
from saga_testing.conformance.retention import RetentionRules
from saga_testing.conformance.signals import SignalRules
from saga_testing.conformance.transitions import TransitionRules
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
    WakeupRules,
    HandleRules,
    DurabilityRules,
    ProcessRules,
)


def rules() -> dict[str, type]:
    """Return the name of every rule, with its topic."""
    return {name: topic for topic in TOPICS for name in vars(topic) if name.startswith("test_")}


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
    WakeupRules,
    HandleRules,
    DurabilityRules,
    ProcessRules,
):
    """All rules. Subclass it in one test module, beside a sync fixture `harness`:

        class TestMyStore(StoreConformance):
            @pytest.fixture
            def harness(self, tmp_path) -> StoreHarness:
                return MyHarness(tmp_path)

    A rule that the store does not keep yet is overridden, with its reason as visible text:

            @pytest.mark.xfail(reason="purge is not bounded yet")
            async def test_purge_is_bounded(self, store, harness): ...
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in rules():
            inherited = getattr(StoreConformance, name)
            if getattr(cls, name, None) is not inherited and not _is_explained(cls, name):
                raise TypeError(
                    f"{cls.__name__} drops or changes the rule {name}: mark the override with "
                    '@pytest.mark.xfail(reason="...") and say why the store does not keep it'
                )


def _is_explained(cls: type, name: str) -> bool:
    """Tell whether an override is an xfail that says why, runs, and fails once the rule passes."""
    rule = getattr(cls, name, None)
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


_ALL = [name for topic in TOPICS for name in vars(topic) if name.startswith("test_")]
if len(_ALL) != len(set(_ALL)):
    raise TypeError("two rules of the suite have one name, so one of them would never run")
