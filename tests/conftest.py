"""What all tests share: one server of each kind for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga_testing.servers import PostgresqlServer, RedisServer, postgresql_server, redis_server


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
