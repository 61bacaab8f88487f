"""A reply that is lost after the server has applied the write: nothing happens twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from saga_core import SagaOrchestrator, SagaStatus, SagaStore, open_store
from saga_testing.conformance.sagas import (
    LEASE,
    ME,
    OTHER,
    claim,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
)
from saga_testing.redis_proxy import RedisProxy
from tests.redis.keys import Keys, sends
from tests.wire.conftest import RAN, three_steps

TAKEN_OVER = pytest.mark.parametrize("taken_over", [False, True], ids=["repeated", "taken over"])
PAST_LEASE = 2 * LEASE


@pytest_asyncio.fixture
async def lossy(proxy: RedisProxy, namespace: str) -> AsyncIterator[SagaStore]:
    """Open a store behind the proxy, whose connection is there already: it is resent once."""
    RAN.clear()
    async with open_store(proxy.url, namespace=namespace, connections=1) as store:
        await store.create(new_saga(saga_name="warm"))
        yield store


@TAKEN_OVER
async def test_create_without_a_reply_is_sent_again_and_applied_once(
    lossy: SagaStore, proxy: RedisProxy, keys: Keys, taken_over: bool
) -> None:
    new = leased()
    proxy.drop_next_reply(sends("create"))
    created = await lossy.create(new)
    assert proxy.dropped.is_set()
    assert (created.created, created.record.version) == (True, 1)
    if taken_over:
        await keys.age(created.record, PAST_LEASE)
        await claim(lossy, OTHER)
    again = await lossy.create(new)
    assert not again.created
    holder = (again.record.worker, again.record.version)
    assert holder == ((OTHER, 2) if taken_over else (ME, 1))


@TAKEN_OVER
async def test_commit_without_a_reply_is_sent_again_and_applied_once(
    lossy: SagaStore, proxy: RedisProxy, keys: Keys, taken_over: bool
) -> None:
    record = (await lossy.create(leased())).record
    transition = commit_of(record, spawn=(new_saga(saga_name="child"),))
    proxy.drop_next_reply(sends("commit"))
    committed = await lossy.commit(transition)
    assert proxy.dropped.is_set()
    assert (committed.version, committed.held) == (2, True)
    if taken_over:
        await keys.age(record, PAST_LEASE)
        (theirs,) = (await claim(lossy, OTHER)).records
        assert theirs.state == transition.state
    again = await lossy.commit(transition)
    assert (again.version, again.fence, again.held) == (2, 1, not taken_over)
    assert len(await lossy.history(record.saga_id)) == 1


@TAKEN_OVER
async def test_claim_without_a_reply_is_sent_again_and_takes_once(
    lossy: SagaStore, proxy: RedisProxy, keys: Keys, taken_over: bool
) -> None:
    one, two = new_saga(), new_saga()
    for new in (one, two):
        await lossy.create(new)
    claim_id = uuid4()
    proxy.drop_next_reply(sends("claim_due"))
    claims = await claim(lossy, claim_id=claim_id)
    assert proxy.dropped.is_set()
    assert {record.saga_id for record in claims.records} == {one.saga_id, two.saga_id}
    if taken_over:
        await keys.age(await lossy.load(one.saga_id), PAST_LEASE)
        await claim(lossy, OTHER)
    again = await claim(lossy, claim_id=claim_id)
    expected = {two.saga_id} if taken_over else {one.saga_id, two.saga_id}
    assert {record.saga_id for record in again.records} == expected
    assert all(record.fence == 1 for record in (*claims.records, *again.records))


async def test_signal_without_a_reply_is_sent_again_and_kept_once(
    lossy: SagaStore, proxy: RedisProxy
) -> None:
    record = (await lossy.create(leased())).record
    proxy.drop_next_reply(sends("signal"))
    receipt = await lossy.signal(record.saga_id, event("once"))
    assert proxy.dropped.is_set()
    assert (receipt.accepted, receipt.duplicate, receipt.held) == (True, False, True)
    assert [one.event_id for one in await lossy.inbox(record.saga_id)] == ["once"]
    assert (await lossy.load(record.saga_id)).signals == 1


async def test_restore_without_a_reply_is_sent_again_and_is_no_conflict_with_itself(
    lossy: SagaStore, proxy: RedisProxy
) -> None:
    done = leased()
    await lossy.commit(ended((await lossy.create(done)).record))
    export = await lossy.export(done.saga_id)
    assert await lossy.purge(finished_for=LEASE * 0, limit=1) == 1
    proxy.drop_next_reply(sends("restore"))
    await lossy.restore(export)
    assert proxy.dropped.is_set()
    assert len(await lossy.history(done.saga_id)) == 1


@pytest.mark.parametrize("verb", ["create", "commit"])
async def test_start_whose_reply_is_lost_runs_each_step_once(
    lossy: SagaStore, proxy: RedisProxy, verb: str
) -> None:
    orchestrator = SagaOrchestrator(store=lossy)
    orchestrator.register("count", three_steps())
    proxy.drop_next_reply(sends(verb))
    saga_id = await orchestrator.start(saga_name="count", initial_data={"n": 0})
    assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert RAN == ["step_0", "step_1", "step_2"]
    assert [entry.step_id for entry in await lossy.history(saga_id)] == RAN


async def test_worker_whose_claim_got_no_reply_drives_what_it_had_claimed(
    lossy: SagaStore, proxy: RedisProxy
) -> None:
    orchestrator = SagaOrchestrator(store=lossy)
    orchestrator.register("count", three_steps())
    saga_id = await orchestrator.start(saga_name="count", initial_data={"n": 0}, wait=False)
    proxy.drop_next_reply(sends("claim_due"))
    assert await orchestrator.run_due() == 1
    assert proxy.dropped.is_set()
    assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
    assert RAN == ["step_0", "step_1", "step_2"]


async def test_reply_lost_after_the_server_forgot_the_script_is_one_application(
    lossy: SagaStore, proxy: RedisProxy, keys: Keys
) -> None:
    record = (await lossy.create(leased())).record
    await keys.client.script_flush()
    lost = []

    def whole_text(command: bytes) -> bool:
        if b"EVALSHA" in command or not sends("commit")(command):
            return False
        lost.append(command)
        return True

    proxy.drop_next_reply(whole_text)
    committed = await lossy.commit(commit_of(record))
    assert len(lost) == 1
    assert committed.version == 2
    assert len(await lossy.history(record.saga_id)) == 1
