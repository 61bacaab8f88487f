"""`saga schedules`: what there is, without a definition and without a change."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from saga_core import open_store
from saga_cron import ScheduleInfo
from tests.console.test_commands import saga
from tests.schedules.cast import Clerk


async def declared(url: str) -> list[ScheduleInfo]:
    async with open_store(url, create_schema=True) as store:
        clerk = Clerk(store)
        await clerk.add("nightly", cron="30 2 * * *", timezone="Europe/Berlin")
        await clerk.add("paused")
        found = await clerk.schedules.list()
        await clerk.admin.pause(found[1].saga_id)
        return found


def test_schedules_are_listed_with_their_next_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sagas.db"
    nightly, paused = asyncio.run(declared(url))
    code, out, err = saga("schedules", url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert nightly.next_at is not None
    told = lines[1].split()
    assert told[:3] == ["nightly", "report", "30"]
    assert "Europe/Berlin" in told
    assert nightly.next_at.strftime("%H:%M:%S+00:00") in told
    assert told[-1] == str(nightly.saga_id)
    assert lines[2].split()[-2:] == ["paused", str(paused.saga_id)]


def test_store_without_schedules_says_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sagas.db"
    saga("db", "upgrade", url)
    assert saga("schedules", url)[:2] == (0, "no schedules\n")


def test_file_that_is_not_there_or_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    missing, other, empty = (tmp_path / name for name in ("typo.db", "other.db", "empty.db"))
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE notes (text)")
    empty.touch()
    before = {path: path.read_bytes() for path in (other, empty)}
    for path, said in ((missing, "there is no such file"), (other, "schema"), (empty, "schema")):
        code, out, err = saga("schedules", f"sqlite:///{path}")
        assert (code, out) == (2, "")
        assert err.startswith("error:")
        assert said in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_store_that_cannot_be_opened_is_one_clear_line() -> None:
    code, out, err = saga("schedules", "nothing://here")
    assert (code, out) == (2, "")
    assert err.startswith("error:")
    assert len(err.splitlines()) == 1
