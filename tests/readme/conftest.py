"""A database of each dialect, as the tests of `SqlSagaStore` have it."""

from tests.sql.conftest import database, engine

__all__ = ["database", "engine"]
