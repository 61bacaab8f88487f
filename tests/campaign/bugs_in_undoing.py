"""Bugs to be planted in what a rollback does beyond undoing what is surely done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from saga_core import performing, rollback
from saga_core.definition import SagaDefinition
from saga_core.happening import CompensationSkipRequested, Decision, Probed
from saga_core.live import LiveSaga
from saga_core.outputs import Outputs
from saga_core.records import NewEntry, SagaState
from saga_core.status import EntryKind
from tests.campaign.bug import Patch, bug


@bug("after the pivot was done")
def pivot_passed_backwards(patch: Patch) -> None:
    patch.setattr(SagaDefinition, "is_past_pivot", lambda *_: False)


@bug("may have been done, and the rollback passed it over")
def maybe_done_step_passed_over(patch: Patch) -> None:
    patch.setattr(rollback, "begun_step", lambda *_: None)


@bug("ran, but probe of step")
def probe_not_asked(patch: Patch) -> None:
    patch.setattr(performing, "_asks", lambda *_: None)


@bug("the saga was left at|was left COMPENSATING; by its history it is COMPENSATED")
def undone_although_it_was_not_done(patch: Patch) -> None:
    probed = rollback.probed

    def deaf(definition: Any, state: SagaState, outputs: Any, answer: Probed) -> Decision:
        found = probed(definition, state, outputs, Probed("{}", answer.token))
        entry = replace(found.history[0], output=answer.output)
        return replace(found, history=(entry, *found.history[1:]))

    patch.setattr(rollback, "probed", deaf)


@bug("one piece of work got two idempotency keys")
def probe_asks_with_another_key(patch: Patch) -> None:
    step_context = LiveSaga.step_context

    def altered(self: LiveSaga, spec: Any, *, probed: Any = None) -> Any:
        context = step_context(self, spec, probed=probed)
        if probed is not None:
            context.idempotency_key = context.idempotency_key.replace(":do:", ":undo:")
        return context

    patch.setattr(LiveSaga, "step_context", altered)


@bug("ran, but compensation of step")
def probe_answer_forgotten(patch: Patch) -> None:
    hear = Outputs.hear

    def forgetful(self: Outputs, entries: Iterable[NewEntry]) -> None:
        hear(self, [entry for entry in entries if entry.kind is not EntryKind.PROBED])

    patch.setattr(Outputs, "hear", forgetful)


@bug("the saga was left at|by its history it is COMPENSAT")
def skipped_compensation_comes_again(patch: Patch) -> None:
    skip = rollback.compensation_skip_requested

    def deaf(
        definition: Any, state: SagaState, outputs: Any, asked: CompensationSkipRequested
    ) -> Decision:
        decision = skip(definition, state, outputs, asked)
        again = rollback.roll_back(
            definition, state, outputs, state.step_index + 1, asked.token, ()
        )
        return replace(again, history=decision.history)

    patch.setattr(rollback, "compensation_skip_requested", deaf)
