"""An answer that is lost after the server has applied the write: nothing happens twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from saga_core import SagaOrchestrator, SagaStatus, StoreUnavailableError, open_store
from saga_core.records import SagaRecord
from saga_testing.conformance.sagas import LEASE, OTHER, claim, commit_of, leased, new_saga
from saga_testing.proxy import PostgresqlProxy
from saga_testing.servers import PostgresqlServer
from tests.wire.conftest import RAN, options, three_steps


def sends(text: bytes) -> Any:
    return lambda request: text in request


async def age(server: PostgresqlServer, record: SagaRecord, by: timedelta) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute(
        "UPDATE wire.saga SET due_at = due_at - $1::interval WHERE saga_id = $2",
        by,
        record.saga_id,
    )
    await connection.close()


@pytest.mark.parametrize("taken_over", [False, True], ids=["repeated", "taken over"])
async def test_create_repeated_tells_who_holds_the_saga(
    proxy: PostgresqlProxy, postgresql: PostgresqlServer, taken_over: bool
) -> None:
    chosen: dict[str, Any] = options(statement_cache_size=0)
    async with open_store(proxy.url, **chosen) as store:
        new = leased()
        proxy.drop_next_reply(sends(b"ON CONFLICT DO NOTHING"))
        with pytest.raises(StoreUnavailableError):
            await store.create(new)
        assert proxy.dropped.is_set()
        record = await store.load(new.saga_id)
        if taken_over:
            await age(postgresql, record, LEASE)
            await claim(store, OTHER)
        again = await store.create(new)
        assert not again.created
        holder = (again.record.worker, again.record.version)
        assert holder == ((OTHER, 2) if taken_over else ("worker-me", 1))


@pytest.mark.parametrize("taken_over", [False, True], ids=["repeated", "taken over"])
async def test_commit_repeated_is_applied_once_and_tells_whether_it_still_holds(
    proxy: PostgresqlProxy, postgresql: PostgresqlServer, taken_over: bool
) -> None:
    chosen: dict[str, Any] = options(statement_cache_size=0)
    async with open_store(proxy.url, **chosen) as store:
        record = (await store.create(leased())).record
        transition = commit_of(record)
        proxy.drop_next_reply(sends(b"WITH moved"))
        with pytest.raises(StoreUnavailableError):
            await store.commit(transition)
        if taken_over:
            await age(postgresql, record, LEASE)
            (theirs,) = (await claim(store, OTHER)).records
            assert theirs.state == transition.state
        again = await store.commit(transition)
        assert (again.version, again.fence, again.held) == (2, 1, not taken_over)
        assert len(await store.history(record.saga_id)) == 1


@pytest.mark.parametrize("taken_over", [False, True], ids=["repeated", "taken over"])
async def test_claim_repeated_returns_what_it_had_taken(
    proxy: PostgresqlProxy, postgresql: PostgresqlServer, taken_over: bool
) -> None:
    chosen: dict[str, Any] = options(statement_cache_size=0)
    async with open_store(proxy.url, **chosen) as store:
        one, two = new_saga(), new_saga()
        for new in (one, two):
            await store.create(new)
        claim_id = uuid4()
        proxy.drop_next_reply(sends(b"WITH mine"))
        with pytest.raises(StoreUnavailableError):
            await claim(store, claim_id=claim_id)
        if taken_over:
            await age(postgresql, await store.load(one.saga_id), LEASE)
            await claim(store, OTHER)
        again = await claim(store, claim_id=claim_id)
        expected = {two.saga_id} if taken_over else {one.saga_id, two.saga_id}
        assert {record.saga_id for record in again.records} == expected
        assert all(record.fence == 1 for record in again.records)


@pytest.mark.parametrize(
    "statement", [b"ON CONFLICT DO NOTHING", b"WITH moved"], ids=["create", "commit"]
)
async def test_start_whose_reply_is_lost_runs_each_step_once(
    proxy: PostgresqlProxy, statement: bytes
) -> None:
    chosen: dict[str, Any] = options(statement_cache_size=0)
    async with open_store(proxy.url, **chosen) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        proxy.drop_next_reply(sends(statement))
        saga_id = await orchestrator.start(saga_name="count", initial_data={"n": 0})
        assert proxy.dropped.is_set()
        assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
        assert RAN == ["step_0", "step_1", "step_2"]
        assert [entry.step_id for entry in await store.history(saga_id)] == RAN


async def test_worker_whose_claim_got_no_answer_drives_what_it_had_claimed(
    proxy: PostgresqlProxy,
) -> None:
    chosen: dict[str, Any] = options(statement_cache_size=0)
    async with open_store(proxy.url, **chosen) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register("count", three_steps())
        saga_id = await orchestrator.start(saga_name="count", initial_data={"n": 0}, wait=False)
        proxy.drop_next_reply(sends(b"WITH mine"))
        assert await orchestrator.run_due() == 1
        assert proxy.dropped.is_set()
        assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED
        assert RAN == ["step_0", "step_1", "step_2"]
