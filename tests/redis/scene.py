"""A namespace with a saga in every state, and one call of every verb on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from saga_core.records import Due, Held, LeaseAction, Query, SagaExport, SagaRecord
from saga_core.status import SagaStatus
from saga_core.store import SagaStore
from saga_testing.conformance.sagas import (
    HOUR,
    LEASE,
    ME,
    claim,
    commit_of,
    ended,
    event,
    leased,
    new_saga,
    state,
)

__all__ = ["CALLS", "Scene", "identity", "set_scene"]

ZERO = timedelta(0)


def identity(name: str) -> UUID:
    """Return the same id for a name in every scene, so that keys can be compared."""
    return uuid5(UUID(int=4), name)


@dataclass(frozen=True, slots=True)
class Scene:
    store: SagaStore
    held: SagaRecord
    """Driven by `ME`, with tags, an aggregate, an error code and a signal."""
    export: SagaExport
    """Of a saga that is not in the namespace."""


async def set_scene(store: SagaStore) -> Scene:
    """Fill an empty namespace."""
    new = leased(saga_id=identity("held"), aggregation_id="a", tags=("old", "both"))
    await store.create(new)
    await store.signal(new.saga_id, event("early"))
    first = await store.load(new.saga_id)
    changes: dict[str, Any] = {"commit_id": identity("first")}
    await store.commit(commit_of(first, state=state(error_code="Old"), **changes))
    done = leased(saga_id=identity("done"), tags=("old",))
    await store.commit(ended((await store.create(done)).record))
    await store.create(new_saga(saga_id=identity("due")))
    export = await store.export(done.saga_id)
    await store.create(new_saga(saga_id=identity("waiting"), due=Due(delay=HOUR)))
    assert await store.purge(finished_for=ZERO, limit=10) == 1
    again = leased(saga_id=identity("ended"), tags=("old",))
    await store.commit(ended((await store.create(again)).record))
    return Scene(store, await store.load(new.saga_id), export)


async def _open(scene: Scene) -> Any:
    await scene.store.check_format()  # type: ignore[attr-defined]


async def _create(scene: Scene) -> Any:
    return await scene.store.create(
        new_saga(saga_id=identity("new"), aggregation_id="b", tags=("new",))
    )


async def _load(scene: Scene) -> Any:
    return await scene.store.load(scene.held.saga_id)


async def _commit(scene: Scene) -> Any:
    return await scene.store.commit(
        commit_of(
            scene.held,
            commit_id=identity("second"),
            state=state(SagaStatus.SUSPENDED, error_code="New"),
            lease=LeaseAction.RELEASE,
            due=Due(delay=ZERO),
            seen=1,
            signals_in=(event("late"),),
            consumed=("early", "late"),
            tags=("new", "both"),
            spawn=(new_saga(saga_id=identity("child"), aggregation_id="c"),),
        )
    )


async def _finish(scene: Scene) -> Any:
    return await scene.store.commit(ended(scene.held))


async def _history(scene: Scene) -> Any:
    return await scene.store.history(scene.held.saga_id)


async def _claim(scene: Scene) -> Any:
    return await claim(scene.store, claim_id=identity("claim"))


async def _renew(scene: Scene) -> Any:
    return await scene.store.renew(ME, [Held(scene.held.saga_id, scene.held.fence)], LEASE)


async def _release(scene: Scene) -> Any:
    return await scene.store.release(ME, [Held(scene.held.saga_id, scene.held.fence)], delay=ZERO)


async def _signal(scene: Scene) -> Any:
    return await scene.store.signal(identity("waiting"), event("poke"))


async def _inbox(scene: Scene) -> Any:
    return await scene.store.inbox(scene.held.saga_id)


async def _find(scene: Scene) -> Any:
    return await scene.store.find(Query(statuses=(SagaStatus.RUNNING,), saga_name="order"))


async def _count(scene: Scene) -> Any:
    return await scene.store.count(Query(tag="old"))


async def _purge(scene: Scene) -> Any:
    return await scene.store.purge(finished_for=ZERO, limit=10)


async def _export(scene: Scene) -> Any:
    return await scene.store.export(scene.held.saga_id)


async def _restore(scene: Scene) -> Any:
    return await scene.store.restore(scene.export)


CALLS: dict[str, Callable[[Scene], Awaitable[Any]]] = {
    "open": _open,
    "create": _create,
    "load": _load,
    "commit": _commit,
    "commit that ends": _finish,
    "history": _history,
    "claim_due": _claim,
    "renew": _renew,
    "release": _release,
    "signal": _signal,
    "inbox": _inbox,
    "find": _find,
    "count": _count,
    "purge": _purge,
    "export": _export,
    "restore": _restore,
}
"""By the script that each runs."""
