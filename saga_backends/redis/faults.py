"""The one seam at which redis-py's exceptions become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions

from saga_core.errors import PayloadError, SagaError, SchemaError, StoreUnavailableError

__all__ = ["our_errors"]

_LOGIN_ERRORS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
)

_DENIALS = ("ACL failure in script", "The user executing the script can't", "NOPERM")
"""How Valkey and Redis say that a script may not do something."""


@contextmanager
def our_errors(where: str) -> Iterator[None]:
    """Turn what redis-py raises into our errors. `where` names the server, without a password."""
    try:
        yield
    except SagaError:
        raise
    except exceptions.NoPermissionError as error:
        raise _denied(where, error) from error
    except _LOGIN_ERRORS as error:
        raise StoreUnavailableError(f"{where} refused the login: {error}") from error
    except exceptions.ReadOnlyError as error:
        raise StoreUnavailableError(
            f"{where} is a read-only replica; name the primary, or use redis+sentinel://"
        ) from error
    except exceptions.OutOfMemoryError as error:
        raise StoreUnavailableError(
            f"{where} is out of memory: raise maxmemory, or purge ended sagas ({error})"
        ) from error
    except exceptions.InvalidResponse as error:
        raise StoreUnavailableError(f"{where} does not speak Redis's protocol: {error}") from error
    except (exceptions.TimeoutError, TimeoutError) as error:
        raise StoreUnavailableError(f"{where} did not answer in time") from error
    except (exceptions.ConnectionError, OSError, EOFError) as error:
        raise StoreUnavailableError(f"{where} cannot be reached: {error}") from error
    except exceptions.ResponseError as error:
        raise _refused(where, error) from error
    except (exceptions.DataError, UnicodeEncodeError) as error:
        raise PayloadError(f"{where} cannot hold a value: {error}") from error
    except (exceptions.RedisError, exceptions.RedisClusterException) as error:
        raise StoreUnavailableError(f"{where}: {type(error).__name__}: {error}") from error


def _denied(where: str, error: exceptions.ResponseError) -> SagaError:
    return StoreUnavailableError(
        f"{where} denies the user something that the store needs ({error}); "
        "docs/redis.md lists the rules of a sufficient ACL user"
    )


def _refused(where: str, error: exceptions.ResponseError) -> SagaError:
    text = str(error)
    if any(words in text for words in _DENIALS):
        return _denied(where, error)
    if "WRONGTYPE" in text:
        return SchemaError(f"{where}: a key of this namespace holds something else ({text})")
    if "unknown command" in text.lower() or "Unexpected engine" in text:
        return SchemaError(f"{where} lacks something that Redis has from 7.0 on ({text})")
    # Among these: a script that an administrator killed, a server that is busy or loading.
    return StoreUnavailableError(f"{where} refused the call: {text}")
