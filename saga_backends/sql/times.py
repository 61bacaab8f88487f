"""Times as SQLAlchemy reads them from SQLite: naive, in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

__all__ = ["make_aware"]


def make_aware(target: object, names: Sequence[str]) -> None:
    """Give an instance's times their zone where the database has none to give."""
    values = vars(target)
    for name in names:
        value = values.get(name)
        if value is not None and value.tzinfo is None:
            values[name] = value.replace(tzinfo=UTC)
