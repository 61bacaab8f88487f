"""Bugs to be planted in what a person orders."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saga_core import decide, obeying
from saga_core.amending import edit_requested
from saga_core.decide import ignore_command
from saga_core.happening import Decision
from saga_core.pausing import pause_requested, resume_requested
from saga_core.records import DUE_NOW, SagaState
from saga_core.status import SignalKind
from tests.campaign.bug import Patch, bug


@bug("but paused=True|ran although the saga was paused")
def paused_saga_goes_on(patch: Patch) -> None:
    def goes_on(state: SagaState, asked: Any) -> Decision:
        decision = pause_requested(state, asked)
        return replace(decision, state=state, drive=asked.due == DUE_NOW, due=asked.due or DUE_NOW)

    patch.setattr(vars(decide)["pausing"], "pause_requested", goes_on)


@bug("ran although the saga was paused")
def paused_saga_driven_when_claimed(patch: Patch) -> None:
    patch.setattr(SagaState, "is_paused", False)


@bug("a paused saga rests only until")
def paused_saga_stays_due(patch: Patch) -> None:
    def due(state: SagaState, asked: Any) -> Decision:
        return replace(pause_requested(state, asked), due=asked.due)

    patch.setattr(vars(decide)["pausing"], "pause_requested", due)


@bug("it awaits")
def resumed_saga_forgets_its_wait(patch: Patch) -> None:
    def forgetful(state: SagaState, asked: Any) -> Decision:
        decision = resume_requested(state, asked)
        return replace(decision, state=replace(decision.state, waiting_for=None))

    patch.setattr(vars(decide)["pausing"], "resume_requested", forgetful)


@bug("was used up, but no rollback began")
def cancel_of_a_driven_saga_dropped(patch: Patch) -> None:
    after: Any = vars(obeying)["_after"]

    def deaf(live: Any, before: Decision, signal: Any) -> Decision:
        decision: Decision = after(live, before, signal)
        if signal.kind is not SignalKind.CANCEL:
            return decision
        ignored = ignore_command(before.state, before.due, reason="planned")
        return replace(before, history=(*before.history, *ignored.history))

    patch.setattr(obeying, "_after", deaf)


@bug("a pause was used up, but the saga goes on")
def pause_of_a_driven_saga_dropped(patch: Patch) -> None:
    after: Any = vars(obeying)["_after"]

    def deaf(live: Any, before: Decision, signal: Any) -> Decision:
        decision: Decision = after(live, before, signal)
        if signal.kind is not SignalKind.PAUSE:
            return decision
        ignored = ignore_command(before.state, before.due, reason="planned")
        return replace(before, history=(*before.history, *ignored.history))

    patch.setattr(obeying, "_after", deaf)


@bug("instead of what a person gave")
def edited_input_dropped(patch: Patch) -> None:
    def deaf(definition: Any, state: SagaState, asked: Any) -> Decision:
        decision = edit_requested(definition, state, asked)
        return replace(decision, state=replace(decision.state, step_input=state.step_input))

    patch.setattr(vars(decide)["amending"], "edit_requested", deaf)


@bug("two pieces of work got one idempotency key")
def edited_input_has_the_key_of_the_old_one(patch: Patch) -> None:
    def replayed(definition: Any, state: SagaState, asked: Any) -> Decision:
        decision = edit_requested(definition, state, asked)
        return replace(decision, state=replace(decision.state, generation=state.generation))

    patch.setattr(vars(decide)["amending"], "edit_requested", replayed)
