"""The part of `SagaBuilder` that takes hooks: steps around a saga, at its start and its ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from saga_core.codec import PayloadCodec
from saga_core.definition import HookContext, StepSpec
from saga_core.errors import SagaDefinitionError
from saga_core.fitting import check_map, checked_policy, checked_timeout, signature_of
from saga_core.retry import NoRetry, RetryPolicy
from saga_core.status import Hook
from saga_core.step import BaseStep

__all__ = ["HookBuilder"]


class HookBuilder:
    """Collects the hooks of a saga.

    A hook is a step of its own: it runs at least once, with the timeout and the retry policy that
    it was given, and is never undone. `input_map` computes its input from a `HookContext`, once.
    The hook of an end runs after the end was decided and before it is recorded: until then the
    saga is RUNNING, holds its aggregate id, and cannot turn back. A hook that fails for good
    makes the saga STUCK: `retry_step` runs it again, `skip_step` goes on without it. Each of
    these raises `SagaDefinitionError` for a hook that the saga has already, or whose step, map,
    timeout or policy does not fit.
    """

    def __init__(self) -> None:
        self._by_hook: dict[Hook, StepSpec] = {}

    def on_start(
        self,
        *,
        step: BaseStep[Any, Any],
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Run a step before the first one, once the saga begins."""
        self._add_hook(Hook.ON_START, step, input_map, timeout, retry_policy)

    def on_completed(
        self,
        *,
        step: BaseStep[Any, Any],
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Run a step before the saga is COMPLETED."""
        self._add_hook(Hook.ON_COMPLETED, step, input_map, timeout, retry_policy)

    def on_compensated(
        self,
        *,
        step: BaseStep[Any, Any],
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Run a step before the saga is COMPENSATED, be it that nothing was done."""
        self._add_hook(Hook.ON_COMPENSATED, step, input_map, timeout, retry_policy)

    def on_failed(
        self,
        *,
        step: BaseStep[Any, Any],
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Run a step before the saga is FAILED: aborted, or without `compensate_on_failure`."""
        self._add_hook(Hook.ON_FAILED, step, input_map, timeout, retry_policy)

    def on_stuck(
        self,
        *,
        step: BaseStep[Any, Any],
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """Run a step before the saga is STUCK, each time, also because of another hook."""
        self._add_hook(Hook.ON_STUCK, step, input_map, timeout, retry_policy)

    def _add_hook(
        self,
        hook: Hook,
        step: BaseStep[Any, Any],
        input_map: Callable[..., Any],
        timeout: timedelta | None,
        retry_policy: RetryPolicy | None,
    ) -> None:
        if hook in self._by_hook:
            raise SagaDefinitionError(f"the saga has a hook {hook} already")
        signature = signature_of(step, f"hook {hook}")
        where = f"hook {hook} ({type(step).__name__})"
        spec = StepSpec(
            step_id=hook.value,
            index=0,
            step=step,
            signature=signature,
            input_map=input_map,
            depends_on=(),
            timeout=checked_timeout(timeout, "timeout", where),
            retry_policy=checked_policy(retry_policy, "retry_policy", where),
            compensation_timeout=None,
            compensation_retry_policy=NoRetry(),
            input=PayloadCodec.of_written(signature.input_type, what=f"{where}, input"),
            output=PayloadCodec.of_written(signature.output_type, what=f"{where}, output"),
            hook=hook,
        )
        check_map(input_map, [HookContext], signature.input_type, where)
        self._by_hook[hook] = spec

    def _hooks(self) -> Iterator[StepSpec]:
        """Yield the hooks in an order that does not depend on when they were added."""
        for hook in Hook:
            if hook in self._by_hook:
                yield self._by_hook[hook]
