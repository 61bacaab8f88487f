"""`saga db` and `saga backends`: one clear line, and an exit code that a script can use."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from saga_console.app import app
from saga_testing.servers import PostgresqlServer

from ..plugins.conftest import Publish, backend

SCHEMA = """
from dataclasses import replace
from saga_core.hookspecs import SchemaStatus

_spec = saga_backend()
DONE = []

class Manager:
    async def status(self, url, options):
        DONE.append(options)
        return SchemaStatus(current=1, latest=3, pending=("0002_lanes", "0003_[inbox]"))

    async def upgrade(self, url, options):
        DONE.append(options)
        return SchemaStatus(current=3, latest=3, pending=())

@hookimpl
def saga_backend():
    return replace(_spec, schema=Manager())
"""


def saga(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(args), env={"COLUMNS": "200", "TERM": "dumb"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def shop(publish: Publish) -> None:
    publish("shop-store", {"shop": "shop_plugin"}, {"shop_plugin.py": backend("shop") + SCHEMA})


@pytest.mark.usefixtures("shop")
def test_status_lists_what_is_pending_and_says_so_with_its_exit_code() -> None:
    code, out, _ = saga("db", "status", "shop://x")

    assert code == 1
    assert out.strip() == "shop: schema version 1 of 3; pending: 0002_lanes, 0003_[inbox]"


@pytest.mark.usefixtures("shop")
def test_upgrade_hands_the_options_to_the_backend() -> None:
    code, out, _ = saga("db", "upgrade", "shop://x", "-o", "namespace=north", "-o", "port=7")

    assert code == 0
    assert out.strip() == "shop: schema version 3 of 3; up to date"
    (options,) = sys.modules["shop_plugin"].DONE
    assert (options.namespace, options.port) == ("north", 7)


@pytest.mark.parametrize("verb", ["status", "upgrade"])
@pytest.mark.parametrize("url", ["memory://", "redis://:hunter2@127.0.0.1:6379/0"])
def test_a_store_without_a_schema_has_nothing_to_migrate(verb: str, url: str) -> None:
    code, out, _ = saga("db", verb, url)

    assert code == 0
    name = url.partition(":")[0]
    assert out.strip() == f"{name}: nothing to migrate, it has no schema of its own"


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["db", "status", "orders.db"], "'sqlite:///orders.db'"),
        (["db", "status", "shpo://x"], "did you mean 'shop'"),
        (["db", "status", "shop://x", "-o", "hunter2"], "-o takes key=value"),
        (["db", "status", "shop://x", "-o", "passwort=hunter2"], "did you mean 'password'"),
        (["demo", "--url", "memory://"], "several processes"),
    ],
)
def test_an_error_of_ours_is_one_line_on_stderr_and_exit_code_2(
    args: list[str], words: str
) -> None:
    code, out, err = saga(*args)

    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert "hunter2" not in err


def test_a_schema_is_made_once_and_then_up_to_date(postgresql: PostgresqlServer) -> None:
    on = [postgresql.url, "-o", "schema_name=made_by_the_command"]

    assert saga("db", "status", *on)[0] == 1
    assert saga("db", "upgrade", *on)[0] == 0
    assert saga("db", "upgrade", *on)[0] == 0
    code, out, _ = saga("db", "status", *on)
    assert code == 0
    assert out.rstrip().endswith("up to date")


def test_backends_lists_the_broken_beside_the_whole(publish: Publish) -> None:
    publish("gone", {"gone": "gone_plugin"}, {"gone_plugin.py": "import nosuch"}, extras=("gone",))

    code, out, _ = saga("backends")

    assert code == 0
    gone, memory = (
        next(line for line in out.splitlines() if line.startswith(name))
        for name in ("gone", "memory")
    )
    assert "not usable" in gone
    assert "not usable" not in memory
    assert out.rstrip().endswith("pip install 'gone[gone]'")
