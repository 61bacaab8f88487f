"""One server program in a folder of its own: started, killed, stopped and started again."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from saga_testing.servers.errors import ServerError, tail
from saga_testing.servers.ports import free_port

__all__ = ["Launcher", "Server"]

STOP_SECONDS = 20


class Launcher(ABC):
    """Runs one server. Made with a folder that outlives it, where its files and its log are."""

    start_seconds = 30.0
    """How long it may take until it answers."""
    pause = 0.01
    """Seconds between looks whether it answers."""
    stop_signal = signal.SIGTERM
    """Asks it to stop in order."""
    end_signal = signal.SIGKILL
    """Ends one that does not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return program and arguments for `folder` and `port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server does its work by now."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What an error calls the server, and where its program came from."""

    def start(self) -> None:
        """Start it, the same one on the same port again. Raises `ServerError`."""
        self.port = self.port or free_port()
        self._process = self.spawn(self.command())
        self._await_answer()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop it in order, or at once if it takes too long."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(self.end_signal)
            self._process.wait(STOP_SECONDS)
        self._process = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def spawn(
        self,
        command: Sequence[str],
        *,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Run a program of the server's, with its output in the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - programs that we have found ourselves
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=environment,
                user=user,
                start_new_session=True,  # a Ctrl-C is for the tests, which then stop it in order
            )

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while time.monotonic() < deadline:
            assert self._process is not None  # noqa: S101 - start has made it
            if self._process.poll() is not None:
                break
            if self.answers():
                return
            time.sleep(self.pause)
        raise ServerError(f"{self.name} did not come up:\n{tail(self.log)}")


class Server:
    """A running server, ours or, with an environment variable set, somebody else's."""

    variable = ""
    """The environment variable that names somebody else's."""

    def __init__(self, url: str, launcher: Launcher | None = None) -> None:
        self.url = url
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

    def _ours(self) -> Launcher:
        if self._launcher is None:
            raise ServerError(f"the server at ${self.variable} was not started here")
        return self._launcher
