"""Each store that lends its transactions, with the user's own rows beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from saga_core import SagaStore
from saga_testing.conformance import Business, StoreHarness
from saga_testing.servers import PostgresqlServer
from tests.conformance.test_postgresql import PostgresqlHarness
from tests.conformance.test_sql_postgresql import SqlPostgresqlHarness
from tests.conformance.test_sql_sqlite import SqlSqliteHarness

LENDERS = ("postgresql", "sql-postgresql", "sql-sqlite")


@pytest.fixture(params=LENDERS)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> StoreHarness:
    if request.param == "sql-sqlite":
        return SqlSqliteHarness(tmp_path / "sagas.db")
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    if request.param == "sql-postgresql":
        return SqlPostgresqlHarness(server.url)
    return PostgresqlHarness(server.url)


@pytest_asyncio.fixture
async def store(harness: StoreHarness) -> AsyncIterator[SagaStore]:
    async with harness.open() as store:
        yield store


@pytest_asyncio.fixture
async def business(harness: StoreHarness) -> AsyncIterator[Business]:
    async with harness.business() as business:
        yield business
