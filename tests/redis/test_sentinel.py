"""Sentinel: the primary is asked for by name, and its successor is found when it dies."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import redis as blocking

from saga_core import SagaWorker, StoreUnavailableError, open_store
from saga_testing.servers import RedisServer, redis_programs, redis_server
from saga_testing.servers.ports import free_port
from tests.behaviour.cast import Story, saga
from tests.redis.patience import IN_TIME, finished, until


def port_of(server: RedisServer) -> str:
    return server.url.rpartition(":")[2]


@contextmanager
def sentinel_of(primary: RedisServer, replica: RedisServer, folder: Path) -> Iterator[int]:
    """Run a sentinel that knows both; yields its port."""
    port = free_port()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor main 127.0.0.1 {port_of(primary)} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 3000\n"
    )
    with (folder / "sentinel.log").open("wb") as log:
        process = subprocess.Popen(
            [str(redis_programs()[0].path), str(settings), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + IN_TIME
        while not _knows(port, replica):
            assert process.poll() is None, (folder / "sentinel.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def _knows(port: int, replica: RedisServer) -> bool:
    with blocking.Redis(port=port, decode_responses=True) as client:
        try:
            replicas = client.sentinel_slaves("main")
        except blocking.RedisError:
            return False
    return any(
        str(one["port"]) == port_of(replica) and one["master-link-status"] == "ok"
        for one in replicas
    )


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    with redis_server("--repl-diskless-sync-delay", "0") as primary:
        place = ("127.0.0.1", port_of(primary))
        with redis_server("--replicaof", *place, "--repl-ping-replica-period", "1") as replica:
            with blocking.Redis.from_url(replica.url, decode_responses=True) as client:
                deadline = time.monotonic() + IN_TIME
                while client.info("replication")["master_link_status"] != "up":
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            yield primary, replica


async def test_sagas_go_on_at_the_successor_of_a_killed_primary(
    pair: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    primary, replica = pair
    with sentinel_of(primary, replica, tmp_path) as port:
        url = f"redis+sentinel://127.0.0.1:{port},127.0.0.1:1/main/0"
        async with open_store(url, connect_timeout=2, command_timeout=2) as store:
            story = Story()
            one = saga(store, story.step(), story.step(), lease=timedelta(seconds=2))
            async with SagaWorker(one.orchestrator, poll_interval=timedelta(milliseconds=50)):
                for _ in range(5):
                    await one.start(wait=False)
                await finished(store, 5)
                with blocking.Redis.from_url(primary.url) as client:
                    assert client.wait(1, 5000) == 1
                primary.kill()
                made = []

                async def is_started() -> bool:
                    with suppress(StoreUnavailableError):
                        made.append(await one.start(wait=False))
                    return bool(made)

                await until(is_started)
                await until(lambda: _finished(store, 5 + len(made)))
    with blocking.Redis.from_url(replica.url) as client:
        assert client.info("replication")["role"] == "master"


async def _finished(store: object, many: int) -> bool:
    with suppress(StoreUnavailableError):
        await finished(store, many)  # type: ignore[arg-type]
        return True
    return False


async def test_unknown_service_is_named(
    pair: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    with (
        sentinel_of(*pair, tmp_path) as port,
        pytest.raises(StoreUnavailableError, match="other"),
    ):
        async with open_store(f"redis+sentinel://127.0.0.1:{port}/other"):
            pass
