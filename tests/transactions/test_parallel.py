"""Steps of a parallel saga work in the store's transaction, one of them at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from saga_core import (
    AwaitEvent,
    BaseStep,
    SagaBuilder,
    SagaDefinition,
    SagaOrchestrator,
    SagaStatus,
    SagaStore,
    StepContext,
)
from saga_testing import Fault, FaultyStore
from saga_testing.conformance import Business, StoreHarness
from tests.behaviour.cast import HOUR
from tests.transactions.cast import NAME, Approved, Book, Booking, Refuse


class Plain(BaseStep[Booking, Booking]):
    """Works outside, for as long as the test wants, or for a few turns of the event loop."""

    def __init__(self, log: list[str], turns: int = 3) -> None:
        self.log, self.turns = log, turns

    async def execute(self, inp: Booking, ctx: StepContext) -> Booking:
        for _ in range(self.turns):
            await asyncio.sleep(0.001)
        self.log.append(ctx.step_id)
        return inp

    async def compensate(self, inp: Booking, out: Booking, ctx: StepContext) -> None:
        self.log.append(f"undo {ctx.step_id}")


def fan(business: Business, log: list[str], *, fails: bool = False, **acts: Any) -> SagaDefinition:
    """Return a saga of three steps with business rows among three without, and a last one."""
    builder = SagaBuilder(parallel=True)
    refs = []
    for number in range(3):
        act = acts.get(f"row_{number}")
        refs.append(
            builder.add_step(
                step=Book(business, *(() if act is None else (act,))),
                input_map=lambda _: Booking(amount=7),
                transaction=True,
                step_id=f"row_{number}",
            )
        )
        refs.append(
            builder.add_step(
                step=Plain(log), input_map=lambda _: Booking(amount=7), step_id=f"plain_{number}"
            )
        )
    last: BaseStep[Booking, Booking] = Refuse() if fails else Plain(log)
    builder.add_step(step=last, input_map=lambda *_: Booking(amount=7), depends_on=refs)
    return builder.build()


async def driven(store: SagaStore, made: SagaDefinition) -> tuple[SagaOrchestrator, Any]:
    orchestrator = SagaOrchestrator(store=store)
    orchestrator.register(NAME, made)
    async with asyncio.timeout(30):
        return orchestrator, await orchestrator.start(saga_name=NAME, initial_data={})


async def test_rows_and_records_of_branches_stand_together(
    store: SagaStore, business: Business
) -> None:
    log: list[str] = []
    orchestrator, saga_id = await driven(store, fan(business, log))
    ended = await orchestrator.get_snapshot(saga_id)
    assert ended.status is SagaStatus.COMPLETED
    assert sorted(await business.rows()) == ["do row_0", "do row_1", "do row_2"]
    assert len(log) == 4


async def test_branches_are_undone_in_transactions_of_their_own(
    store: SagaStore, business: Business
) -> None:
    log: list[str] = []
    orchestrator, saga_id = await driven(store, fan(business, log, fails=True))
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
    rows = await business.rows()
    assert sorted(rows[:3]) == ["do row_0", "do row_1", "do row_2"]
    assert sorted(rows[3:]) == ["undo row_0", "undo row_1", "undo row_2"]


async def test_rows_of_a_branch_that_fails_are_gone(store: SagaStore, business: Business) -> None:
    async def breaks(_: StepContext) -> None:
        raise ConnectionError("busy")

    log: list[str] = []
    orchestrator, saga_id = await driven(store, fan(business, log, row_1=breaks))
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
    rows = await business.rows()
    assert not any(row.endswith("row_1") for row in rows)
    done = {row.removeprefix("do ") for row in rows if row.startswith("do")}
    assert {row.removeprefix("undo ") for row in rows if row.startswith("undo")} == done


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_rows_agree_with_records_whichever_write_is_lost(
    store: SagaStore, business: Business, harness: StoreHarness, fault: Fault
) -> None:
    rehearsal = FaultyStore(store)
    await driven(rehearsal, fan(business, []))
    calls = [(call.method, call.ordinal) for call in rehearsal.calls if call.method == "commit"]
    for _, ordinal in calls:
        before = await business.rows()
        faulty = FaultyStore(store)
        faulty.fail("commit", ordinal, fault)
        orchestrator, saga_id = await driven(faulty, fan(business, []))
        await harness.age(saga_id, HOUR)
        await orchestrator.run_due()
        assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
        rows = (await business.rows())[len(before) :]
        assert sorted(rows) == ["do row_0", "do row_1", "do row_2"]


async def test_branches_that_wait_rest_and_are_not_entered_again_for_each_other(
    store: SagaStore, business: Business
) -> None:
    async def waits(_: StepContext) -> AwaitEvent:
        return AwaitEvent(Approved)

    orchestrator = SagaOrchestrator(store=store)
    builder = SagaBuilder(parallel=True)
    for step_id in ("left", "right"):
        builder.add_step(
            step=Book(business, waits, waits),
            input_map=lambda _: Booking(amount=7),
            transaction=True,
            step_id=step_id,
        )
    orchestrator.register(NAME, builder.build())
    async with asyncio.timeout(20):
        saga_id = await orchestrator.start(saga_name=NAME, initial_data={})
    snapshot = await orchestrator.get_snapshot(saga_id)
    assert snapshot.status is SagaStatus.SUSPENDED
    assert [branch.waiting_for for branch in snapshot.branches] == ["event:Approved"] * 2
    assert sorted(await business.rows()) == ["do left", "do right"]
