"""Connections, and the one seam at which asyncpg's exceptions become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from saga_backends.postgresql.options import PostgresqlOptions
from saga_core.errors import (
    PayloadError,
    SagaError,
    SagaStateError,
    SchemaError,
    StoreUnavailableError,
    StoreUrlError,
)

__all__ = ["PlainConnection", "connect", "connect_arguments", "our_errors", "open_pool", "safe"]

SCHEMES = ("postgresql", "postgres")

REMEDY = "Run `saga db upgrade URL`, or open_store(url, create_schema=True)."

_SCHEMA_ERRORS = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedFunctionError,
)
_VALUE_ERRORS = (
    asyncpg.CharacterNotInRepertoireError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.DataError,
)
_REFUSALS = (
    asyncpg.CheckViolationError,
    asyncpg.NotNullViolationError,
    asyncpg.ForeignKeyViolationError,
)
_LOGIN_ERRORS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


class PlainConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection without the reset query, which would double the round trips.

    So nothing may leave session state behind on it: no SET, no LISTEN, no advisory lock. Only
    strangers may, to whom it is lent: then it is reset, once, when it goes back.
    """

    is_lent = False

    def lend(self) -> None:
        """Say that a stranger works with it until it is released."""
        self.is_lent = True

    def get_reset_query(self) -> str:
        if not self.is_lent:
            return ""
        self.is_lent = False
        query: str = super().get_reset_query()
        return query


def safe(url: str) -> str:
    """Return the URL without a password and without its query."""
    parts = urlsplit(url)
    place = parts.hostname or ""
    if parts.port:
        place = f"{place}:{parts.port}"
    if parts.username:
        place = f"{parts.username}@{place}"
    return urlunsplit(("postgresql", place, parts.path, "", ""))


def connect_arguments(url: str, options: PostgresqlOptions) -> dict[str, Any]:
    """Return what asyncpg needs to connect. Raises `StoreUrlError`."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        raise StoreUrlError(
            "a PostgreSQL URL looks like postgresql://user:password@host:5432/database"
        )
    driver = scheme.partition("+")[2]
    if driver not in ("", "asyncpg"):
        raise StoreUrlError(f"postgresql+{driver}: the only driver is asyncpg")
    try:
        _ = urlsplit(f"postgresql://{rest}").port
    except ValueError:
        raise StoreUrlError("the port in the PostgreSQL URL is not a number") from None
    return {
        "dsn": f"postgresql://{rest}",
        "timeout": options.connect_timeout,
        "command_timeout": options.command_timeout,
        "statement_cache_size": options.statement_cache_size,
        "server_settings": {
            "application_name": f"saga-{options.namespace}",
            "lock_timeout": str(int(options.lock_timeout * 1000)),
            "statement_timeout": str(int(options.command_timeout * 1000)),
            "idle_in_transaction_session_timeout": "60000",
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
            "default_transaction_isolation": "read committed",
        },
    }


@contextmanager
def our_errors(where: str, schema: str = "", remedy: str = REMEDY) -> Iterator[None]:
    """Turn what asyncpg raises into our errors. `where` names the server, without a password."""
    try:
        yield
    except SagaError:
        raise
    except _SCHEMA_ERRORS as error:
        raise SchemaError(
            f"{where}: the tables of schema '{schema}' are missing or not the right ones "
            f"({error}). {remedy}"
        ) from error
    except _VALUE_ERRORS as error:
        raise PayloadError(f"{where} cannot hold a value: {error}") from error
    except _REFUSALS as error:
        raise SagaStateError(f"{where} refused the write: {error}") from error
    except _LOGIN_ERRORS as error:
        raise StoreUnavailableError(f"{where} refused the connection: {error}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise StoreUnavailableError(f"{where}: {type(error).__name__}: {error}") from error
    except TimeoutError as error:
        raise StoreUnavailableError(f"{where} did not answer in time") from error
    except (OSError, EOFError) as error:
        raise StoreUnavailableError(f"{where} cannot be reached: {error}") from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        raise StoreUrlError(f"{where}: {error}") from error


async def connect(url: str, options: PostgresqlOptions) -> asyncpg.Connection:
    """Open one connection of its own."""
    arguments = connect_arguments(url, options)
    with our_errors(safe(url), options.schema_name):
        return await asyncpg.connect(**arguments)


async def open_pool(url: str, options: PostgresqlOptions) -> asyncpg.Pool:
    """Open the pool, with its first connection tried."""
    arguments = connect_arguments(url, options)
    with our_errors(safe(url), options.schema_name):
        return await asyncpg.create_pool(
            connection_class=PlainConnection,
            min_size=min(options.pool_min_size, options.pool_max_size),
            max_size=options.pool_max_size,
            # Connections stay checked out; the pool watches over the time of each statement.
            max_inactive_connection_lifetime=0,
            **{**arguments, "command_timeout": None},
        )
