"""The rule of a saga that is moved to another version of its definition."""

from __future__ import annotations

from dataclasses import replace

from saga_core.definition import SagaDefinition
from saga_core.happening import Decision, MovedToVersion
from saga_core.records import SagaState

__all__ = ["move_to_version"]


def move_to_version(
    definition: SagaDefinition, state: SagaState, moved: MovedToVersion
) -> Decision:
    """Go on at the step that the upcaster has named, without changing what the saga waits for.

    The token stays, so that who has it can still reach the saga. Attempts are those of the step:
    another one begins at its first. So is the idempotency key, also if the input is told in other
    words: an attempt whose answer was lost may stand under it. The decision is written with
    whatever follows first.
    """
    spec = definition.step(moved.step_id)
    there = replace(state, step_id=spec.step_id, step_index=spec.index, step_input=moved.input)
    if spec.step_id != state.step_id:
        there = replace(there, attempt=0, generation=0)
    return Decision(state=there, history=(moved.entry,), drive=False, due=None)
