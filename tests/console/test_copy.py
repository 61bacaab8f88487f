"""`saga copy` moves the sagas of one URL to another, and says what it did and what it could not."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from saga_console import move
from saga_core import open_store
from saga_core.records import Query
from saga_testing.servers import PostgresqlServer

from ..copying.lives import live, moved_on
from .test_commands import saga

PASSWORD = "hunter2"


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'orders.db'}"


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'new.db'}"


def fill(url: str, *, held: bool = False, namespace: str = "default") -> list[UUID]:
    async def write() -> list[UUID]:
        async with open_store(url, namespace=namespace) as store:
            return await live(store, held=held)

    return asyncio.run(write())


def count(url: str, namespace: str = "default") -> int:
    async def look() -> int:
        async with open_store(url, create_schema=False, namespace=namespace) as store:
            return await store.count(Query())

    return asyncio.run(look())


def test_every_saga_is_copied_and_a_second_run_finds_them_there(source: str, target: str) -> None:
    fill(source)

    code, out, err = saga("copy", source, target, "--create-schema")

    assert (code, out.strip()) == (
        0,
        "6 sagas: 6 copied and verified, 0 already there, 0 not copied",
    ), err
    assert count(target) == 6
    _, out, _ = saga("copy", source, target)
    assert out.strip() == "6 sagas: 0 copied and verified, 6 already there, 0 not copied"


def test_file_grows_into_a_server_as_the_readme_says(
    source: str, postgresql: PostgresqlServer
) -> None:
    fill(source)
    into = ("--to-option", f"schema_name=s{uuid4().hex[:8]}")

    code, _, err = saga("copy", source, postgresql.url, *into)
    assert (code, "saga db upgrade" in err) == (2, True)
    code, out, err = saga("copy", source, postgresql.url, *into, "--create-schema")
    assert (code, "6 copied and verified" in out) == (0, True), err
    code, out, err = saga("copy", source, postgresql.url, *into)
    assert (code, "6 already there" in out) == (0, True), err


def test_missing_source_is_an_error_and_no_file_is_made(
    tmp_path: Path, source: str, target: str
) -> None:
    code, _, err = saga("copy", source, target, "--create-schema")

    assert (code, "no such file" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_missing_schema_of_the_target_names_the_command_that_makes_it(
    tmp_path: Path, source: str, target: str
) -> None:
    fill(source)

    code, _, err = saga("copy", source, target)

    assert (code, "saga db upgrade" in err) == (2, True)
    assert not (tmp_path / "new.db").exists()


def test_dry_run_counts_and_writes_nothing(source: str, target: str) -> None:
    fill(source)
    saga("db", "upgrade", target)

    code, out, _ = saga("copy", source, target, "--dry-run")

    assert (code, "6 would be copied" in out, count(target)) == (0, True, 0)
    code, _, err = saga("copy", source, target, "--dry-run", "--create-schema")
    assert (code, "--dry-run writes nothing" in err) == (2, True)


def test_namespaces_are_chosen_for_both_or_for_the_target(source: str, target: str) -> None:
    fill(source, namespace="north")
    saga("db", "upgrade", target)

    assert saga("copy", source, target, "--namespace", "north")[0] == 0
    into = ("--namespace", "north", "--to-namespace", "south")
    assert saga("copy", source, target, *into)[0] == 0
    assert saga("copy", source, source, *into)[0] == 0

    assert (count(target, "north"), count(target, "south"), count(target)) == (6, 6, 0)


def test_store_is_not_copied_onto_itself(source: str) -> None:
    fill(source)
    same = f"sqlite:///{os.path.relpath(source.removeprefix('sqlite:///'))}"

    for url in (source, same):
        code, _, err = saga("copy", source, url, "--to-namespace", "default")
        assert (code, "same store and namespace" in err) == (2, True)


def test_driven_sagas_are_refused_unless_allowed_or_left_out(source: str, target: str) -> None:
    fill(source, held=True)
    saga("db", "upgrade", target)

    code, _, err = saga("copy", source, target)
    assert (code, "being driven" in err, count(target)) == (2, True, 0)
    for way_out in ("Stop workers", "--ended-only", "--allow-held"):
        assert way_out in err
    assert "2 copied" in saga("copy", source, target, "--ended-only")[1]
    code, out, _ = saga("copy", source, target, "--allow-held")
    assert (code, "5 copied and verified (1 with a lease" in out) == (0, True)


def test_saga_that_changed_at_the_source_is_named_and_the_exit_code_is_1(
    source: str, target: str
) -> None:
    ids = fill(source)
    saga("copy", source, target, "--create-schema")

    async def change() -> None:
        async with open_store(source) as store:
            await moved_on(store, ids[2])

    asyncio.run(change())

    code, out, err = saga("copy", source, target)

    assert code == 1
    assert re.search(rf"not copied: {ids[2]}: .*changed at the source", err)
    assert out.strip().endswith("5 already there, 1 not copied")


def test_interrupted_run_says_that_it_can_be_repeated(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source)
    whole = move.copy_sagas

    async def interrupted(*stores: object, progress: object, **how: object) -> object:
        def stop(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        return await whole(*stores, progress=stop, **how)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(move, "copy_sagas", interrupted)
        code, _, err = saga("copy", source, target, "--create-schema")

    assert (code, "run the same command again" in err, count(target)) == (130, True, 3)
    assert "3 copied and verified, 3 already there" in saga("copy", source, target)[1]


def test_passwords_are_not_printed(source: str) -> None:
    fill(source)

    code, out, err = saga("copy", source, f"postgresql://me:{PASSWORD}@127.0.0.1:1/db")

    assert code == 2
    assert PASSWORD not in out + err
    code, out, err = saga("copy", source, source, "--to-option", PASSWORD)
    assert (code, PASSWORD in out + err) == (2, False)


@pytest.mark.parametrize("flag", ["--from-option", "--to-option"])
def test_option_that_is_no_pair_is_refused_by_its_own_name(source: str, flag: str) -> None:
    code, _, err = saga("copy", source, source, flag, "nonsense")

    assert (code, f"{flag} takes key=value" in err) == (2, True), err


def test_help_says_what_to_stop_and_what_to_do_when_it_broke_off() -> None:
    code, out, _ = saga("copy", "--help")

    assert code == 0
    for words in ("Stop starters and workers", "same command again", "--allow-held", "--dry-run"):
        assert words in " ".join(out.split())
