"""The matrix: `nox` for what a contributor runs, `nox -t matrix` for all of it.

| session                  | what it shows                                            | bare `nox` |
|--------------------------|----------------------------------------------------------|-----------|
| tests-3.x                | everything on every store, campaigns short; the table of | this 3.x  |
|                          | rules by stores                                          |           |
| rules                    | that table alone: which store keeps which rule           | no        |
| unit-3.x                 | the core, the plugins and the kit; no server             | no        |
| conformance(backend)-3.x | one store keeps the SagaStore contract                   | no        |
| servers                  | the same on each PostgreSQL, Redis and Valkey here       | no        |
| crash(backend)           | kill -9 at every store call, every saga ends             | no        |
| claims                   | 1,000 due sagas, 16 processes, no double claim           | no        |
| sagas(backend)           | 5,000 random sagas, as many queues, 1,000 families       | no        |
| kit                      | the suite finds every broken store, passes a healthy one | no        |
| third_party-3.x          | a stranger's backend, from its wheel beside ours         | no        |
| packaging-3.x            | the wheel alone in an empty environment                  | no        |
| readme                   | the README's code and the examples run as printed        | no        |
| types, lint              | mypy --strict; ruff, format, layers                      | no        |
| lower_bounds             | the oldest dependencies that we say will do              | no        |

`tests` has all that the sessions below it show, in the form that fits an everyday run; they are
for looking at one thing, for other Pythons and servers, and for the long campaigns.

Servers need no set-up: the tests start their own, from PATH or from a wheel.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
STORES = ["memory", "sqlite", "postgresql", "redis", "sql-sqlite", "sql-postgresql"]
DURABLE = ["sqlite", "postgresql", "redis"]
TWO = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]  # modules at a time
TABLE = ["-p", "saga_testing.conformance.table"]

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = [f"tests-{CURRENT}"]

# Interpreters that pyenv has built but not put on PATH.
_pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
os.environ["PATH"] = os.pathsep.join(
    [os.environ.get("PATH", ""), *(str(path) for path in sorted(_pyenv.glob("3.*/bin")))]
)


@nox.session(python=PYTHONS, tags=["matrix"])
def tests(session: nox.Session) -> None:
    """Run everything, as `.ci/run` does, and print which store keeps which rule."""
    _install(session)
    _pytest(session, *TWO, *([] if session.posargs else TABLE))


@nox.session(tags=["matrix"])
def rules(session: nox.Session) -> None:
    """Print the rules of the suite by the stores that keep them; fail if one is left out."""
    _install(session)
    _pytest(session, "tests/conformance", *TWO, *TABLE)


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """Run what needs no server and takes seconds."""
    _install(session)
    _pytest(
        session,
        "tests/unit",
        "tests/plugins",
        "tests/kit",
        "tests/rehearsal",
        "tests/test_layers.py",
    )


@nox.session(python=PYTHONS, tags=["matrix"])
@nox.parametrize("backend", STORES)
def conformance(session: nox.Session, backend: str) -> None:
    """Run the conformance suite and the backend's own tests on one store."""
    _install(session)
    _pytest(session, *_tests_of(session, backend))


@nox.session(tags=["matrix"])
def servers(session: nox.Session) -> None:
    """Hold our stores to the suite on each server program that is here."""
    _install(session)
    told = session.run("python", "-m", "saga_testing.servers", silent=True)
    variables = {"postgresql": "SAGA_TEST_POSTGRESQL_BIN", "redis": "SAGA_TEST_REDIS_BIN"}
    for line in str(told).splitlines():
        kind, version, place = line.split("\t")
        session.log(f"{version}: {place}")
        _pytest(session, *_tests_of(session, kind), **{variables[kind]: place})


@nox.session(tags=["matrix"])
@nox.parametrize("backend", DURABLE)
def crash(session: nox.Session, backend: str) -> None:
    """Kill workers at every store call and in every step; every saga must end."""
    _install(session)
    _pytest(session, "tests/crash", "-k", backend)


@nox.session(tags=["matrix"])
def claims(session: nox.Session) -> None:
    """Let 16 processes work off 1,000 due sagas, and kill some; each claim is written down."""
    _install(session)
    _pytest(session, "tests/claims", "-s", SAGA_CAMPAIGN="full")


@nox.session(tags=["matrix"])
def kit(session: nox.Session) -> None:
    """Test the suite itself: on every broken store, and 100 times on a healthy one."""
    _install(session)
    _pytest(session, "tests/kit", SAGA_CAMPAIGN="full")


@nox.session(tags=["matrix"])
@nox.parametrize("backend", STORES)
def sagas(session: nox.Session, backend: str) -> None:
    """Play 5,000 random sagas on one store, 5,000 queues and 1,000 families of sagas.

    Each tells its seed; `SAGA_SEED` repeats the plans.
    """
    _install(session)
    tests = (
        f"tests/campaign/test_campaign.py::test_every_saga_ends_as_it_should[{backend}]",
        f"tests/campaign/turns/test_turns.py::test_every_queue_is_worked_off_in_turn[{backend}]",
        f"tests/campaign/kin/test_kin.py::test_every_family_ends_as_one[{backend}]",
    )
    _pytest(session, *tests, "-rP", SAGA_CAMPAIGN="full")


@nox.session(tags=["matrix"])
def types(session: nox.Session) -> None:
    """Check the types."""
    _install(session)
    session.run("mypy", *session.posargs)


@nox.session(tags=["matrix"])
def lint(session: nox.Session) -> None:
    """Check style, format and layers."""
    _install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session(tags=["matrix"])
def readme(session: nox.Session) -> None:
    """Run the README's code, and the examples."""
    _install(session)
    _pytest(session, "tests/readme", "tests/examples", "tests/console")


@nox.session(python=PYTHONS, tags=["matrix"])
def packaging(session: nox.Session) -> None:
    """Install the wheel into empty environments."""
    _install(session)
    _pytest(session, "tests/packaging")


@nox.session(python=PYTHONS, tags=["matrix"])
def third_party(session: nox.Session) -> None:
    """Install a stranger's wheel beside ours, far from the source tree, and let it run the kit."""
    here, folder = Path.cwd(), Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    shutil.copytree(here / "tests" / "packaging" / "saga-lmdb", folder / "saga-lmdb")
    session.chdir(folder)
    for source in (here, folder / "saga-lmdb"):
        session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", "wheels", str(source))
    ours, theirs = sorted(str(wheel) for wheel in Path("wheels").glob("*.whl"))
    session.install("-q", "--force-reinstall", ours, f"{theirs}[test]", "mypy")
    session.chdir("saga-lmdb")
    session.run("mypy", "src", "tests")
    shutil.rmtree("src")
    smoke = str(here / "tests" / "packaging" / "third_party.py")
    for what in ("look", "start", "work"):
        session.run("python", smoke, what, "lmdb:///orders.lmdb")
    _pytest(session)


@nox.session(python=PYTHONS[0], tags=["matrix"])
def lower_bounds(session: nox.Session) -> None:
    """Run the tests on the oldest dependencies that pyproject.toml allows."""
    _install(session)
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for extra in ("postgresql", "redis", "sqlite", "cron", "cli"):
        wanted += extras[extra]
    session.install(*sorted({requirement.replace(">=", "==") for requirement in wanted}))
    # What is old uses what its newer neighbours have deprecated.
    _pytest(
        session,
        "tests",
        *TWO,
        "--ignore=tests/packaging",
        "--ignore=tests/test_house.py",
        "-W",
        "ignore::DeprecationWarning",
    )


def _install(session: nox.Session) -> None:
    session.install("-q", "-e", ".[dev]")


def _tests_of(session: nox.Session, backend: str) -> list[str]:
    """Return the module that holds a backend to the suite, and the folder of its own tests."""
    name = backend.replace("-", "_")
    suite, own = Path("tests", "conformance", f"test_{name}.py"), Path("tests", name)
    if not suite.exists():
        session.error(f"there is no {suite}")
    return [str(path) for path in (suite, own) if path.exists()]


def _pytest(session: nox.Session, *args: str, **env: str) -> None:
    session.run("python", "-m", "pytest", "-q", *args, *session.posargs, env=env)
