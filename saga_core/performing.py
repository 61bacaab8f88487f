"""Run the step a saga is at, and say what happened."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from saga_core.awaiting import AwaitEvent, Sleep
from saga_core.call import Interrupt, Interrupted, SagaDeadlineError, StepTimeoutError
from saga_core.child import ChildStep
from saga_core.children import Children
from saga_core.codec import PayloadLimits
from saga_core.definition import StepSpec
from saga_core.errors import PayloadError
from saga_core.failure import failure_of
from saga_core.happening import (
    Compensated,
    CompensationFailed,
    DeadlinePassed,
    Failure,
    Happened,
    Probed,
    Recorded,
    StartAhead,
    StartDue,
    StepDone,
    StepFailed,
    TurnCame,
    Undecodable,
    Unmappable,
)
from saga_core.lease import LeaseLostError
from saga_core.live import LiveSaga
from saga_core.observing import Observers
from saga_core.outputs import thing_of
from saga_core.status import Direction, Hook
from saga_core.waking import goes_on, wait_again, wake_up

__all__ = ["StepCancelledError", "StepRunner", "untimely"]

logger = logging.getLogger("saga_core")


class StepCancelledError(Exception):
    """A step raised `CancelledError` although nobody had cancelled its driver."""


def _asks(live: LiveSaga) -> Recorded | None:
    """Return what a probe is asked for next, if the saga is at a step that has one to be asked."""
    if live.state.direction is Direction.FORWARD or live.state.step_id is None:
        return None
    recorded = thing_of(live.outputs, live.state)
    has_probe = live.definition.step(live.state.step_id).signature.probe is not None
    return recorded if recorded.maybe and has_probe else None


def _no_longer_optional(spec: StepSpec) -> Failure:
    error = (
        f"step '{spec.step_id}' may have been done and there is no output on record, but its "
        "compensate no longer takes None for `out`"
    )
    return Failure(error=error, code="TypeValidationError", retryable=False)


class StepRunner:
    """Does or undoes one step of a saga. Writes nothing."""

    def __init__(
        self,
        limits: PayloadLimits,
        observers: Observers,
        children: Children,
        longest_transaction: timedelta,
    ) -> None:
        """`longest_transaction` is the time limit of a step that works in one."""
        self._limits = limits
        self._children = children
        self._observers = observers
        self._longest_transaction = longest_transaction.total_seconds()

    async def run(self, live: LiveSaga) -> Happened | None:
        """Do or undo the current step, if it is time. None when a command broke it off."""
        assert live.state.step_id is not None  # noqa: S101 - else it would not be driving
        early_or_late = untimely(live)
        if early_or_late is not None:
            return early_or_late
        if live.state.step_id == Hook.TELL_PARENT:
            return await self._children.tell_parent(live)
        spec = live.definition.step(live.state.step_id)
        if isinstance(spec.step, ChildStep):
            return await self._children.run(live, spec, spec.step)
        forward = live.state.direction is Direction.FORWARD
        instead = wake_up(live, spec)
        if instead is not None:
            return instead
        try:
            if forward:
                return await self._execute(live)
            return await self._undo(live)
        except Interrupted as interrupted:
            if interrupted.reason is Interrupt.LEASE_LOST:
                raise LeaseLostError(
                    f"the lease of {live.position} was lost; the step was cancelled and what it "
                    "did is not on record",
                    saga_id=live.saga_id,
                ) from None
            return None
        except SagaDeadlineError as error:
            logger.info("%s", error)
            return StepFailed(failure_of(error), uuid4(), 0.0)
        except Exception as error:
            policy = spec.retry_policy if forward else spec.compensation_retry_policy
            failure = failure_of(error, policy)
            if _asks(live) is not None:
                failure = replace(failure, error=f"the probe raised {failure.error}")
            logger.info("%s failed: %s", live.position, failure.error)
            jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
            if forward:
                return StepFailed(failure, uuid4(), jitter)
            return CompensationFailed(failure, jitter)

    async def _execute(self, live: LiveSaga) -> Happened:
        spec = live.definition.step(live.state.step_id or "")
        text = live.state.step_input
        what = f"step '{spec.step_id}'"
        if text is None and spec.hook is not None:
            mapped = live.map_input(spec)
            if isinstance(mapped, Unmappable):
                return StepFailed(mapped.failure, uuid4(), 0.0)
            text = mapped.text
            live.state = replace(live.state, step_input=text)
        try:
            inp = spec.input.decode(text or "null", what=f"input of {what}")
        except PayloadError as error:
            return Undecodable(failure_of(error))
        shape = spec.signature.execute
        out = await self._enter(live, spec.step.execute, shape, (inp,), spec.timeout)
        if isinstance(out, (AwaitEvent, Sleep)):
            return wait_again(live, spec, out, self._limits)
        try:
            output, value = spec.output.roundtrip(
                out, what=f"output of {what}", limits=self._limits
            )
        except Exception as error:
            return StepFailed(failure_of(error, unrecordable=True), uuid4(), 0.0)
        live.assume(spec.step_id, output, value)
        next_input = live.input_after(spec)
        return StepDone(text, output, uuid4(), next_input)

    async def _undo(self, live: LiveSaga) -> Happened:
        spec = live.definition.step(live.state.step_id or "")
        recorded = thing_of(live.outputs, live.state)
        what = f"step '{spec.step_id}'"
        try:
            inp = spec.input.decode(recorded.input or "null", what=f"input of {what}")
            out = None
            if not recorded.maybe:
                out = spec.output.decode(recorded.output, what=f"output of {what}")
        except PayloadError as error:
            return Undecodable(failure_of(error))
        if _asks(live) is not None:
            return await self._probe(live, inp)
        signature = spec.signature
        if recorded.maybe and not signature.undoes_without_output:
            return Undecodable(_no_longer_optional(spec))
        shape = signature.compensate
        assert shape is not None  # noqa: S101 - decide chose a step that can be undone
        limit = spec.compensation_timeout
        wish = await self._enter(live, spec.step.compensate, shape, (inp, out), limit)
        if isinstance(wish, (AwaitEvent, Sleep)):
            return wait_again(live, spec, wish, self._limits)
        return Compensated(uuid4())

    async def _probe(self, live: LiveSaga, inp: Any) -> Happened:
        spec = live.definition.step(live.state.step_id or "")
        shape = spec.signature.probe
        found = await self._call(live, spec.step.probe, shape, (inp,), spec.compensation_timeout)
        if found is None:
            return Probed(None, uuid4())
        what = f"output that the probe of step '{spec.step_id}' found"
        try:
            output, _ = spec.output.roundtrip(found, what=what, limits=self._limits)
        except Exception as error:
            return CompensationFailed(failure_of(error), 0.0)
        return Probed(output, uuid4())

    async def _enter(
        self,
        live: LiveSaga,
        function: Callable[..., Any],
        shape: Any,
        arguments: tuple[Any, ...],
        limit: timedelta | None,
    ) -> Any:
        """Call a method that may ask to wait; again for each such wait that is over already."""
        spec = live.definition.step(live.state.step_id or "")
        while True:
            out = await self._call(live, function, shape, arguments, limit)
            if not isinstance(out, (AwaitEvent, Sleep)) or not goes_on(live, spec, out):
                return out

    async def _call(
        self,
        live: LiveSaga,
        function: Callable[..., Any],
        shape: Any,
        arguments: tuple[Any, ...],
        limit: timedelta | None,
    ) -> Any:
        spec = live.definition.step(live.state.step_id or "")
        timeout = None if limit is None else limit.total_seconds()
        if live.transaction is not None:
            most = self._longest_transaction
            timeout = most if timeout is None else min(timeout, most)
        left = live.time_left()
        cut = left is not None and (timeout is None or left < timeout)
        context = live.step_context(spec, probed=_asks(live))
        self._observers.step_begins(live)
        try:
            return await live.call.run(
                shape, function, arguments, context, left if cut else timeout
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The step was cancelled from within, not its driver.
            raise StepCancelledError("the step was cancelled from within") from None
        except StepTimeoutError as error:
            if cut:
                raise SagaDeadlineError(f"{_deadline(live)} while {live.position} ran") from None
            raise StepTimeoutError(f"{live.position} {error}") from None
        finally:
            self._observers.step_ends(live)


def untimely(live: LiveSaga) -> Happened | None:
    """Say what comes before the step, or instead of it, by the time."""
    left = live.time_left()
    if left is not None and left <= 0:
        late = SagaDeadlineError(f"{_deadline(live)} while {live.position} did not run")
        return DeadlinePassed(failure_of(late), uuid4())
    if live.state.is_queued:
        ahead = live.timing.begins_at
        return TurnCame(ahead if ahead is not None and live.now < ahead else None)
    begins_at = live.begins_at
    if begins_at is None:
        return None
    return StartAhead(begins_at) if live.now < begins_at else StartDue()


def _deadline(live: LiveSaga) -> str:
    return f"the saga's deadline of {live.timing.deadline_at:%Y-%m-%d %H:%M:%S} UTC passed"
