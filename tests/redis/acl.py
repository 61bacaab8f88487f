"""The ACL rules that docs/redis.md prints."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["documented_rules"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "redis.md"


def documented_rules(namespace: str) -> list[str]:
    """Return the rules as the document prints them, for another namespace and password."""
    found = re.search(r"```\nACL SETUSER orders (.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    words = found[1].replace("\\\n", " ").replace("orders", namespace)
    return words.replace(">password", ">s3cret").split()
