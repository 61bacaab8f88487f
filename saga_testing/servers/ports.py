"""Loopback ports."""

from __future__ import annotations

import socket

__all__ = ["free_port", "listens"]


def free_port() -> int:
    """Return a port that nobody uses, and that nobody else is given for a minute.

    A connection to it is closed from its side: so it stays in TIME_WAIT, and the system gives it
    neither to another who asks for any port nor to a client. A server may bind it by its number.
    """
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        place: tuple[str, int] = server.getsockname()
        with socket.create_connection(place), server.accept()[0]:
            return place[1]


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections there."""
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex(("127.0.0.1", port)) == 0
