"""What only a real PostgreSQL shows: plans, schemas, outages, wake-ups."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from saga_backends.postgresql import migration_sql
from saga_backends.postgresql.schema import migrations
from saga_core import (
    Direction,
    PayloadError,
    Query,
    SagaOrchestrator,
    SagaStatus,
    SchemaError,
    StoreUnavailableError,
    StoreUrlError,
    open_store,
)
from saga_core.records import Due, LeaseAction, Registered
from saga_testing.conformance.sagas import (
    HOUR,
    KIND,
    LEASE,
    claim,
    commit_of,
    ended,
    leased,
    listed,
    new_saga,
)
from saga_testing.conformance.waiters import queued
from saga_testing.servers import PostgresqlServer, postgresql_server
from tests.behaviour.cast import Story, definition

WAITING = 100_000


@pytest_asyncio.fixture
async def connection(postgresql: PostgresqlServer) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgresql.url)
    yield connection
    await connection.close()


def fresh_schema() -> str:
    return f"s{uuid4().hex[:12]}"


async def test_idle_poll_over_100_000_waiting_sagas_uses_the_index(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    schema = fresh_schema()
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        await connection.execute(
            f"INSERT INTO {schema}.saga (namespace, saga_id, saga_name, definition_version, "
            "fingerprint, data, status, direction, active, step_index, generation, attempt, "
            "version, fence, due_at, created_at, updated_at) SELECT 'default', gen_random_uuid(), "
            f"'order', '1', 'f', '{{}}', 'SUSPENDED', n % 2, true, 0, 0, 0, 1, 0, "
            f"now() + interval '1 d', now(), now() FROM generate_series(1, {WAITING}) n"
        )
        await connection.execute(f"ANALYZE {schema}.saga")
        sql = store._sql.claim  # type: ignore[attr-defined]
        arguments = ("default", "me", uuid4(), 10, LEASE, ["order"], ["1"], ["f"], 1)
        async with connection.transaction():
            rows = await connection.fetch(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *arguments
            )
        claims = await store.claim_due(
            "me",
            claim_id=uuid4(),
            limit=10,
            lease=LEASE,
            only=[Registered("order", "1", "f")],
            favour=Direction.FORWARD,
        )
        assert not claims.records
        assert claims.next_due is not None
    (plan,) = json.loads(rows[0][0])
    scans = [node for node in nodes(plan["Plan"]) if node["Node Type"] == "Seq Scan"]
    assert scans == []
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 200
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    found = [plan]
    for child in plan.get("Plans", ()):
        found += nodes(child)
    return found


async def test_commit_that_keeps_its_lease_is_hot_and_notifies_nobody(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    schema = fresh_schema()
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        heard: list[str] = []
        channel = store._channel  # type: ignore[attr-defined]

        def listener(*notification: Any) -> None:
            heard.append(notification[-1])

        await connection.add_listener(channel, listener)
        record = (await store.create(leased())).record
        for _ in range(10):
            committed = await store.commit(commit_of(record))
            record = await store.load(record.saga_id)
            assert committed.held
        await connection.execute("SELECT 1")
        assert heard == []
        await store.create(new_saga())
        async with asyncio.timeout(5):
            while not heard:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert heard == ["default"]
        hot, every = 0, 0
        async with asyncio.timeout(10):
            while every < 10:
                await store.load(record.saga_id)  # a session reports once a second, when it works
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                row = await connection.fetchrow(
                    "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables "
                    "WHERE schemaname = $1 AND relname = 'saga'",
                    schema,
                )
                hot, every = row
                await asyncio.sleep(0.05)
        assert hot >= every - 1
        await connection.remove_listener(channel, listener)
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_missing_schema_names_the_command(postgresql: PostgresqlServer) -> None:
    with pytest.raises(SchemaError, match="saga db upgrade"):
        async with open_store(postgresql.url, schema_name=fresh_schema()):
            pass


async def test_schema_that_is_too_new_is_refused(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    schema = fresh_schema()
    async with open_store(postgresql.url, create_schema=True, schema_name=schema):
        pass
    # Newer, but our format may still use it: a rolling deploy.
    await connection.execute(f"INSERT INTO {schema}.saga_schema VALUES (900, 'later', 1)")
    async with open_store(postgresql.url, schema_name=schema):
        pass
    await connection.execute(f"INSERT INTO {schema}.saga_schema VALUES (999, 'too_new', 99)")
    with pytest.raises(SchemaError, match="too new"):
        async with open_store(postgresql.url, schema_name=schema):
            pass
    with pytest.raises(SchemaError, match="too new"):
        async with open_store(postgresql.url, schema_name=schema, create_schema=True):
            pass
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_many_upgrades_at_once_run_each_migration_once(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    schema = fresh_schema()

    async def upgrade() -> None:
        async with open_store(postgresql.url, create_schema=True, schema_name=schema):
            pass

    await asyncio.gather(*(upgrade() for _ in range(6)))
    rows = await connection.fetch(f"SELECT version FROM {schema}.saga_schema")
    assert [row[0] for row in rows] == [migration.number for migration in migrations()]
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_migrations_can_be_handed_to_other_tools(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    schema = fresh_schema()
    await connection.execute(migration_sql(schema))
    async with open_store(postgresql.url, schema_name=schema) as store:
        assert (await store.create(new_saga())).created
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(SchemaError, match="identifier"):
        migration_sql("x; DROP TABLE saga")


BAD_URLS = {
    "postgresql://127.0.0.1:notaport/db": StoreUrlError,
    "postgresql+psycopg://127.0.0.1/db": StoreUrlError,
}


@pytest.mark.parametrize(("url", "error"), BAD_URLS.items())
async def test_wrong_url_is_our_error(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        async with open_store(url):
            pass


@pytest.mark.parametrize(
    "options", [{"schema_name": "x; DROP"}, {"namespace": "A"}, {"pool_max_size": 0}, {"nope": 1}]
)
async def test_wrong_option_is_our_error_and_names_it(
    postgresql: PostgresqlServer, options: dict[str, Any]
) -> None:
    with pytest.raises(StoreUrlError, match=next(iter(options))):
        async with open_store(postgresql.url, **options):
            pass


async def test_unreachable_server_is_our_error_without_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(StoreUnavailableError) as refused:
        async with open_store(f"postgresql://ann:s3cret@127.0.0.1:{port}/db"):
            pass
    assert str(port) in str(refused.value)
    assert "s3cret" not in str(refused.value)


async def test_unknown_database_is_our_error(postgresql: PostgresqlServer) -> None:
    url = postgresql.url.rpartition("/")[0] + "/no_such_database"
    with pytest.raises(StoreUnavailableError, match="no_such_database"):
        async with open_store(url):
            pass


async def test_store_works_again_after_the_server_was_killed() -> None:
    with postgresql_server() as server:
        async with open_store(server.url, create_schema=True) as store:
            orchestrator = SagaOrchestrator(store=store)
            story = Story()
            orchestrator.register("story", definition(story.step(), story.step()))
            saga_id = await orchestrator.start(saga_name="story", initial_data={"n": 1}, wait=False)
            done = await orchestrator.start(saga_name="story", initial_data={"n": 1})
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreUnavailableError):
                await store.load(saga_id)
            await asyncio.to_thread(server.start)
            for _ in range(20):  # connections from before the crash are found dead one by one
                with suppress(StoreUnavailableError):
                    await store.load(saga_id)
            # What was acknowledged is there.
            assert (await orchestrator.get_snapshot(done)).status is SagaStatus.COMPLETED
            assert await orchestrator.run_due() == 1
            assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED


async def test_due_rows_of_another_kind_do_not_stop_the_claim(
    postgresql: PostgresqlServer,
) -> None:
    schema = fresh_schema()
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        for _ in range(50):
            await store.create(new_saga(saga_name="unknown"))
        mine = new_saga()
        await store.create(mine)
        claims = await store.claim_due(
            "me",
            claim_id=uuid4(),
            limit=1,
            lease=HOUR,
            only=[KIND],
            favour=Direction.ROLLBACK,
        )
        assert [record.saga_id for record in claims.records] == [mine.saga_id]


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_row_that_cannot_be_read_hides_no_other(
    postgresql: PostgresqlServer, connection: Any, size: int
) -> None:
    """Another program may have written it, or a later version with a status of its own."""
    schema = fresh_schema()
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        made = [new_saga() for _ in range(5)]
        for one in made:
            await store.create(one)
        spoiled = [made[at].saga_id for at in (1, 2, 4)]
        await connection.execute(
            f"UPDATE {schema}.saga SET status = 'UNHEARD_OF' WHERE saga_id = ANY($1)", spoiled
        )
        sound = [made[0].saga_id, made[3].saga_id]
        assert await listed(store, size) == (sound, spoiled)
        assert {one.saga_id for one in (await claim(store)).records} == set(sound)
        with pytest.raises(SchemaError, match="UNHEARD_OF") as told:
            await store.load(spoiled[0])
        assert told.value.saga_id == spoiled[0]
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.mark.parametrize("at", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
async def test_time_that_would_become_infinite_is_refused(
    postgresql: PostgresqlServer, connection: Any, at: datetime
) -> None:
    """With one such saga the server could not reckon any more when the next one falls due."""
    schema = fresh_schema()
    due = Due(at=at)
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        with pytest.raises(PayloadError, match="cannot hold the time"):
            await store.create(new_saga(due=due))
        record = (await store.create(leased())).record
        with pytest.raises(PayloadError, match="cannot hold the time"):
            await store.commit(commit_of(record, lease=LeaseAction.RELEASE, due=due))
        original = await store.export(record.saga_id)
        never = replace(original, record=replace(original.record, saga_id=uuid4(), due_at=due.at))
        with pytest.raises(PayloadError, match="cannot hold the time"):
            await store.restore(never)
        assert (await store.load(record.saga_id)).version == record.version
        assert await store.count(Query()) == 1
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_code_of_before_writes_to_an_upgraded_schema(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    """What newer migrations add has a default, so that both work on one schema for a while."""
    schema = fresh_schema()
    needed = (
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = $1 "
        "AND is_nullable = 'NO' AND column_default IS NULL AND table_name <> 'saga_schema'"
    )
    await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.execute(migrations()[0].text(schema))
    before = set(map(tuple, await connection.fetch(needed, schema)))
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    await connection.execute(migration_sql(schema))
    assert set(map(tuple, await connection.fetch(needed, schema))) == before
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_older_schema_names_the_command_and_keeps_its_sagas_through_the_upgrade(
    postgresql: PostgresqlServer, connection: Any
) -> None:
    schema = fresh_schema()
    new = new_saga(aggregation_id="a")
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        await store.create(new)
    # Back to version 1, as it was before there were queues.
    await connection.execute(
        f"DROP INDEX {schema}.saga_queued, {schema}.saga_ended, "
        f"{schema}.saga_ended_by_name; "
        f"ALTER TABLE {schema}.saga DROP COLUMN waiters; "
        f"DELETE FROM {schema}.saga_schema WHERE version > 1"
    )
    with pytest.raises(SchemaError, match="Run `saga db upgrade URL`"):
        async with open_store(postgresql.url, schema_name=schema):
            pass
    async with open_store(postgresql.url, create_schema=True, schema_name=schema) as store:
        waiter = (await store.create(queued())).record
        assert waiter.due_at is None
        await store.commit(ended(await store.load(new.saga_id)))
        assert (await store.load(waiter.saga_id)).due_at is not None
    await connection.execute(f"DROP SCHEMA {schema} CASCADE")
