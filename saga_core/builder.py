"""`SagaBuilder`: put steps together, and hear at once what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from saga_core.annotations import name_of
from saga_core.child import ChildMap, ChildResult, ChildStep
from saga_core.codec import PayloadCodec
from saga_core.definition import CompensateWhen, OnBranchFailure, SagaDefinition, StepRef, StepSpec
from saga_core.errors import SagaDefinitionError, TypeValidationError
from saga_core.fitting import checked_policy, checked_retain, checked_timeout, signature_of
from saga_core.hooking import HookBuilder
from saga_core.linking import Reference, check_map_of, earlier, linked, no_way_back, possible
from saga_core.retry import RetryPolicy
from saga_core.status import Hook
from saga_core.step import BaseStep, StepSignature

__all__ = ["SagaBuilder"]

Out = TypeVar("Out")

_STEP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class SagaBuilder(HookBuilder):
    """Collects the steps of a saga. They run in the order in which they were added."""

    def __init__(
        self,
        *,
        compensate_on_failure: bool = True,
        parallel: bool = False,
        on_branch_failure: OnBranchFailure = "finish",
        retain: timedelta | None = None,
    ) -> None:
        """Without `compensate_on_failure` a saga that fails ends as FAILED, nothing undone.

        With `parallel` a step begins as soon as all steps that it depends on are done, and a
        rollback undoes independent steps at once. `on_branch_failure` says what becomes of those
        that run while another fails for good: "finish" lets their attempts end, so that what they
        have done is on record and undone; "cancel" cancels them, and like a step that timed out
        they are undone only with `compensate_when="maybe_done"`.

        With `retain` workers that have registered the saga delete its sagas that ended at least so
        long ago, as `SagaWorker(retain=)` does with all. Raises `SagaDefinitionError`.
        """
        super().__init__()
        if not isinstance(parallel, bool):
            raise SagaDefinitionError(f"parallel must be True or False, got {parallel!r}")
        if on_branch_failure not in ("finish", "cancel"):
            raise SagaDefinitionError(
                f'on_branch_failure must be "finish" or "cancel", got {on_branch_failure!r}'
            )
        if on_branch_failure == "cancel" and not parallel:
            raise SagaDefinitionError('on_branch_failure="cancel" needs parallel=True')
        self._compensate_on_failure = compensate_on_failure
        self._parallel = parallel
        self._on_branch_failure: OnBranchFailure = on_branch_failure
        self._retain = checked_retain(retain)
        self._steps: dict[str, StepSpec] = {}

    def add_step(
        self,
        *,
        step: BaseStep[Any, Out],
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
        depends_on: Reference | Sequence[Reference] | None = None,
        step_id: str | None = None,
        compensation_timeout: timedelta | None = None,
        compensation_retry_policy: RetryPolicy | None = None,
        compensate_when: CompensateWhen = "done",
        pivot: bool = False,
        transaction: bool = False,
    ) -> StepRef[Out]:
        """Add a step and return a reference to its output.

        `input_map` computes the step's input: from an `InputContext`, or with `depends_on` from
        the output of each step named there. It must be pure: it may run again. In a parallel saga
        `depends_on` may also name steps by their ids, those that are yet to be added included.
        Without a retry policy there is one attempt. `step_id` defaults to `step_{n}`, counted from
        0; sagas in flight refer to it, so keep it when code changes.

        With `compensate_when="maybe_done"` a rollback also undoes the step that it begins at, which
        may have been done although it failed, timed out or was cut off; its compensation must then
        take `out: ... | None`. Once the `pivot` is done the saga is never rolled back, a step that
        fails for good is STUCK; a saga has at most one. With `transaction=True` the step and its
        compensation get the store's own transaction as `ctx.transaction`; the saga can then only
        be registered with a store that has one. Raises `SagaDefinitionError`.
        """
        number = len(self._steps)
        step_id = self._checked_id(step_id, number)
        signature = signature_of(step, f"step '{step_id}'")
        where = f"step '{step_id}' ({type(step).__name__})"
        spec = StepSpec(
            step_id=step_id,
            index=number,
            step=step,
            signature=signature,
            input_map=input_map,
            depends_on=self._checked_references(depends_on, where),
            timeout=checked_timeout(timeout, "timeout", where),
            retry_policy=checked_policy(retry_policy, "retry_policy", where),
            compensation_timeout=checked_timeout(
                compensation_timeout, "compensation_timeout", where
            ),
            compensation_retry_policy=checked_policy(
                compensation_retry_policy, "compensation_retry_policy", where
            ),
            compensate_when=_checked_compensate_when(compensate_when, signature, where),
            pivot=self._checked_pivot(pivot, compensate_when, where),
            transaction=_checked_transaction(transaction, signature, where),
            input=PayloadCodec.of_written(signature.input_type, what=f"{where}, input"),
            output=PayloadCodec.of_written(signature.output_type, what=f"{where}, output"),
        )
        if all(each in self._steps for each in spec.depends_on):
            check_map_of(spec, self._steps)  # else by `build`, when all steps are there
        self._steps[step_id] = spec
        return StepRef(step_id, signature.output_type, self, spec.output)

    def add_child(
        self,
        *,
        saga_name: str,
        input_map: Callable[..., Any],
        timeout: timedelta | None = None,
        retry_policy: RetryPolicy | None = None,
        depends_on: Reference | Sequence[Reference] | None = None,
        step_id: str | None = None,
        compensation_retry_policy: RetryPolicy | None = None,
    ) -> StepRef[ChildResult]:
        """Add a step that starts another saga and waits for its end; return a reference.

        `input_map`, as in `add_step`, computes the child's `initial_data`, or a `ChildStart` with
        an aggregate id or tags. The child is what is registered as `saga_name` where the parent is
        driven, its newest version. When it is COMPLETED the step has a `ChildResult`; COMPENSATED
        or FAILED, the step has failed with the `error_code` ChildFailedError, and each further
        attempt of the retry policy is another child. After `timeout` the step fails for good and
        the child is rolled back, as it is whenever the step is undone: cancelled if it runs,
        rolled back if it is done. Raises `SagaDefinitionError`.
        """
        if not isinstance(saga_name, str) or not saga_name:
            raise SagaDefinitionError(
                f"add_child needs the name of a saga as saga_name, got {saga_name!r}"
            )
        past_pivot = any(spec.pivot for spec in self._steps.values())
        return self.add_step(
            step=ChildStep(saga_name),
            input_map=ChildMap(input_map),
            timeout=timeout,
            retry_policy=retry_policy,
            depends_on=depends_on,
            step_id=step_id,
            compensation_retry_policy=compensation_retry_policy,
            compensate_when="done" if past_pivot and not self._parallel else "maybe_done",
        )

    def build(self) -> SagaDefinition:
        """Return the saga, which later changes of the builder do not touch.

        Raises `SagaDefinitionError` for a saga without steps; of a parallel one also for a step
        that depends on one which is not there, or in the end on itself: then the cycle is
        spelled out, like `a -> b -> a`.
        """
        if not self._steps:
            raise SagaDefinitionError("the saga has no steps: call add_step before build")
        return SagaDefinition(
            linked(self._steps) if self._parallel else tuple(self._steps.values()),
            self._compensate_on_failure,
            tuple(self._hooks()),
            parallel=self._parallel,
            on_branch_failure=self._on_branch_failure,
            retain=self._retain,
        )

    def _checked_id(self, step_id: str | None, number: int) -> str:
        if step_id is None:
            step_id = f"step_{number}"
        if not isinstance(step_id, str) or not _STEP_ID.fullmatch(step_id):
            raise SagaDefinitionError(
                f"step_id {step_id!r} is not valid: use 1 to 64 letters, digits, '_', '.' or '-', "
                "beginning with a letter or digit"
            )
        if step_id in tuple(Hook):
            raise SagaDefinitionError(
                f"step_id '{step_id}' is the name of a hook: give the step another one"
            )
        if step_id in self._steps:
            raise SagaDefinitionError(
                f"there are two steps with the id '{step_id}': give one of them another step_id"
            )
        return step_id

    def _checked_pivot(self, pivot: bool, compensate_when: CompensateWhen, where: str) -> bool:
        if not isinstance(pivot, bool):
            raise SagaDefinitionError(f"{where}: pivot must be True or False, got {pivot!r}")
        before = next((spec for spec in self._steps.values() if spec.pivot), None)
        if pivot and before is not None:
            raise SagaDefinitionError(
                f"{where}: step '{before.step_id}' is the saga's pivot already: a saga has at most "
                "one"
            )
        behind = before is not None and not self._parallel
        if compensate_when == "maybe_done" and (pivot or behind):
            raise SagaDefinitionError(no_way_back(where, pivot))
        return pivot

    def _checked_references(
        self, depends_on: Reference | Sequence[Reference] | None, where: str
    ) -> tuple[str, ...]:
        if depends_on is None:
            return ()
        if self._parallel:
            return tuple(possible(depends_on, self, where))
        return earlier(depends_on, self._steps, self, where)


def _checked_transaction(value: bool, signature: StepSignature, where: str) -> bool:
    if not isinstance(value, bool):
        raise SagaDefinitionError(f"{where}: transaction must be True or False, got {value!r}")
    shapes = {"execute": signature.execute, "compensate": signature.compensate}
    for name, shape in shapes.items():
        if value and shape is not None and not shape.is_async:
            raise SagaDefinitionError(
                f"{where}: {name} is a plain def, which runs in a thread, and the store's "
                "transaction cannot be used there: make it async, or leave transaction=True out"
            )
    return value


def _checked_compensate_when(
    value: CompensateWhen, signature: StepSignature, where: str
) -> CompensateWhen:
    if value not in ("done", "maybe_done"):
        raise SagaDefinitionError(
            f'{where}: compensate_when must be "done" or "maybe_done", got {value!r}'
        )
    if value == "done":
        return value
    if signature.compensate is None:
        raise SagaDefinitionError(
            f'{where}: compensate_when="maybe_done" needs a compensate method, which the step has '
            "not"
        )
    if not signature.undoes_without_output:
        kind = name_of(signature.output_type)
        raise TypeValidationError(
            f'{where}: with compensate_when="maybe_done" there may be no output on record: '
            f"annotate compensate's `out: {kind} | None` and let it undo without one"
        )
    return value
