"""An aggregate that is taken: a queued saga goes back to wait, and a child is not started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from saga_core.children import refused_child, wanted_by, without_rivals
from saga_core.decide import decide
from saga_core.errors import ActiveSagaAlreadyExistsError, SagaNotFoundError
from saga_core.happening import Decision, Happened, TurnLost
from saga_core.live import LiveSaga
from saga_core.outage import Outage
from saga_core.store import SagaStore
from saga_core.transacting import Write
from saga_core.writing import settle

__all__ = ["commit_branches", "commit_or_wait", "taken_aggregate"]


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


async def commit_branches(
    commit: Callable[[Decision], Awaitable[Any]],
    decided: Callable[[Sequence[Happened]], Decision],
    happened: Sequence[Happened],
    aggregate_of: Callable[[ActiveSagaAlreadyExistsError], Awaitable[str | None]],
) -> None:
    """Commit what has happened in branches; those that cannot start their child have failed.

    `aggregate_of` finds out which aggregate was taken.
    """
    taken: dict[str, ActiveSagaAlreadyExistsError] = {}
    while True:
        came = without_rivals(happened, taken)
        try:
            await commit(decided(came))
            return
        except ActiveSagaAlreadyExistsError as error:
            wanted = {key for each in came if (key := wanted_by(each)) is not None}
            if not wanted:
                raise
            key = await aggregate_of(error)
            # Where the holder is gone already nobody can say which it was.
            taken |= dict.fromkeys(wanted if key is None or key not in wanted else (key,), error)


async def taken_aggregate(
    store: SagaStore, live: LiveSaga, outage: Outage, taken: ActiveSagaAlreadyExistsError
) -> str | None:
    """Return the aggregate that was taken, which its holder knows; None if he is gone."""
    holder = taken.saga_id
    if holder is None:
        return None
    try:
        record = await settle(
            lambda: store.load(holder),
            what=lambda: f"reading saga {holder}",
            outage=outage,
            until=live.trusted_until,
        )
    except SagaNotFoundError:
        return None
    return record.aggregation_id
