"""The ledger of a rehearsal: steps in threads note their calls beside each other."""

from __future__ import annotations

from typing import Any

from saga_testing.ledger import CallOutcome, Ledger
from saga_testing.places import Action


def test_call_that_begins_while_another_is_noted_is_a_call_of_its_own() -> None:
    begun: dict[str, Any] = {}

    def world() -> int:
        if not begun:  # what another thread does when this one looks at the world
            begun["b"] = None
            begun["b"] = ledger.begin(Action.EXECUTE, "b")
        return 0

    ledger = Ledger(world)
    begun["a"] = ledger.begin(Action.EXECUTE, "a")
    ledger.end(begun["a"], CallOutcome.RETURNED)
    ledger.end(begun["b"], CallOutcome.RAISED)
    outcomes = {call.step_id: call.outcome for call in ledger.calls}
    assert outcomes == {"a": CallOutcome.RETURNED, "b": CallOutcome.RAISED}
    assert len(ledger.views) == 2
    assert [call.changed for call in ledger.calls] == [None, None]  # they overlapped
