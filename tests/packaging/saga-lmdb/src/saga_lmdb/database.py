"""The file, the thread that works on it, and the seam at which LMDB's errors become ours.

LMDB has one writer at a time, over all processes. So a store call that is one write transaction
is atomic, and what it reads cannot change before it writes: no compare-and-set, no retry.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

import lmdb
from pydantic import Field
from pydantic_core import PydanticSerializationError

from saga_core.errors import (
    PayloadError,
    SagaError,
    SchemaError,
    StoreUnavailableError,
    StoreUrlError,
)
from saga_core.hookspecs import StoreOptions

__all__ = ["Database", "LmdbOptions", "Transaction"]

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

FORMAT_KEY = b"\x00saga-lmdb"
FORMAT = b"1"
"""Of the keys and values in `table.py`. A file of another format is refused, not guessed at."""


class LmdbOptions(StoreOptions):
    """Options of the LMDB store."""

    map_size: int = Field(default=1 << 30, ge=1 << 16)
    """Bytes that the file may grow to: address space, not disk. The first to open the file in a
    process decides for that process; give all processes the same."""


class Environments:
    """The open files of this process. LMDB allows one environment per file and process.

    By process id, too: one that was opened before a fork must not be used after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, str], tuple[lmdb.Environment, int]] = {}

    def take(self, path: str, map_size: int, *, create: bool) -> lmdb.Environment:
        key = os.getpid(), path
        with self._lock:
            if key in self._open:
                environment, users = self._open[key]
            else:
                environment, users = _open(path, map_size, create=create), 0
            self._open[key] = environment, users + 1
            return environment

    def give_back(self, path: str) -> None:
        key = os.getpid(), path
        with self._lock:
            environment, users = self._open.pop(key)
            if users > 1:
                self._open[key] = environment, users - 1
            else:
                environment.close()


def _open(path: str, map_size: int, *, create: bool) -> lmdb.Environment:
    if not create and not os.path.exists(path):
        raise SchemaError(f"lmdb:///{path} does not exist; open_store(url, create_schema=True)")
    # sync and metasync are on by default: a commit that returned is on the disk.
    environment = lmdb.open(path, subdir=False, map_size=map_size, create=create)
    try:
        environment.reader_check()  # frees the slots of processes that died while they read
        with environment.begin() as txn:
            found = txn.get(FORMAT_KEY)
            is_empty = txn.stat()["entries"] == 0
        if is_empty and create:
            with environment.begin(write=True) as txn:
                txn.put(FORMAT_KEY, found := FORMAT)
        if found != FORMAT:
            raise SchemaError(f"lmdb:///{path} is no file of saga-lmdb 1.x; name another one")
    except BaseException:
        environment.close()
        raise
    return environment


@dataclass(slots=True)
class Database:
    """One handle on the file, with one thread: an LMDB transaction must stay in one thread."""

    where: str
    _path: str
    _environment: lmdb.Environment
    _thread: ThreadPoolExecutor

    environments: ClassVar[Environments] = Environments()

    @classmethod
    async def open(cls, url: str, options: LmdbOptions, *, create: bool) -> Database:
        """Open the file. Raises `StoreUrlError`, `SchemaError`, `StoreUnavailableError`."""
        path = _path_of(url)
        where = f"lmdb:///{path}"
        thread = ThreadPoolExecutor(1, thread_name_prefix="saga-lmdb")
        taken = thread.submit(cls.environments.take, path, options.map_size, create=create)

        def undo() -> None:
            taken.result()  # raises what it raised: then there is nothing to give back
            cls.environments.give_back(path)

        try:
            with our_errors(where):
                # The shield: what was opened for a caller who is cancelled must be closed.
                environment = await asyncio.shield(asyncio.wrap_future(taken))
        except BaseException:
            thread.submit(undo)
            thread.shutdown(wait=False)
            raise
        return cls(where, path, environment, thread)

    async def close(self) -> None:
        """Close the handle once the calls it has begun are done."""
        done = self._thread.submit(self.environments.give_back, self._path)
        self._thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(done))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run a function in the one write transaction: all of it, on the disk, or nothing."""
        return await self._run(work, write=True)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a function on one snapshot of the file; waits for no writer."""
        return await self._run(work, write=False)

    async def _run(self, work: Callable[[Transaction], T], *, write: bool) -> T:
        def transaction() -> T:
            with self._environment.begin(write=write) as txn:
                return work(txn)

        try:
            future = self._thread.submit(transaction)
        except RuntimeError as error:
            raise StoreUnavailableError(f"{self.where}: this handle is closed") from error
        # A caller who is cancelled withdraws what has not begun; what has begun runs to its end.
        with our_errors(self.where):
            return await asyncio.wrap_future(future)


@contextmanager
def our_errors(where: str) -> Iterator[None]:
    """Turn what LMDB and pydantic raise into our errors, with the cause kept."""
    try:
        yield
    except SagaError:
        raise
    except (PydanticSerializationError, UnicodeEncodeError, OverflowError) as error:
        raise PayloadError(f"{where} cannot hold a value: {error}") from error
    except lmdb.MapFullError as error:
        raise StoreUnavailableError(
            f"{where} is full and nothing was written: close it, open it with a larger map_size"
        ) from error
    except lmdb.MapResizedError as error:
        raise StoreUnavailableError(
            f"{where} has outgrown this process's map_size: open it with the one of the others"
        ) from error
    except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
        raise StoreUnavailableError(
            f"{where} is not a sound LMDB file: {error}. Restore a backup, or name another file"
        ) from error
    except (lmdb.Error, OSError, ValueError) as error:
        # No space, no permission, no folder, too many readers: LMDB's words are clear enough.
        raise StoreUnavailableError(f"{where}: {error}") from error


def _path_of(url: str) -> str:
    start, separator, path = url.partition(":///")
    if start != "lmdb" or not separator or not path or set(path) & set("?#\x00"):
        raise StoreUrlError(
            "an LMDB URL is lmdb:///relative.lmdb or lmdb:////absolute.lmdb; options go to "
            "open_store, as in open_store(url, map_size=2**32)"
        )
    return os.path.realpath(path)
