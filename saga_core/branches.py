"""Where each begun step of a parallel saga stands: facts of its history, the newest counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga_core.codec import decode_json, encode_json
from saga_core.definition import SagaDefinition
from saga_core.errors import PayloadError
from saga_core.outputs import Outputs
from saga_core.records import Due, HistoryEntry, NewEntry, SagaRecord, SagaState
from saga_core.status import Direction, EntryKind, SagaStatus

__all__ = ["Branch", "ParallelOutputs", "branches_of", "ready_steps", "standing", "undone_entry"]

_UNDONE = '{"undone":true}'


@dataclass(frozen=True, slots=True)
class Branch:
    """One step that is begun and not over, in one direction."""

    state: SagaState
    """As of a saga that has only this step. FAILED: given up, because it failed for good, or,
    if it is `left`, because another did."""
    drive: bool
    """Its code is to be run at once."""
    due: Due | None = None
    """When it is looked at, if not at once."""
    left: bool = False
    given: tuple[str | None, ...] = ()
    """The ids of the events that its waits were given, oldest first, None for a sleep. Not that of
    the last wait, unless the event was meant for it: who reads it from the inbox enters at once."""
    at: datetime | None = None
    """The store's time of the commit that says so; None if that is yet to come."""

    @property
    def is_given_up(self) -> bool:
        return self.state.status is SagaStatus.FAILED

    @property
    def is_stuck(self) -> bool:
        return self.state.status is SagaStatus.STUCK

    @property
    def rests(self) -> bool:
        """Whether it goes on by itself, at its time or with what it waits for."""
        return not (self.drive or self.is_given_up or self.is_stuck)

    @property
    def due_at(self) -> datetime | None:
        """When it is due by the store's clock, if it is by a time and that is on record."""
        return None if self.due is None or self.at is None else self.due.moment(self.at)

    @property
    def counted(self) -> Due | None:
        """When it is due, for a commit that is made now."""
        at = self.due_at
        return self.due if at is None else Due(at=at)

    def counted_from(self, now: datetime | None) -> Due | None:
        """Return the same for an entry that keeps it from now on: a delay stays one."""
        if self.due is None or self.due.delay is None or self.at is None or now is None:
            return self.due
        return replace(self.due, delay=max(self.at + self.due.delay - now, timedelta()))

    def entry(self) -> NewEntry:
        """Return the entry that keeps it."""
        state = self.state
        fact: dict[str, Any] = {
            "status": state.status.value,
            "direction": state.direction.value,
            "token": str(state.token),
        }
        optional = {
            "generation": state.generation,
            "waiting_for": state.waiting_for,
            "last_error": state.last_error,
            "error_code": state.error_code,
            "drive": self.drive,
            "left": self.left,
            "given": self.given,
        }
        fact |= {name: value for name, value in optional.items() if value}
        if self.due is not None and self.due.delay is not None:
            fact["delay"] = self.due.delay.total_seconds()
        if self.due is not None and self.due.at is not None:
            fact["at"] = self.due.at.isoformat()
        return NewEntry(
            kind=EntryKind.BRANCH,
            step_id=state.step_id,
            attempt=state.attempt,
            input=state.step_input,
            output=encode_json(fact, what="branch"),
        )

    @classmethod
    def read(cls, entry: NewEntry, at: datetime | None) -> Branch | None:
        """Return what an entry keeps; None if it says that the step is undone.

        Raises `PayloadError`.
        """
        fact = decode_json(entry.output or "null", what="branch")
        try:
            if "undone" in fact:
                return None
            delay = timedelta(seconds=fact["delay"]) if "delay" in fact else None
            moment = datetime.fromisoformat(fact["at"]) if "at" in fact else None
            state = SagaState(
                status=SagaStatus(fact["status"]),
                direction=Direction(fact["direction"]),
                step_id=entry.step_id,
                step_input=entry.input,
                token=UUID(fact["token"]),
                generation=fact.get("generation", 0),
                attempt=entry.attempt,
                waiting_for=fact.get("waiting_for"),
                last_error=fact.get("last_error"),
                error_code=fact.get("error_code"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PayloadError(f"a branch in the store cannot be read: {error}") from None
        due = None if delay is None and moment is None else Due(delay=delay, at=moment)
        given = tuple(fact.get("given", ()))
        return cls(state, fact.get("drive", False), due, fact.get("left", False), given, at)


def undone_entry(step_id: str) -> NewEntry:
    """Return the entry that says that there is nothing left to undo of a step."""
    return NewEntry(kind=EntryKind.BRANCH, step_id=step_id, output=_UNDONE)


class ParallelOutputs(Outputs):
    """What the steps of a parallel saga have put out, and where those stand that are begun."""

    def __init__(
        self, entries: Iterable[NewEntry] = (), clock: Callable[[], datetime] | None = None
    ) -> None:
        """`clock` tells the store's time, for entries that are not from the store."""
        self.branches: dict[str, Branch] = {}
        """By step id, those that are begun and not over, in the direction that the saga goes."""
        self.undone: set[str] = set()
        """The steps that a rollback is done with."""
        self._clock = clock
        super().__init__(entries)

    @classmethod
    def of(cls, record: SagaRecord, clock: Callable[[], datetime] | None = None) -> ParallelOutputs:
        """Read them from a record. Raises `PayloadError`."""
        found = cls(record.outputs, clock)
        newest = max((entry.at for entry in record.outputs), default=record.updated_at)
        if newest > record.updated_at:
            # Whoever ages a saga moves the row's times.
            aged = newest - record.updated_at
            for step_id, branch in found.branches.items():
                if branch.at is not None:
                    found.branches[step_id] = replace(branch, at=branch.at - aged)
        return found

    def hear(self, entries: Iterable[NewEntry]) -> None:
        """Follow the entries of a history, in their order; the same ones twice change nothing."""
        told = tuple(entries)
        super().hear(told)
        now = self.now
        for entry in told:
            if entry.step_id is None:
                continue
            if entry.kind.is_step_output:
                self.branches.pop(entry.step_id, None)
            elif entry.kind is EntryKind.BRANCH:
                at = entry.at if isinstance(entry, HistoryEntry) else now
                self._stands(entry.step_id, Branch.read(entry, at))

    def _stands(self, step_id: str, branch: Branch | None) -> None:
        if branch is None:
            self.branches.pop(step_id, None)
            self.undone.add(step_id)
            return
        if branch.state.direction is Direction.ROLLBACK:
            for other, before in list(self.branches.items()):
                if before.state.direction is Direction.FORWARD:
                    del self.branches[other]  # the rollback has begun
        self.branches[step_id] = branch

    @property
    def now(self) -> datetime | None:
        """The store's time, if it is known."""
        return None if self._clock is None else self._clock()

    def after(self, entries: Iterable[NewEntry]) -> ParallelOutputs:
        """Return what they are once more entries are on record."""
        later = ParallelOutputs()
        later._clock = self._clock
        later._copy(self)
        later.branches = dict(self.branches)
        later.undone = set(self.undone)
        later.hear(entries)
        return later


def standing(record: SagaRecord) -> dict[str, Branch]:
    """Return the branches of a parallel saga, as a record has them; none of any other saga.

    Raises `PayloadError`.
    """
    over = record.state.status in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)
    if over or not any(entry.kind is EntryKind.BRANCH for entry in record.outputs):
        return {}
    return ParallelOutputs.of(record).branches


def branches_of(outputs: object) -> dict[str, Branch]:
    """Return the branches of a saga, none if it is not parallel."""
    return outputs.branches if isinstance(outputs, ParallelOutputs) else {}


def ready_steps(definition: SagaDefinition, outputs: ParallelOutputs) -> list[str]:
    """Return the steps that can begin: all that they depend on is done."""
    return [
        spec.step_id
        for spec in definition.steps
        if spec.step_id not in outputs
        and spec.step_id not in outputs.branches
        and all(each in outputs for each in spec.depends_on)
    ]
