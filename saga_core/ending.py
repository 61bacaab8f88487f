"""Where every end of a saga passes: COMPLETED, COMPENSATED, FAILED, and STUCK.

The rules say how a saga ends, by `end` or `get_stuck`; `conclude` has the last word on each such
decision before `decide` returns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from saga_core.deciding import failed_entry
from saga_core.definition import SagaDefinition
from saga_core.happening import Decision, Failure, Recorded
from saga_core.records import NewEntry, SagaState
from saga_core.status import EntryKind, SagaStatus
from saga_core.timing import AT_START

__all__ = ["conclude", "end", "get_stuck"]


def end(state: SagaState, status: SagaStatus, history: tuple[NewEntry, ...]) -> Decision:
    """End the saga for good, or park a STUCK one for a person. Nobody looks at it by itself again.

    One that has FAILED may be revived: then it counts whether it had begun.
    """
    if status is SagaStatus.STUCK:
        ended = replace(state, status=status, waiting_for=None)
    else:
        unbegun = status is SagaStatus.FAILED and state.waiting_for == AT_START
        waiting_for = AT_START if unbegun else None
        ended = replace(state, status=status, active=False, token=None, waiting_for=waiting_for)
    return Decision(state=ended, history=history, drive=False, due=None, ends=True)


def get_stuck(state: SagaState, failure: Failure, history: tuple[NewEntry, ...] = ()) -> Decision:
    """Park the saga for a person, because of a failure."""
    parked = replace(state, last_error=failure.error, error_code=failure.code)
    entry = failed_entry(EntryKind.STUCK, state, failure)
    return end(parked, SagaStatus.STUCK, (*history, entry))


def conclude(
    definition: SagaDefinition,
    before: SagaState,
    outputs: Mapping[str, Recorded],
    decision: Decision,
) -> Decision:
    """Return what follows from the decision that a saga in the state `before` ends.

    Called for each decision that `ends`, by `decide`.
    """
    return decision
