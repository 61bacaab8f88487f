"""Bugs to be planted in what drives a saga."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from saga_core import StoreUnavailableError, engine, notifying, orchestrator
from saga_core.definition import StepSpec
from saga_core.happening import Decision, Failure, Recorded, StepFailed, WorkerLost
from saga_core.lease import LeaseLostError
from saga_core.live import LiveSaga
from saga_core.performing import StepRunner
from saga_core.records import (
    Committed,
    LeaseAction,
    SagaRecord,
)
from saga_core.status import Direction
from tests.campaign.bug import Patch, bug


@bug("ran, but step")
def step_run_again_after_its_commit(patch: Patch) -> None:
    applied = LiveSaga.applied

    def stays(self: LiveSaga, decision: Decision, committed: Committed, *, seen: int) -> None:
        state = self.state
        applied(self, decision, committed, seen=seen)
        if decision.state.step_index == 2 and decision.drive:
            self.state = state

    patch.setattr(LiveSaga, "applied", stays)


@bug("retrying of step_.* was recorded, but nothing of the kind happened")
def lost_reply_taken_for_a_failure(patch: Patch) -> None:
    commit = engine.SagaEngine.commit

    async def hasty(
        self: engine.SagaEngine, live: LiveSaga, decision: Decision, **more: Any
    ) -> Committed:
        try:
            return await commit(self, live, decision, **more)
        except StoreUnavailableError as error:
            failed = StepFailed(Failure(str(error), "StoreUnavailableError"), uuid4(), 0.0)
            if live.state.direction is Direction.ROLLBACK:
                raise
            return await commit(self, live, self._decide(live, failed))

    async def once(write: Callable[[], Awaitable[Any]], **_: Any) -> Any:
        return await write()

    patch.setattr(engine.SagaEngine, "commit", hasty)
    patch.setattr(engine, "settle", once)


@bug("although it knew that it held the saga no more")
def stale_commit_taken_for_success(patch: Patch) -> None:
    commit = engine.SagaEngine.commit

    async def blind(
        self: engine.SagaEngine, live: LiveSaga, decision: Decision, **more: Any
    ) -> Committed:
        try:
            return await commit(self, live, decision, **more)
        except LeaseLostError:
            answer = Committed(
                version=live.version + 1, fence=live.fence, signals=live.signals, held=True
            )
            live.applied(decision, answer, seen=live.seen)
            return answer

    patch.setattr(engine.SagaEngine, "commit", blind)


@bug("although it knew that it held the saga no more")
def drives_on_without_a_lease(patch: Patch) -> None:
    commit = engine.SagaEngine.commit

    async def careless(
        self: engine.SagaEngine, live: LiveSaga, decision: Decision, **more: Any
    ) -> Committed:
        return await commit(self, live, decision, **{**more, "lease": LeaseAction.RELEASE})

    patch.setattr(engine.SagaEngine, "commit", careless)


@bug("two idempotency keys")
def idempotency_key_of_the_attempt(patch: Patch) -> None:
    def changed(context: Any) -> None:
        context.idempotency_key += f":{context.attempt}"

    _alter_contexts(patch, changed)


@bug("two pieces of work got one idempotency key")
def idempotency_key_of_the_saga(patch: Patch) -> None:
    def changed(context: Any) -> None:
        context.idempotency_key = str(context.saga_id)

    _alter_contexts(patch, changed)


@bug("was shown fence 1 instead of|ran steps under one fence")
def fence_shown_as_one(patch: Patch) -> None:
    def changed(context: Any) -> None:
        context.fence = 1

    _alter_contexts(patch, changed)


def _alter_contexts(patch: Patch, change: Callable[[Any], None]) -> None:
    step_context = LiveSaga.step_context

    def altered(self: LiveSaga, spec: StepSpec, **more: Any) -> Any:
        context = step_context(self, spec, **more)
        change(context)
        return context

    patch.setattr(LiveSaga, "step_context", altered)


@bug("notify was granted, but is not on record")
def event_dropped(patch: Patch) -> None:
    intervene: Any = vars(notifying)["intervene"]

    async def lossy(*args: Any, event: Any = None, **more: Any) -> bool:
        return True if event is not None else await intervene(*args, **more)

    patch.setattr(notifying, "intervene", lossy)


@bug("was shown event 0 instead of|was given event 0 instead of")
def events_forgotten_on_takeover(patch: Patch) -> None:
    made = LiveSaga.__init__

    def forgetful(self: LiveSaga, record: Any, registration: Any, limits: Any, *_: Any) -> None:
        made(self, record, registration, limits)

    patch.setattr(LiveSaga, "__init__", forgetful)


@bug("was given output 0 instead of")
def wrong_output_undone(patch: Patch) -> None:
    undo = StepRunner._undo

    async def mistaken(self: StepRunner, live: LiveSaga) -> Any:
        step_id = live.state.step_id or ""
        right = live.outputs[step_id]
        if not right.maybe:
            live.outputs[step_id] = Recorded(right.input, '{"serial":0,"note":""}')
        return await undo(self, live)

    patch.setattr(StepRunner, "_undo", mistaken)


@bug("was in the inbox and its driver knew")
def commands_not_read(patch: Patch) -> None:
    async def deaf(self: engine.SagaEngine, live: LiveSaga) -> None:
        live.seen = live.signals

    patch.setattr(engine.SagaEngine, "_hear", deaf)


@bug("committed while .* held the saga")
def command_takes_over_a_driven_saga(patch: Patch) -> None:
    patch.setattr(SagaRecord, "is_held", False)


@bug("it was stuck after")
def convicted_at_the_first_loss(patch: Patch) -> None:
    async def harsh(self: engine.SagaEngine, live: LiveSaga) -> bool:
        await self.commit(live, self._decide(live, WorkerLost(3)))
        return False

    patch.setattr(engine.SagaEngine, "_on_trial", harsh)


@bug("run_due raised KeyError")
def foreign_error_let_out(patch: Patch) -> None:
    run_due: Any = vars(orchestrator)["run_due"]
    calls = 0

    async def breaks(*args: Any, **more: Any) -> int:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise KeyError("planned")
        driven: int = await run_due(*args, **more)
        return driven

    patch.setattr(orchestrator, "run_due", breaks)
