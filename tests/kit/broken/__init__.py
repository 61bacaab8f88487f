"""Memory stores with one bug each, which the suite must find."""

from __future__ import annotations

from tests.kit.broken import catalog, inbox, keys, log, queue, waking
from tests.kit.broken.bug import Bug

__all__ = ["BUGS", "Bug"]

BUGS: tuple[Bug, ...] = (
    *log.BUGS,
    *queue.BUGS,
    *inbox.BUGS,
    *catalog.BUGS,
    *waking.BUGS,
    *keys.BUGS,
)
