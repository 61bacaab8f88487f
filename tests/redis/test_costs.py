"""What a call costs does not grow with what it does not concern: commands are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from uuid import uuid4

from saga_backends.redis.catalog import PURGE
from saga_core import SagaStatus, SagaStore
from saga_core.records import Due, NewSaga, Query
from saga_testing.conformance.sagas import HOUR, claim, new_saga, state
from tests.redis.keys import Keys

MANY = 3000
ZERO = timedelta(0)
DONE = {"state": state(SagaStatus.COMPLETED), "due": None}


async def create(store: SagaStore, sagas: Iterable[NewSaga]) -> None:
    await asyncio.gather(*(store.create(new) for new in sagas))


class Commands:
    """Counts what the server does, scripts and what they call."""

    def __init__(self, keys: Keys) -> None:
        self._client = keys.client

    async def reset(self) -> None:
        await self._client.config_resetstat()

    async def counted(self) -> dict[str, int]:
        found = await self._client.info("commandstats")
        return {name.removeprefix("cmdstat_"): one["calls"] for name, one in found.items()}


async def test_claim_does_not_look_at_sagas_of_other_kinds(store: SagaStore, keys: Keys) -> None:
    commands, costs = Commands(keys), []
    await claim(store)  # the server knows the script from now on
    for foreign in (0, MANY):
        await create(store, (new_saga(fingerprint=f"f{n % 50}") for n in range(foreign)))
        await store.create(new_saga())
        await commands.reset()
        assert len((await claim(store, limit=10)).records) == 1
        costs.append(sum((await commands.counted()).values()))
    assert costs[0] == costs[1]


async def test_what_a_claim_took_is_forgotten_some_time_after_its_lease(
    store: SagaStore, keys: Keys
) -> None:
    await store.create(new_saga())
    claim_id = uuid4()
    await claim(store, claim_id=claim_id, lease=HOUR)
    left = timedelta(milliseconds=await keys.client.pttl(f"{keys.prefix}claim:{claim_id}"))
    assert HOUR < left < 3 * HOUR


async def test_claim_does_not_look_at_what_is_not_due(store: SagaStore, keys: Keys) -> None:
    commands, costs = Commands(keys), []
    await claim(store)  # the server knows the script from now on
    for waiting in (0, MANY):
        await create(store, (new_saga(due=Due(delay=HOUR)) for _ in range(waiting)))
        await store.create(new_saga())
        await commands.reset()
        assert len((await claim(store, limit=10)).records) == 1
        costs.append(sum((await commands.counted()).values()))
    assert costs[0] == costs[1]


async def test_entries_whose_saga_is_gone_are_cleared_away_a_bounded_number_per_claim(
    store: SagaStore, keys: Keys
) -> None:
    ghosts = [new_saga() for _ in range(2500)]
    await create(store, ghosts)
    await keys.client.delete(*(f"{keys.prefix}saga:{ghost.saga_id}" for ghost in ghosts))
    sound = new_saga()
    await store.create(sound)
    commands = Commands(keys)
    calls, found = 0, []
    while not found:
        calls += 1
        await commands.reset()
        claims = await claim(store, limit=5)
        found = [record.saga_id for record in claims.records]
        assert sum((await commands.counted()).values()) < 12 * 1100
        # Where it stopped early there is more to be had at once.
        assert found or claims.next_due == ZERO
    assert (calls, found) == (3, [sound.saga_id])
    assert await keys.client.zcard(f"{keys.prefix}due") == 1


async def test_spoiled_sagas_are_stepped_over_once(store: SagaStore, keys: Keys) -> None:
    spoiled = [new_saga() for _ in range(1000)]
    await create(store, spoiled)
    await store.create(new_saga())
    names = [f"{keys.prefix}saga:{one.saga_id}" for one in spoiled]
    await keys.client.delete(*names)
    await keys.client.mset(dict.fromkeys(names, "somebody else's"))
    commands = Commands(keys)
    await commands.reset()
    assert len((await claim(store, limit=1)).records) == 1
    counted = await commands.counted()
    assert counted["zrangebyscore"] < 15  # pages grow
    assert counted["type"] < 1100


async def test_page_walks_along_the_smallest_index(store: SagaStore, keys: Keys) -> None:
    await create(store, (new_saga(tags=("common",)) for _ in range(MANY)))
    await create(store, (new_saga(tags=("common", "rare")) for _ in range(3)))
    commands = Commands(keys)
    await commands.reset()
    query = Query(tag="rare", saga_name="order", statuses=(SagaStatus.RUNNING,))
    assert len((await store.find(query)).records) == 3
    counted = await commands.counted()
    assert sum(counted.values()) < 60
    assert counted["evalsha"] == 1
    await commands.reset()
    assert await store.count(Query(tag="common")) == MANY + 3
    assert sum((await commands.counted()).values()) < 10


async def test_no_script_of_a_long_listing_looks_at_more_than_its_share(
    store: SagaStore, keys: Keys
) -> None:
    # No one index is small, and nothing matches: the whole is walked, in pieces.
    await create(store, (new_saga(tags=("a",)) for _ in range(1500)))
    await create(store, (new_saga(tags=("b",), saga_name="other") for _ in range(1500)))
    commands = Commands(keys)
    await commands.reset()
    assert (await store.find(Query(tag="a", saga_name="other"))).records == ()
    counted = await commands.counted()
    assert counted["evalsha"] == 3
    assert sum(counted.values()) / counted["evalsha"] < 3 * 500


async def test_purge_deletes_in_pieces(store: SagaStore, keys: Keys) -> None:
    await create(store, (new_saga(tags=("t",), **DONE) for _ in range(1000)))
    commands = Commands(keys)
    await commands.reset()
    assert await store.purge(finished_for=ZERO, limit=900) == 900
    counted = await commands.counted()
    assert counted["evalsha"] == 900 / PURGE
    assert counted["unlink"] == 900
    assert await store.purge(finished_for=ZERO, limit=900) == 100
    # What is left of a namespace is its format.
    assert set(await keys.content()) == {"meta"}
