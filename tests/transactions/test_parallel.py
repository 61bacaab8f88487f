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
    StaleVersionError,
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


class Counts(BaseStep[Booking, Booking]):
    """Puts out how often it was tried."""

    def __init__(self, business: Business) -> None:
        self._business = business
        self._tries = 0

    async def execute(self, inp: Booking, ctx: StepContext) -> Booking:
        self._tries += 1
        await self._business.write(ctx.transaction, f"do {ctx.step_id} {self._tries}")
        return Booking(amount=self._tries)


async def test_what_follows_a_lost_transaction_is_given_what_the_next_try_put_out(
    store: SagaStore, business: Business
) -> None:
    builder = SagaBuilder(parallel=True)
    first = builder.add_step(
        step=Counts(business),
        input_map=lambda _: Booking(amount=0),
        transaction=True,
        step_id="row",
    )
    builder.add_step(step=Plain([]), input_map=lambda out: out, depends_on=[first], step_id="after")
    faulty = FaultyStore(store)
    faulty.fail("commit_lent", 1, Fault.BEFORE)
    orchestrator, saga_id = await driven(faulty, builder.build())
    snapshot = await orchestrator.get_snapshot(saga_id)
    assert await business.rows() == ["do row 2"]
    assert snapshot.outputs == {"row": {"amount": 2}, "after": {"amount": 2}}


async def test_no_further_transaction_is_begun_once_one_was_refused(
    store: SagaStore, business: Business
) -> None:
    def probe(method: str, ordinal: int, when: str) -> None:
        if (method, ordinal, when) == ("commit_lent", 1, "before"):
            raise StaleVersionError("planned: somebody else has the saga")

    entered: list[str] = []

    async def enters(ctx: StepContext) -> None:
        entered.append(ctx.step_id)

    rows = {f"row_{number}": enters for number in range(3)}
    orchestrator = SagaOrchestrator(store=FaultyStore(store, probe=probe))
    orchestrator.register(NAME, fan(business, [], **rows))
    async with asyncio.timeout(20):
        await orchestrator.start(saga_name=NAME, initial_data={})
    assert len(entered) == 1


async def test_step_that_waits_beside_a_failure_leaves_no_row(
    store: SagaStore, business: Business
) -> None:
    failed = asyncio.Event()

    class Fails(Plain):
        async def execute(self, inp: Booking, ctx: StepContext) -> Booking:
            failed.set()
            raise ValueError("no")

    async def until_then(_: StepContext) -> None:
        await failed.wait()

    async def waits(_: StepContext) -> AwaitEvent:
        return AwaitEvent(Approved)

    builder = SagaBuilder(parallel=True)
    builder.add_step(step=Fails([]), input_map=lambda _: Booking(amount=7), step_id="bad")
    first = builder.add_step(
        step=Book(business, until_then),
        input_map=lambda _: Booking(amount=7),
        transaction=True,
        step_id="row",
    )
    builder.add_step(
        step=Book(business, waits),
        input_map=lambda out: out,
        depends_on=[first],
        transaction=True,
        step_id="late",
    )
    orchestrator, saga_id = await driven(store, builder.build())
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
    assert await business.rows() == ["do row", "undo row"]


async def test_step_that_waits_for_its_transaction_does_not_begin_once_another_has_failed(
    store: SagaStore, business: Business
) -> None:
    """It was to be cancelled: the failure is in the very commit that it has waited for."""

    def never(_: Booking) -> Booking:
        raise LookupError("there is no such thing")

    builder = SagaBuilder(parallel=True, on_branch_failure="cancel")
    steps = {name: Book(business) for name in ("one", "two")}
    refs = {
        name: builder.add_step(
            step=step, input_map=lambda _: Booking(amount=7), transaction=True, step_id=name
        )
        for name, step in steps.items()
    }
    builder.add_step(step=Plain([]), input_map=never, depends_on=refs["one"], step_id="bad")
    orchestrator, saga_id = await driven(store, builder.build())
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPENSATED
    assert await business.rows() == ["do one", "undo one"]
    assert steps["two"].contexts == []


async def test_nothing_begins_once_the_commit_of_a_step_was_refused(
    store: SagaStore, business: Business
) -> None:
    """The saga may be somebody else's by then, also for what its driver had found ready before."""
    log: list[str] = []
    taken = False

    def probe(method: str, ordinal: int, when: str) -> None:
        if taken and method.startswith("commit"):
            raise StaleVersionError("somebody else has taken it over")

    async def is_taken(_: StepContext) -> None:
        nonlocal taken
        taken = True

    builder = SagaBuilder(parallel=True)
    refs = {
        name: builder.add_step(
            step=Book(business, *([is_taken] if name == "three" else [])),
            input_map=lambda _: Booking(amount=7),
            transaction=True,
            step_id=name,
        )
        for name in ("one", "two", "three")
    }
    builder.add_step(
        step=Plain(log, turns=0),
        input_map=lambda out: out,
        depends_on=refs["two"],
        step_id="next",
    )
    await driven(FaultyStore(store, probe=probe), builder.build())
    assert await business.rows() == ["do one", "do two"]
    assert log == []


async def test_event_of_a_token_waits_for_the_transaction_of_its_step(
    store: SagaStore, business: Business
) -> None:
    """A step that has waited longer, and could begin at once, must not get it meanwhile."""

    class Waits(Plain):
        async def execute(self, inp: Booking, ctx: StepContext) -> Booking | AwaitEvent:  # type: ignore[override]
            self.log.append(f"{ctx.step_id} {ctx.waits}")
            return inp if ctx.waits else AwaitEvent(Approved)

    async def waits(_: StepContext) -> AwaitEvent:
        return AwaitEvent(Approved)

    log: list[str] = []
    builder = SagaBuilder(parallel=True)
    builder.add_step(step=Waits(log), input_map=lambda _: Booking(amount=7), step_id="plain")
    builder.add_step(
        step=Book(business, waits),
        input_map=lambda _: Booking(amount=7),
        transaction=True,
        step_id="row",
    )
    orchestrator, saga_id = await driven(store, builder.build())
    rests = await orchestrator.get_snapshot(saga_id)
    token = {branch.step_id: branch.token for branch in rests.branches}["row"]
    assert token is not None
    async with asyncio.timeout(30):
        await orchestrator.notify(saga_id=saga_id, token=token, event={"by": "ann"})
    after = await orchestrator.get_snapshot(saga_id)
    assert (after.status, set(after.outputs)) == (SagaStatus.SUSPENDED, {"row"})
    assert log == ["plain 0"]
    await orchestrator.signal(saga_id=saga_id, event=Approved(by="joe"))
    await orchestrator.run_due()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
