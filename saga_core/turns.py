"""A queued saga's turn: it takes its aggregate, or goes back to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from saga_core.decide import decide
from saga_core.errors import ActiveSagaAlreadyExistsError
from saga_core.happening import Happened, TurnLost
from saga_core.live import LiveSaga
from saga_core.transacting import Write

__all__ = ["commit_or_wait"]


async def commit_or_wait(
    commit: Callable[..., Awaitable[Any]],
    live: LiveSaga,
    happened: Happened,
    write: Write | None,
) -> None:
    """Commit what follows for a saga that is driven, by `write` if it is given.

    One that is queued and finds its aggregate taken is put back: whoever ends makes it due.
    """
    try:
        decision = decide(live.definition, live.state, live.outputs, happened)
        await commit(live, decision, write=write)
    except ActiveSagaAlreadyExistsError as taken:
        if not live.state.is_queued:
            raise
        lost = TurnLost(taken.saga_id)
        await commit(live, decide(live.definition, live.state, live.outputs, lost))
