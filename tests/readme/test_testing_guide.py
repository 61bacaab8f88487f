"""The guide to testing sagas: its tests pass as printed, and find what they are to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.readme.documents import ROOT, blocks

GUIDE = ROOT / "docs" / "testing-your-sagas.md"
REFUNDS = "                del self.shop.charges[key]\n"
SETTINGS = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


def run(folder: Path, shop: str) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(shop, encoding="utf-8")
    (folder / "test_shop.py").write_text(blocks(GUIDE)["test_shop"], encoding="utf-8")
    return run_tests(folder)


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(SETTINGS, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-W", "error"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_tests_pass_as_printed_and_tell_what_stands_there(tmp_path: Path) -> None:
    found = blocks(GUIDE)
    done = run(tmp_path, found["shop"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["report"] in done.stdout


def test_compensation_that_is_made_forgetful_turns_them_red(tmp_path: Path) -> None:
    shop = blocks(GUIDE)["shop"]
    assert REFUNDS in shop
    done = run(tmp_path, shop.replace(REFUNDS, "                pass\n"))
    assert "FAILED test_shop.py::test_whatever_is_done_is_undone" in done.stdout
    assert "compensate of step 'charge' ran and has changed nothing" in done.stdout


def test_tests_of_a_step_in_a_transaction_pass_as_printed(tmp_path: Path) -> None:
    (tmp_path / "test_booking.py").write_text(blocks(GUIDE)["test_booking"], encoding="utf-8")
    done = run_tests(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_every_block_is_marked() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(blocks(GUIDE))
