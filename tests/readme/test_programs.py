"""Every program in the documents works as printed, and prints what stands beneath it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme.documents import PRINTS, ROOT, blocks, programs


@pytest.mark.parametrize(("document", "name"), programs())
def test_program_prints_what_stands_beneath_it(document: str, name: str, tmp_path: Path) -> None:
    found = blocks(ROOT / document)
    script = tmp_path / "program.py"
    script.write_text(found[name], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == found[name + PRINTS], done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", sorted({document for document, _ in programs()}))
def test_every_block_beside_programs_is_marked(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(blocks(ROOT / document))
