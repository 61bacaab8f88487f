"""What docs/operators.md prints works as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- ([\w-]+) -->\n```\w+\n(.*?)```\n<!-- /\1 -->", GUIDE, re.S))
PROGRAMS = [name for name in BLOCKS if not name.endswith("-prints")]


def test_every_program_is_followed_by_what_it_prints() -> None:
    assert PROGRAMS
    assert GUIDE.count("```") == 4 * len(PROGRAMS)
    assert set(BLOCKS) == {*PROGRAMS, *(f"{name}-prints" for name in PROGRAMS)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_prints_what_stands_beneath_it(name: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(BLOCKS[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == BLOCKS[f"{name}-prints"], done.stderr
