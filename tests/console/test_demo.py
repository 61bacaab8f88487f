"""`saga demo` shows what it promises, on a terminal or in a pipe, and cleans up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saga_testing.servers import PostgresqlServer, RedisServer


def demo(*args: str, tmp_path: Path, encoding: str = "utf-8") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "saga_console", "demo", *args],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONIOENCODING": encoding, "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding=encoding,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def check(out: str) -> None:
    first, second, third = re.split(r"^\d\. ", out, flags=re.MULTILINE)[1:]
    assert "failed, will be tried again" in first
    assert "status COMPLETED" in first
    assert second.index("charge_card    undone") < second.index("reserve_stock  undone")
    assert "status COMPENSATED" in second
    killed = re.search(r"SIGKILL to process (\d+)", third)
    assert killed
    assert f"reserve_stock was committed by process {killed[1]} and did not run again" in third
    assert "with the same idempotency key" in third
    assert "status COMPLETED" in third
    assert "all as promised" in third


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_three_orders_end_as_promised(tmp_path: Path, encoding: str) -> None:
    code, out, err = demo(tmp_path=tmp_path, encoding=encoding)

    assert (code, err) == (0, ""), out + err
    check(out)
    assert list(tmp_path.iterdir()) == []


def test_three_orders_end_as_promised_on_postgresql(
    tmp_path: Path, postgresql: PostgresqlServer
) -> None:
    code, out, err = demo("--url", postgresql.url, tmp_path=tmp_path)

    assert (code, err) == (0, ""), out + err
    check(out)


def test_three_orders_end_as_promised_on_redis(tmp_path: Path, redis: RedisServer) -> None:
    code, out, err = demo("--url", redis.url, tmp_path=tmp_path)

    assert (code, err) == (0, ""), out + err
    check(out)


@pytest.mark.parametrize(
    "place", ["postgresql://me:hunter2@127.0.0.1:1/x", "redis://:hunter2@127.0.0.1:1"]
)
def test_an_unreachable_store_is_one_line_without_the_password(place: str, tmp_path: Path) -> None:
    code, out, err = demo("--url", place, tmp_path=tmp_path)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "hunter2" not in err


def test_what_is_kept_is_named(tmp_path: Path) -> None:
    code, out, err = demo("--keep", tmp_path=tmp_path)

    assert code == 0, out + err
    kept = re.search(r"kept in (\S+), namespace (demo_\w+)", out)
    assert kept
    assert Path(kept[1]).stat().st_size > 0
