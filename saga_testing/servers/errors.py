"""What a launcher says when there is no server to be had."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ServerError", "tail"]


class ServerError(RuntimeError):
    """A server that was asked for cannot be had. The text says why, and what to do."""


def tail(log: Path) -> str:
    """Return the last words of a server."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    except OSError as error:
        return f"(no log: {error})"
