"""The command line that all examples share: one optional store URL."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from saga_core import SagaError, SagaSnapshot, SagaStatus


def run(main: Callable[[str], Awaitable[None]], description: str | None) -> None:
    """Run an example's `main` with the URL from the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "url",
        nargs="?",
        default="sqlite:///examples.db",
        help="where sagas are kept, such as postgresql://user@localhost/db (default: %(default)s)",
    )
    url = parser.parse_args().url
    try:
        asyncio.run(main(url))
    except SagaError as error:
        parser.exit(2, f"{type(error).__name__}: {error}\n")


def show(snapshot: SagaSnapshot) -> None:
    """Print where a saga stands."""
    print(f"{snapshot.saga_name}: {snapshot.status}")
    for step_id, output in snapshot.outputs.items():
        print(f"  {step_id}: {output}")
    if snapshot.last_error:
        print(f"  because: {snapshot.last_error}")


def expect(snapshot: SagaSnapshot, status: SagaStatus) -> None:
    """End with an error unless the saga is where the example says it is."""
    if snapshot.status is not status:
        raise SystemExit(f"expected {status}, got {snapshot.status}: {snapshot.last_error}")
