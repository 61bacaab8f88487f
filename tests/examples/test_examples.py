"""Each example runs as printed, on SQLite, on PostgreSQL and on Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saga_testing.servers import PostgresqlServer, RedisServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
LAST_LINES = {
    "order.py": "ship: {'tracking': 'track-order-",
    "llm_deploy.py": "route: {'share': 100, 'approved_by': 'operations'}",
    "retry_recovery.py": "fetch: {'rows': 42, 'attempts': 3}",
    "compensation_flow.py": "7. flight: compensated (attempt 2)",
    "admin_skip.py": "refused: abort: the saga is COMPLETED",
    "parallel_trip.py": "7. flight: compensated",
    "publish.py": "in the stream: COMPLETED, key ...:on_completed:do:0",
    "own_rows.py": "left of 10, after 2 were shipped and 5 put back: 8",
}
WITH_OWN_ROWS = {"own_rows.py"}
"""Those that need a store which lends its transactions."""


def run(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=dict(os.environ),
    )


@pytest.fixture(autouse=True)
def broker(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the examples a Redis to publish to."""
    monkeypatch.setenv("REDIS_URL", redis.url)


def test_every_example_is_tested() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"storeurl.py"}
    assert scripts == set(LAST_LINES)


@pytest.mark.parametrize("name", LAST_LINES)
def test_example_runs_on_sqlite_by_default(name: str, tmp_path: Path) -> None:
    done = run(name, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LAST_LINES[name] in done.stdout.splitlines()[-1]
    assert (tmp_path / "examples.db").exists()


@pytest.mark.parametrize("name", LAST_LINES)
def test_example_runs_on_postgresql(
    name: str, postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    done = run(name, postgresql.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LAST_LINES[name] in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name in LAST_LINES if name not in WITH_OWN_ROWS])
def test_example_runs_on_redis(name: str, redis: RedisServer, tmp_path: Path) -> None:
    done = run(name, redis.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert LAST_LINES[name] in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", WITH_OWN_ROWS)
def test_example_with_rows_of_its_own_says_where_it_cannot_run(name: str, tmp_path: Path) -> None:
    done = run(name, "redis://127.0.0.1:1", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("StoreUrlError: redis:// keeps no rows of yours")


def test_wrong_url_is_one_line(tmp_path: Path) -> None:
    done = run("order.py", "postgresql://nobody:s3cret@127.0.0.1:1/none", folder=tmp_path)
    assert done.returncode == 2
    assert "StoreUnavailableError" in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr
