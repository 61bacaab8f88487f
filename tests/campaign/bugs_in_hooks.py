"""Bugs to be planted in the hooks of a saga's end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saga_core import decide, forward
from saga_core.happening import Decision
from saga_core.live import LiveSaga
from saga_core.status import EntryKind
from tests.campaign.bug import Patch, bug


@bug("and its hook had not run")
def end_recorded_without_its_hook(patch: Patch) -> None:
    patch.setattr(decide, "conclude", lambda _, __, ___, decision, ____: decision)


@bug("is said to be done, which it was not|had ended|by its history|in the midst of its hook")
def failed_hook_taken_for_done(patch: Patch) -> None:
    failed: Any = vars(forward)["step_failed"]

    def careless(definition: Any, state: Any, outputs: Any, happened: Any) -> Decision:
        decision: Decision = failed(definition, state, outputs, happened)
        if not state.is_ending:
            return decision
        entry = replace(decision.history[0], kind=EntryKind.HOOK_DONE, attempt=state.attempt + 1)
        return forward.hook_over(definition, state, outputs, entry)

    patch.setattr(forward, "step_failed", careless)
    patch.setattr(decide.forward, "step_failed", careless)


@bug("two ends were told of with one idempotency key")
def hooks_share_a_key(patch: Patch) -> None:
    step_context = LiveSaga.step_context

    def shared(self: LiveSaga, spec: Any, **more: Any) -> Any:
        context = step_context(self, spec, **more)
        if spec.hook is not None:
            context.idempotency_key = str(context.saga_id)
        return context

    patch.setattr(LiveSaga, "step_context", shared)
