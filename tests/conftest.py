"""What all tests share: one PostgreSQL server for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga_testing.servers import PostgresqlServer, postgresql_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Start a server when the first test asks for one."""
    with postgresql_server(durable=False) as server:
        yield server
