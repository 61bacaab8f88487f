"""What the kit cannot know: the file, its limits, its errors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import lmdb
import pytest
from saga_lmdb.database import Database

from saga_core import open_store
from saga_core.errors import PayloadError, SchemaError, StoreUnavailableError, StoreUrlError
from saga_core.records import NewSaga, Query, SagaState
from saga_core.status import Direction, SagaStatus
from saga_core.store import SagaStore

STUCK = SagaState(status=SagaStatus.STUCK)


def saga(data: str = "{}", name: str = "order") -> NewSaga:
    return NewSaga(
        saga_id=uuid4(),
        saga_name=name,
        definition_version="1",
        fingerprint="f",
        data=data,
        state=STUCK,
    )


async def poll(store: SagaStore) -> int:
    minute = timedelta(minutes=1)
    claims = await store.claim_due(
        "me", claim_id=uuid4(), limit=1, lease=minute, only=(), favour=Direction.FORWARD
    )
    return len(claims.records)


async def test_full_file_refuses_the_write_and_keeps_what_it_has(tmp_path: Path) -> None:
    url = f"lmdb:///{tmp_path}/sagas.lmdb"
    async with open_store(url, map_size=1 << 16) as store:
        first = saga()
        await store.create(first)
        too_much = saga(data="x" * (1 << 17))
        with pytest.raises(StoreUnavailableError, match="map_size"):
            await store.create(too_much)
        assert [one.saga_id for one in (await store.find(Query())).records] == [first.saga_id]
    async with open_store(url, map_size=1 << 20) as store:
        assert (await store.create(too_much)).created


async def test_file_that_another_process_made_larger_is_announced(tmp_path: Path) -> None:
    url = f"lmdb:///{tmp_path}/sagas.lmdb"
    async with open_store(url, map_size=1 << 16) as store:
        grow = (
            "import asyncio, sys; sys.path[:0] = sys.argv[2:]\n"
            "from saga_core import open_store; from test_lmdb import saga\n"
            "async def main():\n"
            "    async with open_store(sys.argv[1], map_size=1 << 24) as store:\n"
            "        await store.create(saga(data='x' * (1 << 20)))\n"
            "asyncio.run(main())"
        )
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", grow, url, str(Path(__file__).parent)],
            check=True,
        )
        with pytest.raises(StoreUnavailableError, match="outgrown"):
            await store.count(Query())
    async with open_store(url) as store:
        assert await store.count(Query()) == 1


async def test_value_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    async with open_store(f"lmdb:///{tmp_path}/sagas.lmdb") as store:
        for wrong in (saga(data="\ud800"), saga(name="\ud800")):
            with pytest.raises(PayloadError):
                await store.create(wrong)
        assert await store.count(Query()) == 0


async def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database" * 1000)
    with (
        lmdb.open(str(tmp_path / "theirs"), subdir=False) as theirs,
        theirs.begin(write=True) as txn,
    ):
        txn.put(b"key", b"value")
    with pytest.raises(StoreUnavailableError, match="not a sound LMDB file"):
        async with open_store(f"lmdb:///{tmp_path}/text"):
            pass
    with pytest.raises(SchemaError, match="no file of saga-lmdb"):
        async with open_store(f"lmdb:///{tmp_path}/theirs"):
            pass
    with pytest.raises(StoreUnavailableError, match="No such file"):
        async with open_store(f"lmdb:///{tmp_path}/no/folder"):
            pass
    with pytest.raises(SchemaError, match="create_schema=True"):
        async with open_store(f"lmdb:///{tmp_path}/new", create_schema=False):
            pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("url", ["lmdb://", "lmdb:///", "lmdb://host/file", "lmdb:///a?map_size=1"])
async def test_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(StoreUrlError, match="lmdb:///relative"):
        async with open_store(url):
            pass


async def test_poll_that_finds_nothing_waits_for_no_writer(tmp_path: Path) -> None:
    url = f"lmdb:///{tmp_path}/sagas.lmdb"
    writing, done = threading.Event(), threading.Event()

    def write(_: object) -> None:
        writing.set()
        done.wait(10)

    async with open_store(url) as one, open_store(url) as two:
        writer = asyncio.ensure_future(one._database.write(write))  # type: ignore[attr-defined]
        try:
            await asyncio.to_thread(writing.wait, 10)
            async with asyncio.timeout(5):
                assert await poll(two) == 0
            assert not writer.done()
        finally:
            done.set()
            await writer


async def test_cancelled_opening_leaves_nothing_open(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_store(f"lmdb:///{tmp_path}/sagas.lmdb") as store:
            await poll(store)

    for steps in range(12):
        task = asyncio.ensure_future(use())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await use()  # what the cancelled left to their threads is done before this ends
    assert not Database.environments._open


def test_what_was_opened_before_a_fork_is_not_used_after_it(tmp_path: Path) -> None:
    code = (
        "import lmdb, os, sys; from saga_lmdb.database import Database\n"
        "def take(): return Database.environments.take(sys.argv[1], 1 << 20, create=True)\n"
        "parents = take()\n"
        "if child := os.fork():\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "try:\n"
        "    os._exit(take() is parents)\n"
        "except lmdb.Error:  # a newer LMDB refuses what an older one lets pass\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "sagas.lmdb")], check=True)
