"""What all tests share: one server of each kind for the whole run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from saga_testing.servers import PostgresqlServer, RedisServer, postgresql_server, redis_server

# What the processes that tests start are made of is imported once, by the one that they fork from.
multiprocessing.set_forkserver_preload(
    [
        "tests.claims.workforce",
        "tests.conformance.test_postgresql",
        "tests.conformance.test_redis",
        "tests.conformance.test_sql_postgresql",
        "tests.conformance.test_sql_sqlite",
        "tests.conformance.test_sqlite",
        "tests.crash.victim",
        "tests.crash.workshop",
        "tests.transactions.victim",
    ]
)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Start a server when the first test asks for one."""
    with postgresql_server(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """Start a server when the first test asks for one."""
    with redis_server() as server:
        yield server
