"""All branches of a parallel saga while something is decided of one, and what that means."""

from __future__ import annotations

from dataclasses import replace
from uuid import NAMESPACE_OID, UUID, uuid5

from saga_core.branches import Branch, ParallelOutputs, undone_entry
from saga_core.deciding import failed_entry
from saga_core.definition import SagaDefinition
from saga_core.ending import end
from saga_core.happening import WORKER_LOST, Decision, Failure, Recorded
from saga_core.records import DUE_NOW, Due, NewEntry, NewSaga, SagaState
from saga_core.rollback import maybe_entry
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = ["Fleet"]


class Fleet:
    """Collects what one decision changes; `settled` says what it comes to for the saga."""

    def __init__(
        self,
        definition: SagaDefinition,
        state: SagaState,
        outputs: ParallelOutputs,
        busy: frozenset[str] = frozenset(),
    ) -> None:
        """`busy` are the steps whose code runs."""
        self.definition = definition
        self.state = state
        self.branches = dict(outputs.branches)
        self.busy = set(busy)
        self.entries: list[NewEntry] = []
        self.undone = set(outputs.undone)
        self.spawned: tuple[NewSaga, ...] = ()
        self._outputs = outputs
        self._new: dict[str, Recorded] = {}
        self._changed: dict[str, None] = {}

    # --- what is so -----------------------------------------------------------------------------

    @property
    def is_back(self) -> bool:
        """Whether the rollback has begun."""
        return self.state.direction is Direction.ROLLBACK

    @property
    def moving(self) -> SagaStatus:
        """The status of a saga that is being driven this way."""
        return SagaStatus.COMPENSATING if self.is_back else SagaStatus.RUNNING

    @property
    def is_failing(self) -> bool:
        """Whether a step has failed for good, and the rollback waits for those that run."""
        return not self.is_back and any(each.is_given_up for each in self.branches.values())

    @property
    def is_past_pivot(self) -> bool:
        pivot = self.definition.pivot
        return pivot is not None and self.is_done(pivot.step_id)

    @property
    def has_outputs(self) -> bool:
        return bool(self._outputs)

    def is_done(self, step_id: str) -> bool:
        return step_id in self._new or step_id in self._outputs

    def recorded(self, step_id: str) -> Recorded:
        """Return what is on record of a step."""
        return self._new.get(step_id) or self._outputs[step_id]

    def place(self, step_id: str | None) -> int:
        """Return where a step comes in the saga's order."""
        return self.definition.step(step_id or "").index

    # --- what changes ---------------------------------------------------------------------------

    def put(self, branch: Branch) -> None:
        """Note where a branch stands now."""
        step_id = branch.state.step_id or ""
        self.branches[step_id] = branch
        self._changed[step_id] = None

    def complete(
        self, state: SagaState, given: str | None, output: str, reason: str | None
    ) -> None:
        """Record what a step has put out; its branch is over."""
        self.close(
            NewEntry(
                kind=EntryKind.COMPLETED,
                step_id=state.step_id,
                attempt=state.attempt + 1,
                input=given,
                output=output,
                reason=reason,
            )
        )

    def close(self, entry: NewEntry) -> None:
        """End a forward branch with the output that the entry has."""
        step_id = entry.step_id or ""
        self.entries.append(entry)
        self._new[step_id] = Recorded(entry.input, entry.output or "null")
        self.branches.pop(step_id, None)
        self._changed.pop(step_id, None)

    def undo(self, entry: NewEntry) -> None:
        """End a branch of the rollback: the step is undone, or there is nothing to undo."""
        step_id = entry.step_id or ""
        self.entries += (entry, undone_entry(step_id))
        self.branches.pop(step_id, None)
        self._changed.pop(step_id, None)
        self.undone.add(step_id)

    def fail(self, state: SagaState) -> None:
        """Give a step up that has failed for good."""
        self.put(Branch(replace(state, status=SagaStatus.FAILED), drive=False))

    def stick(self, state: SagaState, failure: Failure) -> None:
        """Let a step wait for a person."""
        self.entries.append(failed_entry(EntryKind.STUCK, state, failure))
        state = replace(state, last_error=failure.error, error_code=failure.code)
        self.put(Branch(replace(state, status=SagaStatus.STUCK, waiting_for=None), drive=False))

    def leave(self, branch: Branch) -> None:
        """Let a step be that another's failure has stopped. One that rests keeps its time."""
        state, due = replace(branch.state, status=SagaStatus.FAILED), self._counted(branch)
        self.put(Branch(state, drive=False, due=due, left=True, given=branch.given))

    def resume(self, branch: Branch, token: UUID | None = None) -> None:
        """Let a branch go on, its attempts counted anew and at once if there is a new token."""
        due = self._counted(branch) if branch.left and token is None else None
        if due is not None:
            rests = replace(branch.state, status=SagaStatus.SUSPENDED)
            self.put(Branch(rests, drive=False, due=due, given=branch.given))
            return
        state, given = replace(branch.state, status=self.moving), branch.given
        if token is not None:
            given = ()
            state = replace(
                state, token=token, attempt=0, waiting_for=None, last_error=None, error_code=None
            )
        self.put(Branch(state, drive=True, given=given))

    def _counted(self, branch: Branch) -> Due | None:
        return branch.counted_from(self._outputs.now)

    # --- what follows ---------------------------------------------------------------------------

    def settled(self, token: UUID | None = None) -> Decision:
        """Return what follows for the saga. `token` is a new one, for a rollback that begins."""
        decision = self._back(token) if self.is_back else self._forward(token)
        return replace(decision, spawn=self.spawned) if self.spawned else decision

    def _forward(self, token: UUID | None) -> Decision:
        for branch in list(self.branches.values()):
            if branch.is_given_up and self.is_past_pivot:
                if branch.left:
                    self.resume(branch)
                else:
                    state = branch.state
                    failure = Failure(state.last_error or "", state.error_code or "")
                    self.stick(state, failure)
            elif branch.rests and branch.state.step_id in self.busy:
                self.put(replace(branch, drive=True, due=None))  # its code runs
        given_up = [each for each in self.branches.values() if each.is_given_up]
        if all(branch.left for branch in given_up):
            for branch in given_up:
                self.resume(branch)  # a person has put right what had stopped them
        turns_back = self.definition.compensate_on_failure
        if self.is_failing:
            for branch in list(self.branches.values()):
                if branch.rests and turns_back:
                    self.leave(branch)
            if self._runs:
                return self._decision(SagaStatus.RUNNING, drive=True)
            if not turns_back:
                return self._ended(SagaStatus.FAILED)
            if any(each.is_stuck for each in self.branches.values()):
                return self._ended(SagaStatus.STUCK)
            return self.turned_back(token)
        if self._runs or self._can_begin:
            return self._decision(SagaStatus.RUNNING, drive=True)
        if any(each.rests for each in self.branches.values()):
            return self._decision(SagaStatus.SUSPENDED, drive=False)
        if self.branches:
            return self._ended(SagaStatus.STUCK)
        count = len(self.definition.steps)
        done = SagaState(status=SagaStatus.RUNNING, step_index=count, token=self.state.token)
        return end(done, SagaStatus.COMPLETED, self._history())

    def turned_back(self, token: UUID | None, failure: Failure | None = None) -> Decision:
        """Begin the rollback with all steps that nothing which is to be undone depends on."""
        for branch in self.branches.values():
            state = branch.state
            spec = self.definition.step(state.step_id or "")
            begun = state.step_input is not None and state.direction is Direction.FORWARD
            if begun and spec.undoes_maybe_done:
                entry = maybe_entry(state)
                self.entries.append(entry)
                maybe = Recorded(entry.input, entry.output or "null", maybe=True)
                self._new[spec.step_id] = maybe
        error, code = self._error()
        if failure is not None:
            error, code = failure.error, failure.code
        self.state = replace(
            self.state, direction=Direction.ROLLBACK, last_error=error, error_code=code
        )
        changed = list(self._changed)
        self.branches, self._changed = {}, {}
        decision = self._back(token)
        if decision.history:
            return decision
        # The last step that ran was left, and there is nothing to undo: that is what has happened.
        return replace(decision, history=tuple(map(undone_entry, changed)))

    def _back(self, token: UUID | None) -> Decision:
        known = {**self._outputs, **self._new}
        left = {
            step_id
            for step_id, recorded in known.items()
            if recorded.input is not None
            and step_id not in self.undone
            and self.definition.step(step_id).can_compensate
        }
        for step_id in self._free(left):
            if step_id not in self.branches:
                self._begin_undo(step_id, token)
        if not left:
            state = replace(self._whole(SagaStatus.COMPENSATING), step_id=None, step_index=0)
            return end(state, SagaStatus.COMPENSATED, self._history())
        if self._runs:
            return self._decision(SagaStatus.COMPENSATING, drive=True)
        if any(each.rests for each in self.branches.values()):
            return self._decision(SagaStatus.COMPENSATING, drive=False)
        return self._ended(SagaStatus.STUCK)

    def _begin_undo(self, step_id: str, token: UUID | None) -> None:
        state = SagaState(
            status=SagaStatus.COMPENSATING,
            direction=Direction.ROLLBACK,
            step_id=step_id,
            token=uuid5(token or self.state.token or NAMESPACE_OID, f"undo:{step_id}"),
        )
        self.put(Branch(state, drive=True))

    def _free(self, left: set[str]) -> list[str]:
        """Return what can be undone now: nothing depends on it that is yet to be undone."""
        held: set[str] = set()
        free = []
        dependents = self.definition.dependents
        for spec in reversed(self.definition.steps):
            if any(each in left or each in held for each in dependents[spec.step_id]):
                held.add(spec.step_id)
            elif spec.step_id in left:
                free.append(spec.step_id)
        return free

    @property
    def _runs(self) -> bool:
        return bool(self.busy) or any(each.drive for each in self.branches.values())

    @property
    def _can_begin(self) -> bool:
        return any(
            not self.is_done(spec.step_id)
            and spec.step_id not in self.branches
            and all(map(self.is_done, spec.depends_on))
            for spec in self.definition.steps
        )

    # --- as a decision --------------------------------------------------------------------------

    def _decision(self, status: SagaStatus, *, drive: bool) -> Decision:
        due = DUE_NOW if drive else self._due()
        return Decision(self._whole(status), self._history(), drive=drive, due=due)

    def _ended(self, status: SagaStatus) -> Decision:
        return end(self._whole(status), status, self._history())

    def _history(self) -> tuple[NewEntry, ...]:
        moved = (self.branches[step_id].entry() for step_id in self._changed)
        return (*self.entries, *moved)

    def _due(self) -> Due | None:
        """Return when the first of the branches that rest is due."""
        counted = [each.counted for each in self.branches.values() if each.rests]
        delays = [due.delay for due in counted if due is not None and due.delay is not None]
        times = [due.at for due in counted if due is not None and due.at is not None]
        if not delays and not times:
            return None
        return Due(delay=min(delays, default=None), at=min(times, default=None))

    def _whole(self, status: SagaStatus) -> SagaState:
        """Return the saga's own state: one of its branches is shown for all of them."""
        shown = min(self.branches.values(), key=self._rank, default=None)
        error, code = self._error()
        waiting = [each.state for each in self.branches.values() if each.rests]
        waits_for = None
        if shown is not None and shown.rests:
            names = [each.waiting_for for each in waiting if each.waiting_for is not None]
            waits_for = shown.state.waiting_for or next(iter(names), None)
        done = len(self._outputs.keys() | self._new.keys())
        return SagaState(
            status=status,
            direction=self.state.direction,
            step_id=self._first_to_begin() if shown is None else shown.state.step_id,
            step_index=max(done - len(self.undone), 0),
            token=self.state.token if shown is None else shown.state.token,
            attempt=0 if shown is None else shown.state.attempt,
            waiting_for=waits_for,
            last_error=error,
            error_code=None if code == WORKER_LOST else code,
        )

    def _first_to_begin(self) -> str | None:
        for spec in self.definition.steps:
            if not self.is_done(spec.step_id):
                return spec.step_id
        return self.definition.steps[0].step_id

    def _rank(self, branch: Branch) -> tuple[int, int]:
        order = (branch.drive, branch.rests, branch.is_stuck, not branch.left)
        return order.index(True) if True in order else len(order), self.place(branch.state.step_id)

    def _error(self) -> tuple[str | None, str | None]:
        """Return what the saga failed of, or what one of its branches last failed of."""
        open_ones = self.branches.values()
        stuck = [each for each in open_ones if each.is_stuck]
        if self.is_back and not stuck:
            return self.state.last_error, self.state.error_code
        failed = [each for each in open_ones if each.is_given_up and not each.left]
        told = [each for each in open_ones if each.state.last_error is not None]
        for branches in (stuck, failed, told):
            if branches:
                first = min(branches, key=lambda each: self.place(each.state.step_id)).state
                return first.last_error, first.error_code
        return None, None
