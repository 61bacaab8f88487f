"""Branches of one saga start children beside each other; what one meets is not the others' fate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from saga_core import (
    ChildStart,
    SagaAdmin,
    SagaAdminSnapshot,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStateError,
    SagaStatus,
    SagaStore,
    StepContext,
)
from saga_core.child import child_id_of
from saga_core.records import HistoryEntry, SagaRecord
from saga_core.status import EntryKind
from saga_testing import FaultyStore
from saga_testing.conformance import StoreHarness
from tests.behaviour.branches import Gate
from tests.behaviour.cast import HOUR, Number, Story, definition, fails, retry


class Together(FaultyStore):
    """All branches of a saga look for their children before one of them goes on."""

    def __init__(self, store: SagaStore, saga_id: UUID, *step_ids: str) -> None:
        super().__init__(store)
        self._children = {child_id_of(saga_id, step_id, 0) for step_id in step_ids}
        self._gate = Gate(len(step_ids))
        self.before: dict[UUID, Callable[[], Awaitable[None]]] = {}
        """What happens just before a saga is read."""

    async def load(self, saga_id: UUID) -> SagaRecord:
        if saga_id in self.before:
            await self.before.pop(saga_id)()
        try:
            return await super().load(saga_id)
        finally:
            if saga_id in self._children:
                await self._gate()


class Siblings:
    """A parallel saga each step of which is a child, with the aggregate that it is to hold."""

    def __init__(
        self,
        store: SagaStore,
        aggregates: Mapping[str, str | None],
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        child: SagaDefinition | None = None,
    ) -> None:
        self.saga_id = uuid4()
        self.store = Together(store, self.saga_id, *aggregates)
        self.orchestrator = SagaOrchestrator(store=self.store)
        self.orchestrator.register("child", child or definition(Story().step()))
        builder = SagaBuilder(parallel=True)
        for step_id, key in aggregates.items():
            start = ChildStart(initial_data={"n": 1}, aggregation_id=key)
            builder.add_child(
                saga_name="child",
                step_id=step_id,
                input_map=lambda ctx, start=start: start,
                **(options or {}).get(step_id, {}),
            )
        self.orchestrator.register("parent", builder.build())
        self.admin = SagaAdmin(engine=self.orchestrator.engine)

    async def start(self) -> SagaAdminSnapshot:
        await self.orchestrator.start(saga_name="parent", initial_data={}, saga_id=self.saga_id)
        return await self.see()

    async def see(self) -> SagaAdminSnapshot:
        return await self.admin.get_saga(self.saga_id)

    async def settle(self, harness: StoreHarness) -> SagaAdminSnapshot:
        for _ in range(6):
            await harness.age(self.saga_id, HOUR)
            while await self.orchestrator.run_due():
                pass
        return await self.see()


async def test_only_the_branch_fails_whose_childs_aggregate_is_taken(
    store: SagaStore, harness: StoreHarness
) -> None:
    taken, free = f"taken-{uuid4()}", f"free-{uuid4()}"
    family = Siblings(
        store,
        {"free": free, "held": taken, "plain": None},
        {"held": {"retry_policy": retry(9, HOUR)}},
    )
    holding = await family.orchestrator.start(
        saga_name="child", initial_data={"n": 1}, aggregation_id=taken, delay=99 * HOUR
    )
    after = await family.start()
    assert after.status is SagaStatus.SUSPENDED, after.last_error
    assert {child.step_id for child in after.children} == {"free", "plain"}
    assert f"saga {holding} is active" in (after.last_error or "")
    assert len({entry.version for entry in await told(store, after.saga_id)}) == 1
    await family.admin.cancel(holding)
    after = await family.settle(harness)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(after.saga_id)
    assert {child.step_id for child in after.children} == {"free", "held", "plain"}


async def test_branches_fail_whose_child_may_have_been_refused_where_the_holder_is_gone_by_now(
    store: SagaStore, harness: StoreHarness
) -> None:
    """Nobody can say which aggregate it was; one without an aggregate it was not."""
    taken, tries = f"taken-{uuid4()}", {"retry_policy": retry(9, HOUR)}
    family = Siblings(
        store,
        {"other": f"free-{uuid4()}", "held": taken, "plain": None},
        {"other": tries, "held": tries},
    )
    start = {"saga_name": "child", "initial_data": {"n": 1}, "aggregation_id": taken}
    holding = await family.orchestrator.start(**start, delay=99 * HOUR)

    async def leaves() -> None:
        await family.admin.abort(holding)
        await harness.age(holding, 2 * HOUR)
        assert await store.purge(finished_for=HOUR, limit=1) == 1

    family.store.before[holding] = leaves
    after = await family.start()
    assert after.status is SagaStatus.SUSPENDED, after.last_error
    assert [child.step_id for child in after.children] == ["plain"]
    after = await family.settle(harness)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(after.saga_id)


async def test_of_branches_that_want_one_aggregate_one_gets_it_and_then_the_other(
    store: SagaStore, harness: StoreHarness
) -> None:
    key = f"room-{uuid4()}"
    tries = {"retry_policy": retry(3, HOUR)}
    family = Siblings(store, {"left": key, "right": key}, {"left": tries, "right": tries})
    after = await family.start()
    assert after.status is SagaStatus.SUSPENDED, after.last_error
    (first,) = after.children
    assert f"saga {first.saga_id} is active with aggregation_id '{key}'" in (after.last_error or "")
    assert after.error_code == "ActiveSagaAlreadyExistsError"
    assert len({entry.version for entry in await told(store, after.saga_id)}) == 1
    after = await family.settle(harness)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(after.saga_id)
    assert [child.step_id for child in after.children] != 2 * [first.step_id]


@pytest.mark.parametrize("paused", [False, True])
async def test_child_is_revived_while_its_branch_waits_for_it_whatever_the_others_do(
    store: SagaStore, harness: StoreHarness, paused: bool
) -> None:
    trouble = [True]

    def busy(_: Number, ctx: StepContext) -> None:
        if trouble:
            raise ValueError("busy")

    child = definition(Story().step(busy), retry_policy=retry(9, 99 * HOUR))
    family = Siblings(store, {"left": None, "middle": None, "right": None}, child=child)
    before = await family.start()
    await family.orchestrator.run_due()
    if paused:
        await family.admin.pause(family.saga_id)
    trouble.clear()
    for one in before.children:
        await family.admin.abort(one.saga_id, wait=True)
        assert (await family.admin.get_saga(one.saga_id)).status is SagaStatus.FAILED
        await family.admin.retry_step(one.saga_id)
        assert (await family.admin.get_saga(one.saga_id)).status is SagaStatus.COMPLETED
    if paused:
        await family.admin.resume(family.saga_id)
    after = await family.settle(harness)
    assert after.status is SagaStatus.COMPLETED, await family.admin.explain(after.saga_id)
    assert after.children == before.children


async def test_child_whose_branch_has_moved_on_is_not_revived_though_others_wait(
    store: SagaStore,
) -> None:
    child = definition(
        Story().step(fails()), retry_policy=retry(9, 99 * HOUR), compensate_on_failure=False
    )
    tries = {"retry_policy": retry(2, 99 * HOUR)}
    family = Siblings(store, {"left": None, "right": None}, {"left": tries}, child=child)
    await family.start()
    await family.orchestrator.run_due()
    gone = child_id_of(family.saga_id, "left", 0)
    await family.admin.abort(gone, wait=True)
    await family.orchestrator.run_due()
    after = await family.see()
    assert (after.status, after.error_code) == (SagaStatus.SUSPENDED, "ChildFailedError")
    assert str(child_id_of(family.saga_id, "right", 0)) in (after.waiting_for or "")
    with pytest.raises(SagaStateError, match=f"child of saga {family.saga_id}.*has moved on"):
        await family.admin.retry_step(gone)


async def told(store: SagaStore, saga_id: UUID) -> list[HistoryEntry]:
    """Return what is on record of children that were started, or could not be."""
    kinds = (EntryKind.CHILD, EntryKind.RETRYING)
    return [entry for entry in await store.history(saga_id) if entry.kind in kinds]
