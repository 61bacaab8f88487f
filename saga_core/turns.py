"""An aggregate that is taken: a queued saga goes back to wait, and a child is not started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from saga_core.children import refused_child
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

    One that is queued and finds its aggregate taken is put back: whoever ends makes it due. One
    that starts a child whose aggregate is taken has failed in that step.
    """
    decision = decide(live.definition, live.state, live.outputs, happened)
    try:
        await commit(live, decision, write=write)
    except ActiveSagaAlreadyExistsError as taken:
        if live.state.is_queued:
            instead: Happened = TurnLost(taken.saga_id)
        elif decision.spawn:
            instead = refused_child(taken)
        else:
            raise
        await commit(live, decide(live.definition, live.state, live.outputs, instead))
