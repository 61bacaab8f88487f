"""What only a real SQLite file shows: several processes, pragmas, bad files."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from saga_core import (
    Query,
    SagaOrchestrator,
    SagaStatus,
    SchemaError,
    StoreUnavailableError,
    StoreUrlError,
    open_store,
)
from saga_testing.conformance.sagas import claim, listed, new_saga
from tests.behaviour.cast import Story, definition
from tests.sqlite.driver import NAME, drive_all

SAGAS = 60
PROCESSES = 4


async def test_processes_on_one_file_claim_nothing_twice_and_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sagas.db'}"
    story = Story()
    async with open_store(url) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register(NAME, definition(story.step(), story.step()))
        for _ in range(SAGAS):
            await orchestrator.start(saga_name=NAME, initial_data={"n": 1}, wait=False)
        context = multiprocessing.get_context("forkserver")
        processes = [
            context.Process(target=drive_all, args=(url, str(tmp_path / f"log{n}")))
            for n in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * PROCESSES
        logs = [(tmp_path / f"log{n}").read_text() for n in range(PROCESSES)]
        done = "".join(logs).splitlines()
        assert len(done) == len(set(done)) == 2 * SAGAS
        assert await store.count(Query(statuses=(SagaStatus.COMPLETED,))) == SAGAS


@pytest.mark.parametrize(("asked", "level"), [(None, 2), ("full", 2), ("normal", 1)])
async def test_writes_are_durable_unless_asked_otherwise(
    tmp_path: Path, asked: str | None, level: int
) -> None:
    options: dict[str, Any] = {} if asked is None else {"synchronous": asked}
    async with open_store(f"sqlite:///{tmp_path / 'sagas.db'}", **options) as store:
        database = store._db  # type: ignore[attr-defined]
        rows = await database.run(
            lambda db: (
                db.execute("PRAGMA synchronous").fetchone()[0],
                db.execute("PRAGMA journal_mode").fetchone()[0],
            )
        )
    assert rows == (level, "wal")


async def test_schema_is_made_by_itself_unless_told_not_to(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sagas.db'}"
    with pytest.raises(SchemaError, match="saga db upgrade"):
        async with open_store(url, create_schema=False):
            pass
    async with open_store(url):
        pass
    async with open_store(url, create_schema=False) as store:
        assert await store.count(Query()) == 0


async def test_schema_that_is_too_new_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sagas.db"
    async with open_store(f"sqlite:///{path}"):
        pass
    database = sqlite3.connect(path)
    with database:
        database.execute("INSERT INTO saga_schema VALUES (999, 'too_new', 99)")
    database.close()
    with pytest.raises(SchemaError, match="too new"):
        async with open_store(f"sqlite:///{path}"):
            pass


async def test_private_memory_database_is_gone_with_its_block() -> None:
    async with open_store("sqlite://") as store:
        assert await store.count(Query()) == 0


@pytest.mark.parametrize(
    "url", ["sqlite://host/x.db", "sqlite+pysqlite:///x.db", "sqlite:///x.db?mode=ro"]
)
async def test_wrong_url_is_our_error(url: str) -> None:
    with pytest.raises(StoreUrlError):
        async with open_store(url):
            pass


async def test_missing_folder_and_foreign_file_are_our_errors(tmp_path: Path) -> None:
    foreign = tmp_path / "letter.db"
    foreign.write_text("Dear database, " * 100)
    with pytest.raises(StoreUnavailableError, match="not a sound SQLite database"):
        async with open_store(f"sqlite:///{foreign}"):
            pass
    assert stat.S_ISREG(foreign.stat().st_mode)
    with pytest.raises(StoreUnavailableError, match="folder exists"):
        async with open_store(f"sqlite:///{tmp_path / 'nowhere' / 'sagas.db'}"):
            pass


async def test_file_that_stays_locked_is_our_error_and_then_works(tmp_path: Path) -> None:
    path = tmp_path / "sagas.db"
    async with open_store(f"sqlite:///{path}", busy_timeout=0.05) as store:
        orchestrator = SagaOrchestrator(store=store)
        orchestrator.register(NAME, definition(Story().step()))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="busy_timeout"):
            await orchestrator.start(saga_name=NAME, initial_data={"n": 1})
        other.execute("ROLLBACK")
        other.close()
        saga_id = await orchestrator.start(saga_name=NAME, initial_data={"n": 1})
        assert (await orchestrator.get_snapshot(saga_id)).status is SagaStatus.COMPLETED


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_row_that_cannot_be_read_hides_no_other(tmp_path: Path, size: int) -> None:
    """Another program may have written it, or a later version with a status of its own."""
    path = tmp_path / "sagas.db"
    async with open_store(f"sqlite:///{path}") as store:
        made = [new_saga() for _ in range(5)]
        for one in made:
            await store.create(one)
        spoiled = [made[at].saga_id for at in (1, 2, 4)]
        with sqlite3.connect(path) as database:
            for column, value, saga_id in zip(
                ("status", "tags", "token"), ("UNHEARD_OF", "[", "none"), spoiled, strict=True
            ):
                database.execute(
                    f"UPDATE saga SET {column} = ? WHERE saga_id = ?", (value, str(saga_id))
                )
        database.close()
        sound = [made[0].saga_id, made[3].saga_id]
        assert await listed(store, size) == (sound, spoiled)
        assert {one.saga_id for one in (await claim(store)).records} == set(sound)
        with pytest.raises(SchemaError, match="UNHEARD_OF"):
            await store.load(spoiled[0])
