"""The ACL rules that docs/redis.md prints."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["documented_commands"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "redis.md"


def documented_commands(namespace: str, *, user: str) -> list[str]:
    """Return the lines as the document prints them, for another namespace, user and password."""
    found = re.search(r"```\n(ACL SETUSER orders .*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    words = (
        found[1]
        .replace("SETUSER orders", f"SETUSER {user}")
        .replace("{orders}", f"{{{namespace}}}")
    )
    return words.replace(">password", ">s3cret").splitlines()
