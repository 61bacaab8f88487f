"""Bugs to be planted in what becomes of work that counts no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saga_core import amending, decide, obeying, rollback
from saga_core.definition import SagaDefinition
from saga_core.happening import Decision
from saga_core.outputs import Outputs
from saga_core.records import SagaState
from saga_core.status import EntryKind
from tests.campaign.bug import Patch, bug


def _after_going_back(patch: Patch, change: Any) -> None:
    requested = amending.return_requested

    def changed(definition: Any, state: SagaState, outputs: Any, asked: Any) -> Decision:
        decision: Decision = change(state, requested(definition, state, outputs, asked))
        return decision

    patch.setattr(vars(decide)["amending"], "return_requested", changed)


@bug("two pieces of work got one idempotency key")
def done_once_more_with_the_old_key(patch: Patch) -> None:
    def replayed(state: SagaState, decision: Decision) -> Decision:
        return replace(decision, state=replace(decision.state, generation=state.generation))

    _after_going_back(patch, replayed)


@bug("what counts no more was not told in full")
def old_outputs_count_on(patch: Patch) -> None:
    def counts(_: SagaState, decision: Decision) -> Decision:
        return replace(decision, history=decision.history[:-1])

    _after_going_back(patch, counts)


@bug("before the pivot, which is done")
def went_back_before_the_pivot(patch: Patch) -> None:
    patch.setattr(SagaDefinition, "pivot", None)


@bug("forgets that step_.* may have been done as it stood")
def old_input_forgotten(patch: Patch) -> None:
    patch.setattr(amending, "left_behind", lambda *_: ())


@bug("was given output|by its history it is|was left at")
def only_the_newest_run_undone(patch: Patch) -> None:
    left: Any = vars(rollback)["_left"]

    def newest(definition: Any, state: SagaState, outputs: Any, before: int) -> Any:
        counting = Outputs()
        counting.update(outputs)
        return left(definition, state, counting, before)

    patch.setattr(rollback, "_left", newest)


@bug("ran, but step|by its history it is at")
def went_back_in_word_only(patch: Patch) -> None:
    requested: Any = vars(obeying)["decide"]

    def deaf(definition: Any, state: SagaState, outputs: Any, happened: Any) -> Decision:
        decision: Decision = requested(definition, state, outputs, happened)
        if any(entry.kind is EntryKind.WENT_BACK for entry in decision.history):
            return replace(decision, state=state)
        return decision

    patch.setattr(obeying, "decide", deaf)
