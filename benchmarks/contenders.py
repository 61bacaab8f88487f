"""What is compared, each in a process: `python -m benchmarks.contenders NAME URL SAGAS LANES`.

The floors do what a saga must at least do: one statement, or one transaction, per transition, on
a table like ours, with the same durability. They have no retries, no leases, no types.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter

from benchmarks.load import measure
from benchmarks.steps import Count, Number, no_op_saga
from saga_core import SagaOrchestrator, open_store

__all__ = ["CONTENDERS"]

STEPS = 3


async def ours(url: str, sagas: int, lanes: int) -> None:
    """Run the library on a store opened by URL."""
    options: dict[str, Any] = {}
    if url.startswith("postgresql"):
        options = {"pool_min_size": lanes, "pool_max_size": lanes, "schema_name": "bench"}
    async with open_store(url, create_schema=True, **options) as store:
        await _start_sagas(SagaOrchestrator(store=store), sagas, lanes)


async def ours_on_a_model(url: str, sagas: int, lanes: int) -> None:
    """Run the library on the user's own SQLAlchemy model."""
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from sqlalchemy.orm import DeclarativeBase

    from saga_backends.sql import SagaStateMixin, SqlSagaStore

    class Base(DeclarativeBase):
        pass

    class BenchSaga(Base, SagaStateMixin):
        __tablename__ = "bench_saga"

    driver = "postgresql+asyncpg" if url.startswith("postgresql") else "sqlite+aiosqlite"
    engine = create_async_engine(f"{driver}://{url.partition('://')[2]}", pool_size=lanes)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    store = SqlSagaStore(model_class=BenchSaga, session_maker=async_sessionmaker(engine))
    await _start_sagas(SagaOrchestrator(store=store), sagas, lanes)
    await engine.dispose()


async def _start_sagas(orchestrator: SagaOrchestrator, sagas: int, lanes: int) -> None:
    orchestrator.register("no_op", no_op_saga(STEPS))
    await measure(
        lambda: orchestrator.start(saga_name="no_op", initial_data={"n": 1}), sagas, lanes
    )


async def postgresql_floor(url: str, sagas: int, lanes: int) -> None:
    """Run raw asyncpg: an insert to start, then one statement per transition."""
    import asyncpg

    class Plain(asyncpg.Connection):  # type: ignore[misc]
        def get_reset_query(self) -> str:
            return ""

    pool = await asyncpg.create_pool(url, min_size=lanes, max_size=lanes, connection_class=Plain)
    await pool.execute(
        "SELECT pg_advisory_lock(4711); "
        "CREATE TABLE IF NOT EXISTS floor_saga (id uuid PRIMARY KEY, name text NOT NULL, "
        "data text NOT NULL, status text NOT NULL, step integer NOT NULL, version bigint NOT NULL, "
        "worker text, due_at timestamptz, updated_at timestamptz NOT NULL) WITH (fillfactor = 70); "
        "CREATE INDEX IF NOT EXISTS floor_due ON floor_saga (due_at) WHERE due_at IS NOT NULL; "
        "CREATE TABLE IF NOT EXISTS floor_history (id uuid, seq integer, kind text NOT NULL, "
        "input text, output text, at timestamptz NOT NULL, PRIMARY KEY (id, seq)); "
        "SELECT pg_advisory_unlock(4711)"
    )
    insert = (
        "INSERT INTO floor_saga VALUES ($1, 'no_op', $2, 'RUNNING', 0, 1, 'me', "
        "clock_timestamp() + interval '30 s', clock_timestamp())"
    )
    step = (
        "WITH moved AS (UPDATE floor_saga SET status = $3, step = $4, version = version + 1, "
        "due_at = CASE WHEN $3 = 'COMPLETED' THEN NULL ELSE due_at END, "
        "updated_at = clock_timestamp() WHERE id = $1 AND version = $2 RETURNING version) "
        ", told AS (INSERT INTO floor_history SELECT $1, $4, 'completed', $5, $6, "
        "clock_timestamp() FROM moved) SELECT version FROM moved"
    )

    async def one_saga() -> None:
        key = uuid4()
        await pool.execute(insert, key, '{"n":1}')
        for number in range(1, STEPS + 1):
            status = "COMPLETED" if number == STEPS else "RUNNING"
            await pool.fetchrow(step, key, number, status, number, '{"n":1}', '{"n":2}')

    await measure(one_saga, sagas, lanes)
    await pool.close()


async def sqlite_floor(url: str, sagas: int, lanes: int) -> None:
    """Run one aiosqlite connection with one IMMEDIATE transaction per transition."""
    import aiosqlite

    lock = asyncio.Lock()
    async with aiosqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None) as db:
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            await db.execute(f"PRAGMA {pragma}")
        await db.execute(
            "CREATE TABLE IF NOT EXISTS floor_saga (id TEXT PRIMARY KEY, data TEXT, status TEXT, "
            "step INTEGER, version INTEGER, worker TEXT, due_at INTEGER)"
        )
        await db.execute(
            "CREATE TABLE IF NOT EXISTS floor_history (id TEXT, seq INTEGER, kind TEXT, "
            "input TEXT, output TEXT, PRIMARY KEY (id, seq)) WITHOUT ROWID"
        )

        @asynccontextmanager
        async def transaction() -> Any:
            async with lock:
                await db.execute("BEGIN IMMEDIATE")
                yield
                await db.execute("COMMIT")

        async def one_saga() -> None:
            key = str(uuid4())
            async with transaction():
                await db.execute(
                    "INSERT INTO floor_saga VALUES (?, ?, 'RUNNING', 0, 1, 'me', 0)",
                    (key, '{"n":1}'),
                )
            for number in range(1, STEPS + 1):
                status = "COMPLETED" if number == STEPS else "RUNNING"
                async with transaction():
                    await db.execute(
                        "UPDATE floor_saga SET status = ?, step = ?, version = version + 1 "
                        "WHERE id = ? AND version = ?",
                        (status, number, key, number),
                    )
                    await db.execute(
                        "INSERT INTO floor_history VALUES (?, ?, 'completed', ?, ?)",
                        (key, number, '{"n":1}', '{"n":2}'),
                    )

        await measure(one_saga, sagas, lanes)


async def redis_floor(url: str, sagas: int, lanes: int) -> None:
    """Run redis-py with one script per transition: compare, write the row, append, queue."""
    from redis.asyncio import Redis

    client = Redis.from_url(url, decode_responses=True, protocol=2, max_connections=lanes)
    insert = await client.script_load(
        "redis.call('HSET', KEYS[1], 'name', 'no_op', 'data', ARGV[1], 'status', 'RUNNING', "
        "'step', 0, 'version', 1, 'worker', 'me') "
        "redis.call('ZADD', KEYS[2], 0, KEYS[1]) return 1"
    )
    step = await client.script_load(
        "if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end "
        "redis.call('HSET', KEYS[1], 'status', ARGV[2], 'step', ARGV[3], 'version', ARGV[1] + 1) "
        "redis.call('RPUSH', KEYS[3], ARGV[4]) "
        "if ARGV[2] == 'COMPLETED' then redis.call('ZREM', KEYS[2], KEYS[1]) end "
        "return ARGV[1] + 1"
    )

    async def one_saga() -> None:
        key = str(uuid4())
        keys = (f"{{floor}}:saga:{key}", "{floor}:due", f"{{floor}}:history:{key}")
        await client.evalsha(insert, 2, *keys[:2], '{"n":1}')
        for number in range(1, STEPS + 1):
            status = "COMPLETED" if number == STEPS else "RUNNING"
            entry = f'completed {number} {{"n":1}} {{"n":2}}'
            await client.evalsha(step, 3, *keys, number, status, number, entry)

    await measure(one_saga, sagas, lanes)
    await client.aclose()


async def memory_floor(url: str, sagas: int, lanes: int) -> None:
    """Await the steps with pydantic's validation and dumps, and keep nothing."""
    adapter = TypeAdapter(Number)
    step = Count()

    async def one_saga() -> None:
        text = adapter.dump_json(Number(n=1))
        for _ in range(STEPS):
            out = await step.execute(adapter.validate_json(text))
            text = adapter.dump_json(out)
            adapter.validate_json(text)

    await measure(one_saga, sagas, lanes)


CONTENDERS = {
    "ours": ours,
    "ours on a model": ours_on_a_model,
    "postgresql floor": postgresql_floor,
    "sqlite floor": sqlite_floor,
    "redis floor": redis_floor,
    "memory floor": memory_floor,
}

if __name__ == "__main__":
    _, name, url, sagas, lanes = sys.argv
    asyncio.run(CONTENDERS[name](url, int(sagas), int(lanes)))
