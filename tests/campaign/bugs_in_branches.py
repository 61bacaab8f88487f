"""Bugs to be planted in what drives the steps of a parallel saga."""

from __future__ import annotations

from typing import Any

from saga_core import parallel
from saga_core.branches import ParallelOutputs
from saga_core.crew import LiveBranch
from saga_core.definition import SagaDefinition
from saga_core.fleet import Fleet
from saga_core.happening import Decision
from saga_core.records import NewEntry
from tests.campaign.bug import Patch, bug


@bug("was begun before the steps")
def begun_when_one_of_several_is_done(patch: Patch) -> None:
    def ready(definition: SagaDefinition, outputs: ParallelOutputs) -> list[str]:
        return [
            spec.step_id
            for spec in definition.steps
            if spec.step_id not in outputs
            and spec.step_id not in outputs.branches
            and (not spec.depends_on or any(each in outputs for each in spec.depends_on))
        ]

    patch.setattr(parallel, "ready_steps", ready)


@bug("is to be undone before the steps|which depend on it")
def undone_in_any_order(patch: Patch) -> None:
    patch.setattr(Fleet, "_free", lambda _, left: sorted(left))


@bug("the rollback began while the steps")
def turned_back_while_another_runs(patch: Patch) -> None:
    runs: Any = vars(Fleet)["_runs"]
    patch.setattr(Fleet, "_runs", property(lambda self: not self.is_failing and runs.fget(self)))


@bug("may have been done, and the rollback passed it over")
def branch_in_doubt_passed_over(patch: Patch) -> None:
    turned_back = Fleet.turned_back

    def forgets(self: Fleet, token: Any, failure: Any = None) -> Decision:
        self.branches = {}
        return turned_back(self, token, failure)

    patch.setattr(Fleet, "turned_back", forgets)


@bug("where step_.* stands was not recorded")
def failed_attempt_of_a_branch_forgotten(patch: Patch) -> None:
    def history(self: Fleet) -> tuple[NewEntry, ...]:
        moved = [self.branches[step_id] for step_id in self._changed]
        return (*self.entries, *(each.entry() for each in moved if not each.state.attempt))

    patch.setattr(Fleet, "_history", history)


@bug("after the pivot was done")
def pivot_of_a_branch_forgotten(patch: Patch) -> None:
    patch.setattr(Fleet, "is_past_pivot", False)


@bug("which was to cancel it")
def siblings_not_cancelled(patch: Patch) -> None:
    patch.setattr(parallel.Crew, "_is_cancelling", lambda _: False)


@bug("two pieces of work got one idempotency key")
def branches_share_a_key(patch: Patch) -> None:
    step_context = LiveBranch.step_context

    def shared(self: LiveBranch, spec: Any, **more: Any) -> Any:
        context = step_context(self, spec, **more)
        context.idempotency_key = str(context.saga_id)
        return context

    patch.setattr(LiveBranch, "step_context", shared)


@bug("was shown another token")
def branches_share_a_token(patch: Patch) -> None:
    step_context = LiveBranch.step_context

    def shared(self: LiveBranch, spec: Any, **more: Any) -> Any:
        context = step_context(self, spec, **more)
        context.token = context.saga_id
        return context

    patch.setattr(LiveBranch, "step_context", shared)
