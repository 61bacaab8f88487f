"""Run a step's code: coroutines in the driver's task, plain functions in a thread of their own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any

from saga_core.step import CallShape, StepContext

__all__ = ["Interrupt", "Interrupted", "SagaDeadlineError", "StepCall", "StepTimeoutError"]


class Interrupt(Enum):
    """Why a running step was cancelled from outside."""

    LEASE_LOST = "lease lost"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
    """Whoever awaits the driver was cancelled."""
    SIBLING = "sibling failed"
    """Another step of a parallel saga has failed for good."""


class Interrupted(Exception):  # noqa: N818 - control flow, not an error
    """The running step was cancelled, for `reason`; its outcome is not known."""

    def __init__(self, reason: Interrupt) -> None:
        super().__init__(reason.value)
        self.reason = reason


class StepTimeoutError(TimeoutError):
    """The step took longer than its timeout."""


class SagaDeadlineError(TimeoutError):
    """The saga's deadline passed. Never raised to a caller: its name is the `error_code`."""


class StepCall:
    """One place in which steps of one saga run, one at a time, and can be broken off."""

    def __init__(self) -> None:
        self._interrupt: Interrupt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancels = 0
        self._context: StepContext | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None

    @property
    def interrupt(self) -> Interrupt | None:
        """What was asked of it by `break_off`, if anything."""
        return self._interrupt

    def break_off(self, reason: Interrupt) -> None:
        """Cancel the running step, and let no further one begin. A lost lease is the last word."""
        if self._interrupt is not Interrupt.LEASE_LOST:
            self._interrupt = reason
        if self._context is not None:
            self._context._signal(cancelled=True, lease_lost=reason is Interrupt.LEASE_LOST)
        if self._task is not None:
            self._cancels += 1
            self._task.cancel()

    def heard(self) -> None:
        """Let steps run again after the command behind an interrupt was looked at."""
        if self._interrupt is Interrupt.ABORTED:
            self._interrupt = None

    def stir(self) -> None:
        """Hear that something has come to the saga: what runs one step has no use for that."""

    async def run(
        self,
        shape: CallShape,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        context: StepContext,
        timeout: float | None,  # noqa: ASYNC109 - the step's own limit, in seconds
    ) -> Any:
        """Call a step's method and return what it returns.

        Raises `Interrupted` after `break_off`, `StepTimeoutError` after `timeout` seconds, and
        else whatever the step raises. A coroutine is cancelled and awaited; a thread is asked by
        `context.cancelled` and waited for. Cancelling the caller cancels the step the same way.
        """
        if self._interrupt is not None:
            raise Interrupted(self._interrupt)
        if shape.takes_context:
            arguments = (*arguments, context)
        self._context = context
        self._task = asyncio.current_task()
        late: list[Any] = []
        try:
            try:
                if timeout is not None:
                    return await _limited(shape, function, arguments, context, timeout, late)
                if shape.is_async:
                    return await function(*arguments)
                return await _in_thread(function, arguments, context, late)
            finally:
                if self._cancels:
                    # Asked for by the step itself, which has not awaited anything since: it is
                    # cancelled here, not wherever its driver awaits something next.
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._interrupt is None:
                raise
            if late and self._interrupt in (Interrupt.ABORTED, Interrupt.SIBLING):
                return late[0]
            raise Interrupted(self._interrupt) from None
        finally:
            # Our own cancellations have done their work, also where the step swallowed them.
            for _ in range(self._cancels):
                if self._task is not None:
                    self._task.uncancel()
            self._cancels = 0
            self._task = None
            self._context = None


async def _limited(
    shape: CallShape,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    context: StepContext,
    timeout: float,  # noqa: ASYNC109 - the step's own limit, in seconds
    late: list[Any],
) -> Any:
    try:
        async with asyncio.timeout(timeout) as scope:
            if shape.is_async:
                return await function(*arguments)
            return await _in_thread(function, arguments, context, late)
    except TimeoutError:
        if not scope.expired():
            raise  # the step's own
        if late:
            return late[0]
        raise StepTimeoutError(f"took longer than {timeout:g} s") from None


async def _in_thread(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    context: StepContext,
    late: list[Any],
) -> Any:
    """Run a plain function in a daemon thread of its own, with the caller's context variables.

    If the caller is cancelled, what the function puts out all the same is added to `late`: it
    counts as that of a coroutine does which comes to its end although it was cancelled.

    A pool would let waiting steps starve others, and its threads would hold up the exit of a
    process whose stop a step has outlasted.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    run = contextvars.copy_context().run

    def settle(result: Any, error: BaseException | None) -> None:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = run(function, *arguments)
        except StopIteration as error:
            failure = RuntimeError(f"the step raised StopIteration: {error}")
        except Exception as error:
            failure = error
        except BaseException as error:  # a thread can end neither the process nor its driver
            failure = RuntimeError(f"the step raised {type(error).__name__}")
            failure.__cause__ = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            # The loop is closed: nobody waits for the step any more.
            return

    threading.Thread(target=work, name=f"saga-step-{context.step_id}", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        context._signal(cancelled=True)
        # The next attempt must not run beside this thread, so it is waited for.
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                continue
        if not future.cancelled() and future.exception() is None and future.result() is not None:
            late.append(future.result())  # None is what a function returns that gives up
        raise
