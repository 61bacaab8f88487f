"""What a memory store refuses, as the schema of a database would, before it writes anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    PayloadError,
    SagaStateError,
    StaleVersionError,
)
from saga_core.records import NewSaga, SagaRecord, SagaState, Signal, Transition
from saga_core.status import SagaStatus
from saga_testing.memory.table import MemoryTable, Row

__all__ = ["MemoryRefusals"]


class MemoryRefusals(MemoryTable):
    """Raises our errors; changes nothing."""

    def _check_new(self, new: NewSaga) -> None:
        self._check_aggregate(new.saga_id, new.state, new.aggregation_id)
        self._check_value(new)

    def _check_value(self, new: NewSaga) -> None:
        leased = new.lease is not None
        self._check_state(new.state, self._now() if leased else self._due_at(new.due))
        for text in (new.saga_name, new.aggregation_id, new.trace_id, new.data, *new.tags):
            if text is not None and "\x00" in text:
                raise PayloadError("text with a NUL character cannot be stored")

    def _check_version(self, before: SagaRecord, transition: Transition) -> None:
        if before.version != transition.expected_version:
            raise StaleVersionError(
                f"saga {before.saga_id} is at version {before.version}, not at "
                f"{transition.expected_version}",
                saga_id=before.saga_id,
            )

    def _check_transition(
        self, row: Row, transition: Transition, after: SagaRecord, spawned: Sequence[NewSaga]
    ) -> None:
        self._check_signals(row, transition.signals_in)
        self._check_state(after.state, after.due_at)
        self._check_aggregate(after.saga_id, after.state, after.aggregation_id)
        if row.record.state.is_queued and after.state.active:
            self._check_turn(after)
        self._check_spawned(after, spawned)

    def _check_turn(self, after: SagaRecord) -> None:
        first = self._first_in_queue(after.aggregation_id)
        if first is not None and first.record.saga_id != after.saga_id:
            raise ActiveSagaAlreadyExistsError(
                f"saga {first.record.saga_id} is before this one in the queue for aggregation_id "
                f"{after.aggregation_id!r}",
                saga_id=first.record.saga_id,
            )

    def _check_signals(self, row: Row, signals: Collection[Signal]) -> None:
        known = {signal.event_id for signal in row.inbox}
        for signal in signals:
            if signal.event_id in known:
                raise SagaStateError(
                    f"saga {row.record.saga_id} has an event with the id {signal.event_id!r} "
                    "already",
                    saga_id=row.record.saga_id,
                )
            known.add(signal.event_id)

    def _check_spawned(self, parent: SagaRecord, spawned: Sequence[NewSaga]) -> None:
        """Check sagas as if each were created after the commit and after those before it."""
        key = parent.aggregation_id
        holders: dict[str, UUID | None] = {}
        if key is not None and self._holder(key) in (None, parent.saga_id):
            holders[key] = parent.saga_id if parent.state.active else None
        for new in spawned:
            key = new.aggregation_id
            self._check_aggregate(new.saga_id, new.state, key, but=holders)
            self._check_value(new)
            if key is not None and new.state.active:
                holders[key] = new.saga_id

    def _check_state(self, state: SagaState, due_at: datetime | None) -> None:
        rests = not state.active or state.status is SagaStatus.STUCK
        if not rests and due_at is None and state.waiting_for is None:
            raise SagaStateError(
                f"a saga that is {state.status} needs a time at which it is due, or something "
                "that it waits for"
            )

    def _check_aggregate(
        self,
        saga_id: UUID,
        state: SagaState,
        aggregation_id: str | None,
        *,
        but: Mapping[str, UUID | None] = MappingProxyType({}),
    ) -> None:
        """Refuse an active saga whose aggregate another one holds, in `but` or else by now."""
        if not state.active or aggregation_id is None:
            return
        holder = but[aggregation_id] if aggregation_id in but else self._holder(aggregation_id)
        if holder is not None and holder != saga_id:
            raise ActiveSagaAlreadyExistsError(
                f"saga {holder} is active with aggregation_id {aggregation_id!r}: wait for its "
                "end, or look why it does not end",
                saga_id=holder,
            )

    def _holder(self, aggregation_id: str) -> UUID | None:
        return self.data.aggregates.get((self.namespace, aggregation_id))
