"""The `saga` command. Needs the extra `cli`; without it, says so."""

from __future__ import annotations

import sys

__all__ = ["main"]

_NEEDED = {"typer", "click", "rich"}


def main() -> None:
    """Run the command line."""
    try:
        from saga_console.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        print(
            f"saga: the module {error.name!r} is not installed; run: pip install 'saga-core[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    app()
