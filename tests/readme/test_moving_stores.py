"""What docs/moving-stores.md prints works as printed."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from saga_core import open_store
from saga_testing.servers import PostgresqlServer

from ..console.test_commands import saga
from ..copying.lives import live

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "moving-stores.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"<!-- (\w+) -->\n```\w+\n(.*?)```\n<!-- /\1 -->", GUIDE, re.S))
URL = "postgresql://user@host/db"


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def fill() -> None:
        async with open_store("sqlite:///orders.db") as store:
            await live(store)

    asyncio.run(fill())


def test_every_block_is_tested() -> None:
    assert set(BLOCKS) == {"commands", "program"}
    assert GUIDE.count("```") == 4


@pytest.mark.usefixtures("orders")
def test_commands_move_the_sagas(postgresql: PostgresqlServer) -> None:
    schema = f"schema_name=s{uuid4().hex[:8]}"
    said = []
    for line in BLOCKS["commands"].splitlines():
        if line.startswith("#"):
            continue
        program, *args = shlex.split(line)
        assert program == "saga"
        option = "-o" if args[0] == "db" else "--to-option"
        args = [postgresql.url if arg == URL else arg for arg in args]
        code, out, err = saga(*args, option, schema)
        assert code == 0, (line, err)
        said.append(out.strip())

    assert said[1:] == [
        "2 sagas: 2 copied and verified, 0 already there, 0 not copied",
        "6 sagas: 4 would be copied, 2 already there, 0 not copied",
        "6 sagas: 4 copied and verified, 2 already there, 0 not copied",
        "6 sagas: 0 copied and verified, 6 already there, 0 not copied",
    ]


@pytest.mark.usefixtures("orders")
def test_program_moves_the_sagas(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKS["program"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert "CopyReport(copied=6, already_there=0" in done.stdout, done.stderr
