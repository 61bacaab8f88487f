"""Bugs to be planted in the rules: `decide`, `forward`, `rollback` and the retry policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from saga_core import FixedRetry, decide, forward, rollback
from saga_core.definition import SagaDefinition
from saga_core.happening import (
    Aborted,
    Compensated,
    CompensationFailed,
    CompensationRequested,
    Decision,
    Failure,
    Recorded,
    SkipRequested,
    StepDone,
)
from saga_core.records import (
    Due,
    SagaState,
)
from saga_core.status import SagaStatus
from tests.campaign.bug import Patch, bug


@bug("the saga was left at step_0; by its history it is at")
def rollback_begins_with_the_oldest(patch: Patch) -> None:
    roll_back = rollback.roll_back

    def oldest(
        definition: SagaDefinition,
        state: SagaState,
        outputs: Mapping[str, Recorded],
        before: int,
        *more: Any,
    ) -> Decision:
        can = [
            spec.index
            for spec in definition.steps[:before]
            if spec.step_id in outputs and spec.can_compensate
        ]
        return roll_back(definition, state, outputs, min(can, default=-1) + 1, *more)

    patch.setattr(rollback, "roll_back", oldest)


@bug("the saga was left COMPENSATED; by its history it is COMPENSATING")
def rollback_ends_after_one_compensation(patch: Patch) -> None:
    compensated = rollback.compensated

    def lazy(
        definition: SagaDefinition,
        state: SagaState,
        outputs: Mapping[str, Recorded],
        done: Compensated,
    ) -> Decision:
        return compensated(definition, state, {}, done)

    patch.setattr(rollback, "compensated", lazy)


@bug("compensated of step_.* was recorded, but nothing of the kind happened")
def compensation_skipped_after_a_retry(patch: Patch) -> None:
    failed = rollback.compensation_failed

    def careless(
        definition: SagaDefinition, state: SagaState, happened: CompensationFailed
    ) -> Decision:
        if state.attempt:
            return rollback.compensated(definition, state, {}, Compensated(uuid4()))
        return failed(definition, state, happened)

    patch.setattr(rollback, "compensation_failed", careless)


@bug(r"the saga was left with \d failed attempts instead of 0")
def retry_counter_not_reset(patch: Patch) -> None:
    done = forward.step_done

    def sticky(
        definition: SagaDefinition, state: SagaState, outputs: Any, happened: StepDone
    ) -> Decision:
        decision = done(definition, state, outputs, happened)
        if decision.state.status is SagaStatus.RUNNING:
            decision = replace(decision, state=replace(decision.state, attempt=state.attempt))
        return decision

    patch.setattr(forward, "step_done", sticky)


@bug("attempt 3 of 2 was planned")
def one_attempt_too_many(patch: Patch) -> None:
    delay = FixedRetry.delay_after

    def generous(self: FixedRetry, failed: int, *, jitter: float) -> timedelta | None:
        return delay(self, failed - 1 if failed > 1 else failed, jitter=jitter)

    patch.setattr(FixedRetry, "delay_after", generous)


@bug("the step was given up after 1 of")
def no_retries(patch: Patch) -> None:
    patch.setattr(FixedRetry, "delay_after", lambda *_, **__: None)


@bug("retrying of step_.* was recorded, but nothing of the kind happened")
def final_error_retried(patch: Patch) -> None:
    patch.setattr(FixedRetry, "retries", lambda *_: True)


@bug("the saga was left RUNNING; by its history it is FAILED")
def abort_goes_on(patch: Patch) -> None:
    aborted = decide._aborted

    def deaf(state: SagaState, asked: Aborted) -> Decision:
        decision = aborted(state, asked)
        if state.status is not SagaStatus.RUNNING:
            return decision
        return Decision(state, decision.history, drive=True, due=Due(delay=timedelta(0)))

    patch.setattr(decide, "_aborted", deaf)


@bug("by its history it is COMPENSATING")
def forward_after_a_rollback_was_asked_for(patch: Patch) -> None:
    asked_for = rollback.compensation_requested

    def deaf(
        definition: SagaDefinition,
        state: SagaState,
        outputs: Mapping[str, Recorded],
        asked: CompensationRequested,
    ) -> Decision:
        decision = asked_for(definition, state, outputs, asked)
        if state.status is SagaStatus.RUNNING:
            return Decision(state, decision.history, drive=True, due=Due(delay=timedelta(0)))
        return decision

    patch.setattr(rollback, "compensation_requested", deaf)


@bug("a skipped step has another output than the one that was given")
def skipped_output_dropped(patch: Patch) -> None:
    skip = decide._skip_requested

    def lossy(definition: SagaDefinition, state: SagaState, outputs: Any, asked: Any) -> Decision:
        asked = SkipRequested(asked.by, '{"serial":0,"note":""}', asked.token, asked.next_input)
        return skip(definition, state, outputs, asked)

    patch.setattr(decide, "_skip_requested", lossy)


@bug("by its history it is FAILED")
def rollback_that_was_not_wanted(patch: Patch) -> None:
    fail = forward.fail_for_good

    def eager(definition: SagaDefinition, *more: Any) -> Decision:
        return fail(dataclasses.replace(definition, compensate_on_failure=True), *more)

    patch.setattr(forward, "fail_for_good", eager)


@bug("failed of step_.* was recorded, but nothing of the kind happened")
def unrecordable_step_rolled_past(patch: Patch) -> None:
    fail = forward.fail_for_good

    def careless(
        definition: Any, state: Any, outputs: Any, failure: Failure, *more: Any
    ) -> Decision:
        return fail(definition, state, outputs, replace(failure, unrecordable=False), *more)

    patch.setattr(forward, "fail_for_good", careless)
