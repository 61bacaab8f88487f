"""The benchmarks run, and say clearly what is wrong with a call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgresql", "redis"])
def test_comparison_prints_a_table_and_keeps_the_figures(backend: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run(
        *("compare", "--backend", backend, "--sagas", "32", "--rounds", "1", "--without-old"),
        *("--json", str(figures)),
    )
    assert done.returncode == 0, done.stderr
    assert f"{backend} floor" in done.stdout
    rows = {row["name"]: row for row in json.loads(figures.read_text())}
    assert rows["ours"]["median"] > 0
    if backend in ("postgresql", "redis"):
        assert rows["ours"]["round_trips_per_saga"] == pytest.approx(4, abs=0.1)
        assert rows[f"{backend} floor"]["round_trips_per_saga"] == pytest.approx(4, abs=0.1)


def test_retention_prints_how_long_claims_take_beside_it() -> None:
    done = run("retention", "--finished", "300", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "postgresql: 300 ended sagas deleted in" in done.stdout
    assert "claims without" in done.stdout
    assert "claims beside" in done.stdout
    assert "ratio of p99" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("compare",),
        ("compare", "--backend", "oracle"),
        ("compare", "--backend", "memory", "--rounds", "0"),
    ],
)
def test_wrong_call_is_explained(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr
