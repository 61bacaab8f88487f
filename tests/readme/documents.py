"""The documents, and the blocks in them that stand between two markers with a name."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["DOCUMENTS", "PRINTS", "ROOT", "blocks", "programs"]

ROOT = Path(__file__).parent.parent.parent

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PRINTS = "-prints"
"""What the block `<name>-prints` holds is what the program `<name>` prints."""

_BLOCK = re.compile(r"<!-- ([\w-]+) -->\n```\w*\n(.*?)```\n<!-- /\1 -->", re.S)


def blocks(document: Path) -> dict[str, str]:
    """Return the marked blocks of a document by name."""
    found = _BLOCK.findall(document.read_text(encoding="utf-8"))
    names = [name for name, _ in found]
    assert len(names) == len(set(names)), f"{document.name} has two blocks of one name"
    return dict(found)


def programs() -> list[tuple[str, str]]:
    """Return document and name of each program that is followed by what it prints."""
    return [
        (document.relative_to(ROOT).as_posix(), name.removesuffix(PRINTS))
        for document in DOCUMENTS
        for name in blocks(document)
        if name.endswith(PRINTS)
    ]
