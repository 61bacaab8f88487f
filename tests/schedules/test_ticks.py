"""One run per tick: by the store's clock, whoever works, whatever dies, whatever is changed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import pytest

from saga_core import (
    PayloadError,
    Query,
    SagaDefinitionError,
    SagaError,
    SagaStatus,
    SagaStore,
    SagaWorker,
)
from saga_core.codec import PayloadLimits
from saga_core.status import ACTIVE
from saga_testing import Fault, FaultyStore, ManualClock, MemoryStore
from saga_testing.conformance import StoreHarness
from saga_testing.faults import WorkerLostError
from tests.schedules.cast import HOUR, NOON, Clerk, hourly, runs

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class Day:
    """A store whose clock is told to move, beginning at half past eleven."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOON - HOUR / 2)
        self.store = MemoryStore(clock=self.clock)
        self.clerk = Clerk(self.store)

    async def passes(self, by: timedelta) -> None:
        self.clock.advance(by)
        await self.clerk.work()


async def link_of(store: SagaStore) -> tuple[object, SagaStatus]:
    [record] = (await store.find(Query(tag="schedule", statuses=ACTIVE))).records
    return record.saga_id, record.state.status


# --- each tick once ------------------------------------------------------------------------------


async def test_each_tick_starts_one_run_at_its_time_and_none_before() -> None:
    day = Day()
    await day.clerk.add()
    assert await runs(day.store) == []
    await day.passes(HOUR / 2 - timedelta(microseconds=1))
    assert await runs(day.store) == []
    await day.passes(timedelta(microseconds=1))
    assert await runs(day.store) == [NOON]
    for _ in range(5):
        await day.passes(HOUR)
    assert await runs(day.store) == [NOON + n * HOUR for n in range(6)]
    [info] = await day.clerk.schedules.list()
    assert (info.schedule.name, info.next_at) == ("hourly", NOON + 6 * HOUR)


async def test_ticks_missed_are_made_up_for_on_every_store(
    store: SagaStore, harness: StoreHarness
) -> None:
    line = hourly()
    clerk = Clerk(store)
    await clerk.add(cron=line, missed="run_all", wait=False)
    link, _ = await link_of(store)
    await harness.age(link, 5 * HOUR)  # type: ignore[arg-type]
    await clerk.work()
    found = await runs(store)
    assert len(found) == 5
    assert {each.second for each in found} == {0}
    assert {after - before for before, after in pairwise(found)} == {HOUR}
    [info] = await clerk.schedules.list()
    assert info.next_at == found[-1] + HOUR


async def test_workers_that_declare_and_drive_it_together_run_each_tick_once(
    store: SagaStore, harness: StoreHarness
) -> None:
    line = hourly()
    clerks = [Clerk(store) for _ in range(4)]
    await asyncio.gather(*(each.add(cron=line, missed="run_all", wait=False) for each in clerks))
    link, _ = await link_of(store)
    await harness.age(link, 5 * HOUR)  # type: ignore[arg-type]
    workers = [SagaWorker(each.orchestrator) for each in clerks]
    tasks = [asyncio.create_task(each.run()) for each in workers]
    done = Query(saga_name="report", statuses=(SagaStatus.COMPLETED,))
    async with asyncio.timeout(60):
        while await store.count(done) < 5:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.01)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*tasks)
    assert len(await runs(store)) == 5
    await link_of(store)  # one link waits for the next tick, and no other


async def test_ticks_of_a_running_worker_come_once_each(store: SagaStore) -> None:
    clerks = [Clerk(store), Clerk(store)]
    for each in clerks:
        await each.add(cron="* * * * * *")
    poll = timedelta(milliseconds=50)
    async with (
        SagaWorker(clerks[0].orchestrator, poll_interval=poll),
        SagaWorker(clerks[1].orchestrator, poll_interval=poll),
        asyncio.timeout(60),
    ):
        while len(await runs(store)) < 2:  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.02)
    found = await runs(store)
    assert len(set(found)) == len(found)


async def test_schedule_begun_early_by_a_person_goes_on_and_runs_nothing(store: SagaStore) -> None:
    line = hourly()
    clerk = Clerk(store)
    await clerk.add(cron=line)
    before, _ = await link_of(store)
    [info] = await clerk.schedules.list()
    await clerk.admin.retry_step(before)  # type: ignore[arg-type]
    after, _ = await link_of(store)
    assert after != before
    assert await runs(store) == []
    assert [each.next_at for each in await clerk.schedules.list()] == [info.next_at]


# --- what dies -----------------------------------------------------------------------------------


async def lived(faulty: FaultyStore, clock: ManualClock) -> None:
    """Let hours pass; whoever loses an answer is followed by another, a minute later."""
    clerk = Clerk(faulty)
    for passes in (HOUR, HOUR, 2 * MINUTE, timedelta(0)):
        for _ in range(3):
            with suppress(SagaError):
                await clerk.add(missed="run_all")
                await clerk.work()
                break
            clerk = Clerk(faulty)
            clock.advance(MINUTE)
        clock.advance(passes)


CALLS = ("create", "load", "find", "commit", "claim_due", "release", "inbox")


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_call_that_fails_anywhere_loses_and_doubles_no_tick(fault: Fault) -> None:
    clock = ManualClock(NOON - HOUR / 2)
    plain = FaultyStore(MemoryStore(clock=clock))
    await lived(plain, clock)
    assert await runs(plain.inner) == [NOON, NOON + HOUR]
    made = [(call.method, call.ordinal) for call in plain.calls if call.method in CALLS]
    assert len(made) > 25
    for method, ordinal in made:
        clock = ManualClock(NOON - HOUR / 2)
        faulty = FaultyStore(MemoryStore(clock=clock))
        faulty.fail(method, ordinal, fault)
        await lived(faulty, clock)
        assert await runs(faulty.inner) == [NOON, NOON + HOUR], (method, ordinal)
        await link_of(faulty.inner)


async def test_worker_that_dies_at_any_call_loses_and_doubles_no_tick(
    store: SagaStore, harness: StoreHarness
) -> None:
    """The process is gone at the n-th call of its work: the next one finds what it has left."""
    line = hourly()
    for n in range(1, 60):
        name = f"s{n}"
        heir = Clerk(store)
        await heir.add(name, cron=line, missed="run_all", wait=False)
        [info] = [each for each in await heir.schedules.list() if each.schedule.name == name]
        await harness.age(info.saga_id, 3 * HOUR)
        dies = Mortal(n)
        victim = Clerk(FaultyStore(store, probe=dies))
        await victim.add(name, cron=line, missed="run_all", wait=False)
        dies.armed = True
        await asyncio.gather(victim.work(), return_exceptions=True)
        for record in (await store.find(Query(statuses=ACTIVE, tag="schedule"))).records:
            if record.worker is not None:
                await harness.age(record.saga_id, MINUTE)
        await heir.work()
        assert len(await runs(store, name)) == 3, n
        standing = Query(saga_name=f"schedule:{name}", statuses=ACTIVE)
        assert await store.count(standing) == 1, n
        assert await heir.schedules.remove(name)
        if not dies.dead:
            return
    raise AssertionError("the sweep must reach the end of the work")


class _GoneError(BaseException):
    """A process that is no more."""


class Mortal:
    """Ends all work at the n-th call that a process sends to the store."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self.armed = False
        self.dead = False

    def __call__(self, method: str, ordinal: int, when: str) -> None:
        if not self.armed or when != "before":
            return
        self._left -= 1
        self.dead = self.dead or self._left <= 0
        if self.dead:
            raise _GoneError


# --- what is missed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", []), ("run_once", [6]), ("run_all", [0, 1, 2, 3, 4, 5, 6])],
)
async def test_ticks_missed_in_a_long_night_are_handled_as_declared(
    missed: str, expected: list[int]
) -> None:
    day = Day()
    await day.clerk.add(missed=missed)
    await day.passes(7 * HOUR)  # 18:30
    assert await runs(day.store) == [NOON + n * HOUR for n in expected]
    await day.passes(HOUR / 2)
    assert await runs(day.store) == [NOON + n * HOUR for n in (*expected, 7)]


async def test_no_more_than_max_missed_are_made_up_for_the_newest() -> None:
    day = Day()
    await day.clerk.add(missed="run_all", max_missed=2)
    await day.passes(100 * DAY)
    assert await runs(day.store) == [NOON + 100 * DAY - n * HOUR for n in (2, 1)]


@pytest.mark.parametrize(("late", "count"), [(MINUTE, 1), (MINUTE + MINUTE / 60, 0)])
async def test_tick_is_missed_only_after_its_grace(late: timedelta, count: int) -> None:
    day = Day()
    await day.clerk.add(missed="skip", grace=MINUTE)
    await day.passes(HOUR / 2 + late)
    assert len(await runs(day.store)) == count


@pytest.mark.parametrize("missed", ["run_all", "run_once"])
async def test_more_ticks_than_a_look_takes_are_begun_by_the_following_looks(missed: str) -> None:
    """In their order, once each, and no payload grows with their number."""
    day = Day()
    day.clerk = Clerk(day.store, PayloadLimits(max_bytes=16_384, warn_bytes=16_384))
    grace = DAY if missed == "run_once" else MINUTE
    await day.clerk.add(cron="* * * * *", missed=missed, max_missed=1000, grace=grace)
    await day.passes(2000 * MINUTE)
    ticks = [NOON - HOUR / 2 + n * MINUTE for n in range(1001, 2001)]
    assert await runs(day.store) == ticks
    [info] = await day.clerk.schedules.list()
    assert (info.last_error, info.next_at) == (None, ticks[-1] + MINUTE)
    await day.passes(MINUTE)
    assert await runs(day.store) == [*ticks, ticks[-1] + MINUTE]


async def test_data_that_does_not_fit_with_what_a_look_adds_is_refused_and_nothing_written() -> (
    None
):
    day = Day()
    limits = PayloadLimits(max_bytes=16_384, warn_bytes=16_384)
    day.clerk = Clerk(day.store, limits)
    most = 0
    for size in range(limits.max_bytes, 0, -16):
        try:
            await day.clerk.add(cron="* * * * *", missed="run_all", initial_data={"x": "y" * size})
        except PayloadError as error:
            assert "schedule 'hourly'" in str(error)  # noqa: PT017 - the largest is looked for
            assert await day.store.count(Query()) == 0
            continue
        most = size
        break
    assert most > 10_000
    await day.passes(150 * MINUTE)
    await day.passes(MINUTE)
    assert len(await runs(day.store)) == 101
    [info] = await day.clerk.schedules.list()
    assert (info.status, info.last_error) == (SagaStatus.SUSPENDED, None)


async def test_limits_of_the_orchestrator_are_those_of_its_schedules() -> None:
    day = Day()
    day.clerk = Clerk(day.store, PayloadLimits(max_bytes=8_000_000, warn_bytes=8_000_000))
    await day.clerk.add(initial_data={"x": "y" * 3_000_000})
    await day.passes(HOUR)
    assert await runs(day.store) == [NOON]


async def test_tick_in_time_makes_up_for_those_missed_before_it() -> None:
    day = Day()
    await day.clerk.add(missed="run_once")
    await day.passes(HOUR / 2 + 3 * HOUR)  # 15:00 sharp
    assert await runs(day.store) == [NOON + 3 * HOUR]


async def test_clock_of_the_store_that_goes_back_runs_nothing_twice() -> None:
    day = Day()
    await day.clerk.add()
    await day.passes(HOUR)
    day.clock.jump(-HOUR / 4 * 3)
    await day.clerk.add()
    await day.clerk.work()
    await day.passes(HOUR)
    await day.passes(HOUR)
    assert await runs(day.store) == [NOON, NOON + HOUR]


# --- what is changed -----------------------------------------------------------------------------


async def test_declaring_it_again_changes_nothing(store: SagaStore) -> None:
    line = hourly()
    clerk = Clerk(store)
    await clerk.add(cron=line)
    before = await clerk.schedules.list()
    await Clerk(store).add(cron=line)
    assert await clerk.schedules.list() == before
    assert await store.count(Query(tag="schedule")) == 2


async def test_changed_line_replaces_the_old_one(store: SagaStore) -> None:
    clerk = Clerk(store)
    await clerk.add()
    await clerk.add(cron="30 3 1 1 *")
    [info] = await clerk.schedules.list()
    assert info.schedule.cron == "30 3 1 1 *"
    assert info.next_at is not None
    assert (info.next_at.month, info.next_at.day, info.next_at.hour) == (1, 1, 3)
    await link_of(store)


async def test_old_release_that_still_works_keeps_to_the_new_line() -> None:
    day = Day()
    await day.clerk.add()
    new = Clerk(day.store)
    await new.add(cron="30 * * * *")
    for _ in range(4):
        await day.passes(HOUR / 2)  # the old one does the work
    assert await runs(day.store) == [NOON + HOUR / 2, NOON + 3 * HOUR / 2]


async def test_link_of_the_old_line_that_comes_late_into_the_world_runs_nothing() -> None:
    day = Day()
    await day.clerk.add()
    lists: list[int] = []

    async def change() -> None:  # after the old link has looked, and before it makes the next
        lists.append(1)
        await Clerk(day.store).add(cron="45 * * * *")

    faulty = FaultyStore(day.store)
    faulty.between("create", 2, change)
    old = Clerk(faulty)
    old.schedules._register("hourly")
    day.clock.advance(HOUR / 2)
    await old.work()
    assert lists
    for _ in range(8):
        await day.passes(HOUR / 4)
    assert await runs(day.store) == [NOON, NOON + 3 * HOUR / 4, NOON + 7 * HOUR / 4]


async def test_tick_that_was_overdue_at_the_change_is_not_lost() -> None:
    day = Day()
    await day.clerk.add()
    day.clock.advance(HOUR)  # 12:30, and nobody has worked
    await Clerk(day.store).add(time_field="planned", initial_data={"of": "the new release"})
    await day.clerk.work()
    assert await runs(day.store) == [NOON]


async def test_removed_schedule_runs_no_more_and_may_come_back(store: SagaStore) -> None:
    line = hourly()
    clerk = Clerk(store)
    for _ in range(3):
        await clerk.add(cron=line)
        assert len(await clerk.schedules.list()) == 1
        assert await clerk.schedules.remove("hourly")
        assert await clerk.schedules.list() == []
    assert not await clerk.schedules.remove("hourly")


async def test_schedule_of_which_a_store_has_only_ended_links_begins_anew() -> None:
    """As in a copy of what has ended: the first link is there, and the one that waited is not."""
    day = Day()
    await day.clerk.add()
    ended = Query(tag="schedule", statuses=(SagaStatus.COMPLETED,))
    [first] = (await day.store.find(ended)).records
    copy = MemoryStore(clock=day.clock)
    await copy.restore(await day.store.export(first.saga_id))
    clerk = Clerk(copy)
    await clerk.add()
    day.clock.advance(HOUR)
    await clerk.work()
    assert await runs(copy) == [NOON]


async def test_schedule_removed_while_a_tick_is_begun_runs_no_more() -> None:
    day = Day()
    await day.clerk.add()
    faulty = FaultyStore(day.store)
    removing: list[asyncio.Task[bool]] = []

    async def remove() -> None:
        removing.append(asyncio.create_task(Clerk(day.store).schedules.remove("hourly")))
        for _ in range(50):
            await asyncio.sleep(0)

    faulty.between("create", 1, remove)
    old = Clerk(faulty)
    old.schedules._register("hourly")
    day.clock.advance(HOUR / 2)
    await old.work()
    assert await removing[0]
    assert await day.clerk.schedules.list() == []


async def test_paused_schedule_makes_up_for_what_it_has_missed_once_resumed() -> None:
    day = Day()
    await day.clerk.add()
    [info] = await day.clerk.schedules.list()
    await day.clerk.admin.pause(info.saga_id)
    await day.passes(3 * HOUR)
    [info] = await day.clerk.schedules.list()
    assert (info.is_paused, info.next_at) == (True, None)
    assert await runs(day.store) == []
    await day.clerk.admin.resume(info.saga_id)
    await day.clerk.work()
    assert await runs(day.store) == [NOON + 2 * HOUR]


async def test_paused_schedule_that_is_declared_otherwise_stays_paused(store: SagaStore) -> None:
    clerk = Clerk(store)
    await clerk.add(cron="* * * * * *")
    [info] = await clerk.schedules.list()
    await clerk.admin.pause(info.saga_id)
    before = await runs(store)
    for _ in range(2):  # the next release, in two workers
        await Clerk(store).add(cron="* * * * * *", initial_data={"release": 2})
        [info] = await clerk.schedules.list()
        assert (info.is_paused, info.schedule.initial_data) == (True, {"release": 2})
        await clerk.work()
    assert await runs(store) == before
    await link_of(store)  # the old one is gone


async def test_pause_that_outlasts_a_change_is_ended_as_any_other() -> None:
    day = Day()
    await day.clerk.add()
    [info] = await day.clerk.schedules.list()
    await day.clerk.admin.pause(info.saga_id)
    await day.passes(HOUR)
    await day.clerk.add(initial_data={"release": 2})
    await day.passes(2 * HOUR)
    assert await runs(day.store) == []
    [info] = await day.clerk.schedules.list()
    await day.clerk.admin.resume(info.saga_id)
    await day.clerk.work()
    assert await runs(day.store) == [NOON + 2 * HOUR]
    await day.passes(HOUR)
    assert await runs(day.store) == [NOON + 2 * HOUR, NOON + 3 * HOUR]


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("commit", [1, 2])
async def test_paused_schedule_does_not_run_while_it_is_being_changed(
    dies: bool, commit: int
) -> None:
    """Before the pause is on the new link, and before the old one is gone."""
    day = Day()
    await day.clerk.add()
    [info] = await day.clerk.schedules.list()
    await day.clerk.admin.pause(info.saga_id)
    day.clock.advance(HOUR)

    async def meanwhile() -> None:
        await day.clerk.work()
        if dies:
            raise WorkerLostError

    faulty = FaultyStore(day.store)
    faulty.between("commit", commit, meanwhile)
    with suppress(WorkerLostError):
        await Clerk(faulty).add(initial_data={"release": 2})
    assert faulty.calls_of("commit") >= commit
    await day.passes(HOUR)
    assert await runs(day.store) == []
    await Clerk(day.store).add(initial_data={"release": 2})
    await day.passes(HOUR)
    assert await runs(day.store) == []
    [info] = await day.clerk.schedules.list()
    assert info.is_paused
    await day.clerk.admin.resume(info.saga_id)
    await day.clerk.work()
    assert await runs(day.store) == [NOON + 2 * HOUR]


async def test_run_that_cannot_be_started_here_waits_for_a_release_that_can() -> None:
    day = Day()
    await day.clerk.add()
    other = Clerk(day.store)
    other.orchestrator.engine.registry._latest.pop("report")
    other.schedules._register("hourly")
    day.clock.advance(HOUR / 2)
    await other.work()
    [info] = await day.clerk.schedules.list()
    assert "'report' is not registered here" in (info.last_error or "")
    await day.passes(MINUTE)
    assert await runs(day.store) == [NOON]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"cron": "0 0 30 2 *"},
        {"cron": 5},
        {"timezone": "Mars/Base"},
        {"saga_name": "unknown"},
        {"missed": "perhaps"},
        {"max_missed": 0},
        {"grace": timedelta(0)},
        {"initial_data": [1]},
        {"name": "no spaces"},
    ],
)
async def test_schedule_that_will_not_do_is_refused_and_nothing_written(
    wrong: dict[str, object],
) -> None:
    store = MemoryStore()
    with pytest.raises(SagaDefinitionError):
        await Clerk(store).add(**wrong)  # type: ignore[arg-type]
    assert await store.count(Query()) == 0
