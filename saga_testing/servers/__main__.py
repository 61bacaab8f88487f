"""List the server programs that tests can start: kind, version and path, a tab between them."""

from __future__ import annotations

import sys
from contextlib import suppress

from saga_testing.servers import ServerError, postgresql_programs, redis_programs


def main() -> int:
    """Print what is here; 1 if nothing is."""
    lines = []
    with suppress(ServerError):
        lines += [f"postgresql\t{one.version}\t{one.folder}" for one in postgresql_programs()]
    with suppress(ServerError):
        lines += [f"redis\t{one.version}\t{one.path}" for one in redis_programs()]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0 if lines else 1


if __name__ == "__main__":
    sys.exit(main())
