"""`SagaAdmin`: what a person does when a saga does not end by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Unpack
from uuid import UUID, uuid4

from saga_core.bulk import (
    BulkCommand,
    BulkItem,
    BulkReport,
    bulk_order,
    bulk_query,
    run_bulk,
)
from saga_core.choosing import chosen, in_step, is_forward, is_undone, skippable
from saga_core.engine import SagaEngine
from saga_core.errors import SagaStateError
from saga_core.explaining import explain
from saga_core.finding import Conditions, SagaPage, all_pages, find_page, kept_from, query_of
from saga_core.happening import Happened, Operator, SkipRequested
from saga_core.intervention import intervene
from saga_core.kinship import check_own_child, named_in
from saga_core.live import LiveSaga
from saga_core.names import check_label, check_saga_id
from saga_core.orders import give, order_of, retry_order
from saga_core.records import HistoryEntry, SagaRecord
from saga_core.snapshot import SagaAdminSnapshot, SagaSnapshot
from saga_core.status import Direction, SagaStatus, SignalKind

__all__ = ["SagaAdmin"]

PAGE = 500


class SagaAdmin:
    """Looks into sagas and changes their course, each command with its actor and reason.

    Every refusal is a `SagaStateError` that says which status it found and which it needs, and
    changes nothing. Commands raise `SagaNotFoundError` for an unknown id, and
    `SagaDefinitionError` if the saga's definition is not registered here or has changed.
    """

    def __init__(self, *, engine: SagaEngine) -> None:
        self._engine = engine

    async def get_saga(self, saga_id: UUID) -> SagaAdminSnapshot:
        """Return everything the store knows of a saga."""
        store = self._engine.store
        record = await self._load(saga_id)
        history: list[HistoryEntry] = []
        while page := await store.history(
            saga_id, after=history[-1].seq if history else 0, limit=PAGE
        ):
            history.extend(page)
            if len(page) < PAGE:
                break
        inbox = await store.inbox(saga_id) if record.signals else ()
        return SagaAdminSnapshot.of_all(record, history, inbox)

    async def find(
        self, *, limit: int = 100, cursor: str | None = None, **conditions: Unpack[Conditions]
    ) -> SagaPage:
        """Return a page of the sagas for which all `conditions` hold, oldest first.

        The conditions are those of `saga_core.finding.Conditions`, all of them indexed: `status`
        (one or several), `name`, `version`, `aggregation_id`, `tag`, `error_code`,
        `created_after`, `created_before`, `overdue_by`. A page has at most `limit` sagas, 1 to
        1000, and a `cursor` that gives the next; it stays valid while sagas come, go and change.
        Raises `QueryError` for a status that is none, a time without a zone, a limit out of
        range or a cursor that no page gave.
        """
        query = query_of(limit=limit, cursor=cursor, **conditions)
        return await find_page(self._engine.store, query)

    def find_all(
        self, *, page_size: int = 500, **conditions: Unpack[Conditions]
    ) -> AsyncIterator[SagaSnapshot]:
        """Iterate over all sagas that `find` would give, one page in memory at a time.

        Raises `QueryError` at once. Not a view of one moment: what changes meanwhile is seen as it
        is when its page is read.
        """
        return all_pages(self._engine.store, query_of(limit=page_size, **conditions))

    async def count(self, **conditions: Unpack[Conditions]) -> int:
        """Return for how many sagas all `conditions`, as those of `find`, hold.

        Raises `QueryError`.
        """
        return await self._engine.store.count(query_of(**conditions))

    async def explain(self, saga_id: UUID) -> str:
        """Say in one sentence why the saga is where it is, and what it waits for.

        Of the moment at which the store was read, by the store's clock, and of what is registered
        in this process. For people: its wording is no interface. Raises `SagaNotFoundError`.
        """
        record = await self._load(saga_id)
        before = await kept_from(self._engine.store, record)
        return explain(record, self._engine.registry, before)

    async def retry_step(
        self,
        saga_id: UUID,
        *,
        step_id: str | None = None,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Try the current step again, with its attempts counted anew.

        From SUSPENDED or FAILED as long as no compensation has begun, and from STUCK, where the
        step or hook is tried again in the direction in which it got stuck. Of a parallel one all
        that failed are, else all that wait; or the one that `step_id` names. A FAILED saga takes
        its aggregate again, or `ActiveSagaAlreadyExistsError` is raised. A saga that has not begun
        yet begins now; a saga's deadline that has passed is void from then on. The saga is driven
        on in this task, or with `wait=False` left to a worker.
        """
        order = retry_order(_operator(actor, reason), step_id)
        await give(self._engine, saga_id, order, drive=wait)

    async def skip_step(
        self,
        saga_id: UUID,
        mock_output: Any = None,
        *,
        step_id: str | None = None,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Take `mock_output` for what the current step would have put out, and go on.

        From SUSPENDED or STUCK, before compensation has begun; a parallel saga at several steps
        needs the `step_id`. The output is validated against the step's type (`PayloadError`). A
        later rollback undoes the step with this output, but for one that was skipped before it
        had an input or the saga had begun: it never ran. A
        hook needs no output: the saga goes on without it. A deadline that has passed is void
        from then on. The saga is driven on in this task, or with `wait=False` left to a worker.
        """
        by = _operator(actor, reason)
        named = await named_in(self._engine.store, mock_output)

        def skip(_: SagaRecord, live: LiveSaga) -> Happened:
            at = chosen(live, step_id, "skip_step", skippable(live))
            if live.state.step_id is None or at.state.step_id is None:
                # Refused by its status, whatever the output.
                return SkipRequested(by, "null", uuid4(), None)
            step = live.definition.step(at.state.step_id)
            what = f"mock_output for step '{step.step_id}'"
            if not _can_be_skipped(live):
                return SkipRequested(by, "null", uuid4(), None)
            if step.hook is not None:
                return SkipRequested(by, "null", uuid4(), live.input_after(step))
            output, value = step.output.roundtrip(
                mock_output, what=what, limits=self._engine.limits
            )
            check_own_child(named, saga_id, step)
            at.assume(step.step_id, output, value)
            asked = SkipRequested(by, output, uuid4(), at.input_after(step), live.is_overdue)
            return in_step(at, live, asked)

        await intervene(self._engine, saga_id, skip, drive=wait)

    async def compensate_step(
        self,
        saga_id: UUID,
        *,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Begin the rollback, or go on with one that is stuck; refused if no step was completed.

        The old name of `cancel`, which see, for a saga that has something to undo.
        """
        order = order_of(SignalKind.COMPENSATE, _operator(actor, reason))
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def cancel(
        self,
        saga_id: UUID,
        *,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Undo what the saga has done, newest first; one that has done nothing is COMPENSATED.

        From any status but COMPLETED and COMPENSATED; a rollback that is stuck or waits goes on at
        once, a paused saga rests no longer. FAILED needs something to undo, and takes its
        aggregate again. If somebody drives the saga, the command is put into its inbox: the
        step in flight is finished and recorded, then the rollback begins with it. `wait` drives
        the rollback in this task, or waits for whoever does, so a step must not ask for that of
        its own saga.
        """
        order = order_of(SignalKind.CANCEL, _operator(actor, reason))
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def pause(
        self,
        saga_id: UUID,
        *,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = False,
    ) -> None:
        """Let the saga rest, whatever falls due, until `resume`, `cancel` or `abort`.

        From RUNNING, SUSPENDED and COMPENSATING, unless it is paused already. It keeps its
        aggregate and its place; `waiting_for` is "resume". Events for it are kept, other commands
        refused. If somebody drives the saga, the command is put into its inbox and the step in
        flight is finished and recorded first; where that ends the saga there is nothing to pause.
        The call returns once the command is stored, with `wait=True` once it took effect.
        """
        order = order_of(SignalKind.PAUSE, _operator(actor, reason))
        await give(self._engine, saga_id, order, wait=wait)

    async def resume(
        self,
        saga_id: UUID,
        *,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Let a paused saga go on from where it was paused.

        What was to be retried at a time still is; a wait ends when it would have ended, and takes
        an event that came meanwhile. What can go on at once is driven in this task, or with
        `wait=False` left to a worker.
        """
        order = order_of(SignalKind.RESUME, _operator(actor, reason))
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def skip_compensation(
        self,
        saga_id: UUID,
        *,
        reason: str,
        step_id: str | None = None,
        actor: str | None = None,
        wait: bool = True,
    ) -> None:
        """Let the rollback go on without undoing the current step; `reason` is on record for ever.

        From STUCK in a rollback, and from COMPENSATING; a parallel saga that undoes several steps
        needs the `step_id`. What the step has done stays done. If somebody drives the saga, the
        command is put into its inbox: the attempt in flight is finished first, and where it
        succeeds there is nothing to skip. Raises `SagaStateError` without a reason. `wait` drives
        the rollback on in this task, or waits for whoever does.
        """
        if reason is None or (isinstance(reason, str) and not reason.strip()):
            raise SagaStateError(
                "skip_compensation needs a reason: something stays done that the saga had promised "
                "to undo, so say why that is right"
            )
        by = _operator(actor, reason)
        record = await self._load(saga_id)
        state = record.state
        if state.direction is not Direction.ROLLBACK or state.step_id is None:
            raise SagaStateError(
                f"skip_compensation: the saga is {state.status} and undoes nothing; it needs to be "
                "STUCK or COMPENSATING, in a rollback",
                saga_id=saga_id,
            )
        live = await self._engine.look_at(record)
        at = chosen(live, step_id, "skip_compensation", is_undone).state
        order = order_of(SignalKind.SKIP_COMPENSATION, by, step_id=at.step_id, number=at.generation)
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def retry_from(
        self,
        saga_id: UUID,
        step_id: str,
        *,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Go back to a step that is done, and do it and those after it once more.

        What they have put out counts no more, neither for maps nor in snapshots; their new runs
        have new idempotency keys. The step's input is computed anew. A later rollback undoes all
        that was done, with its own input and output, the newest first.

        From RUNNING, SUSPENDED, STUCK and FAILED before compensation has begun, unless paused;
        refused for a step that is not done, to before a pivot that is done, and for a saga that
        was upcast on its way. A FAILED saga takes its aggregate again, and a saga's deadline that
        has passed is void. If somebody drives the saga, the command is put into its inbox and
        the step in flight is finished and recorded first. `wait` drives the saga on in this
        task, or waits for whoever does.
        """
        by = _operator(actor, reason)
        if not isinstance(step_id, str) or not step_id:
            raise SagaStateError(f"retry_from: step_id must be a step's id, got {step_id!r}")
        order = order_of(SignalKind.RETRY_FROM, by, step_id=step_id)
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def edit_input(
        self,
        saga_id: UUID,
        new_input: Any,
        *,
        step_id: str | None = None,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = True,
    ) -> None:
        """Give the current step another input, and try it anew with its attempts counted anew.

        From RUNNING, SUSPENDED and STUCK before compensation has begun. The input is validated
        against the step's type (`PayloadError`) before anything is written. Another input is
        another idempotency key: what attempts with the old one did stays done, unless the step
        is `compensate_when="maybe_done"`, when a rollback undoes that too. A wait begins anew; a
        saga that is paused, or has not begun, takes the input and rests on, unless it is to begin
        with a hook, after which its input is computed; a deadline that has passed is void. If
        somebody drives the saga, the command is put into its inbox and taken unless the attempt
        in flight completes the step, or fails it for good. `wait` drives the saga on in this
        task, or waits for whoever does.
        """
        by = _operator(actor, reason)
        live = await self._engine.look_at(await self._load(saga_id))
        step_id, text = chosen(live, step_id, "edit_input", is_forward).state.step_id, None
        if (
            step_id is not None
            and live.state.direction is Direction.FORWARD
            and not live.state.in_hook
        ):
            step = live.definition.step(step_id)
            what = f"new_input for step '{step_id}'"
            text, _ = step.input.roundtrip(new_input, what=what, limits=self._engine.limits)
        order = order_of(SignalKind.EDIT_INPUT, by, step_id=step_id, new_input=text)
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def abort(
        self,
        saga_id: UUID,
        *,
        actor: str | None = None,
        reason: str | None = None,
        wait: bool = False,
    ) -> None:
        """End the saga as FAILED without undoing anything. Refused once it has ended.

        If somebody drives the saga, the command is put into its inbox: the step in flight is
        cancelled, at the latest at the next renewal of the lease, a third of its length away.
        The call returns once the command is stored, with `wait=True` once it took effect. The end
        of a saga that is STUCK or paused in a hook stays: abort gives the hook up.
        """
        order = order_of(SignalKind.ABORT, _operator(actor, reason), readable=False)
        await give(self._engine, saga_id, order, drive=wait, wait=wait)

    async def bulk(
        self,
        command: BulkCommand,
        *,
        dry_run: bool = True,
        actor: str | None = None,
        reason: str | None = None,
        limit: int | None = None,
        progress: Callable[[BulkItem], None] | None = None,
        **conditions: Unpack[Conditions],
    ) -> BulkReport:
        """Give one command to every saga for which all `conditions`, as those of `find`, hold.

        `command` is "retry_step", "cancel", "abort", "pause" or "resume". With `dry_run`, the
        default, nothing is changed: the report tells what would be done to which saga, and why
        the others would refuse. Each saga takes or refuses the command by itself, and none
        that fails stops the rest; sagas that are to go on are left to the workers. `limit` bounds
        how many are looked at, oldest first; `progress` hears of each in turn, and if it raises,
        which is logged, of no more. Raises `QueryError` for a wrong argument, or without any
        condition, before anything is changed.
        """
        by = _operator(actor, reason)
        query = bulk_query(limit, **conditions)
        return await run_bulk(
            self._engine, bulk_order(command, by), command, query, limit, dry_run, progress
        )

    async def _load(self, saga_id: UUID) -> SagaRecord:
        check_saga_id(saga_id)
        return await self._engine.store.load(saga_id)


def _can_be_skipped(live: LiveSaga) -> bool:
    waits = live.state.status in (SagaStatus.SUSPENDED, SagaStatus.STUCK)
    return waits and live.state.direction is Direction.FORWARD


def _operator(actor: str | None, reason: str | None) -> Operator:
    check_label(actor, "actor")
    check_label(reason, "reason")
    return Operator(actor=actor, reason=reason)
