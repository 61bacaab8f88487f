"""A key of ours that holds somebody else's value: told, nothing changed, mended, gone on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from saga_backends.redis.scripts import SCRIPTS
from saga_core import CopyConflictError, Query, SagaStore, SchemaError, copy_sagas, open_store
from saga_core.records import Due, Held
from saga_testing import MemoryStore
from saga_testing.conformance.sagas import LEASE, ME, claim, commit_of, leased, listed, new_saga
from saga_testing.servers import RedisServer
from tests.redis.keys import Keys
from tests.redis.scene import CALLS, identity, set_scene

PASSED_OVER = {
    "claim_due": {"saga", "history", "commits", "inbox", "events"},
    "renew": {"saga"},
    "release": {"saga"},
    "purge": {"history", "commits", "inbox", "events"},
}
"""Kinds of keys that hide nothing else: a saga that is spoiled is no saga; what is deleted may be
anything."""


def test_every_script_is_called_in_the_scene() -> None:
    assert {name.partition(" ")[0] for name in CALLS} == set(SCRIPTS)


@pytest.mark.parametrize("verb", CALLS)
async def test_wrong_type_at_a_key_is_refused_before_anything_is_written(
    redis: RedisServer, keys: Keys, namespace: str, verb: str
) -> None:
    looked_at: set[str] = set()
    number = 0
    while True:
        number += 1
        async with open_store(redis.url, namespace=f"{namespace}_{number}") as store:
            scene = await set_scene(store)
            own = Keys(keys.client, store.namespace)
            if number == 1:
                # A rehearsal: which keys there are, and which of them the verb writes.
                before = await own.content()
                await CALLS[verb](scene)
                after = await own.content()
                left = sorted(before | after)
                written = {name for name in left if before.get(name) != after.get(name)}
                continue
            while left:
                name = left.pop()
                kept = await own.spoil(name)
                content = await own.content()
                try:
                    await CALLS[verb](scene)
                except SchemaError as error:
                    words = str(error)
                    assert f"'{own.prefix}{name}' holds a string" in words
                    assert await own.content() == content, name
                    looked_at.add(name)
                    await own.mend(name, kept)
                else:
                    break  # on with a new scene: this one has changed
            else:
                await CALLS[verb](scene)  # all is mended: it goes on
                break
    passed = {name for name in written if name.partition(":")[0] in PASSED_OVER.get(verb, ())}
    assert written - passed <= looked_at


async def test_spoiled_saga_hides_no_other_from_a_claim(store: SagaStore, keys: Keys) -> None:
    spoiled, sound = new_saga(saga_id=identity("spoiled")), new_saga()
    for new in (spoiled, sound):
        await store.create(new)
    kept = await keys.spoil(f"saga:{spoiled.saga_id}")
    content = await keys.content()
    (record,) = (await claim(store, limit=1)).records
    assert record.saga_id == sound.saga_id
    name = f"saga:{spoiled.saga_id}"
    assert (await keys.content())[name] == content[name]
    held = [Held(spoiled.saga_id, 0), Held(record.saga_id, record.fence)]
    assert set(await store.renew(ME, held, LEASE)) == {sound.saga_id}
    await keys.mend(f"saga:{spoiled.saga_id}", kept)
    (record,) = (await claim(store, limit=1)).records
    assert record.saga_id == spoiled.saga_id


async def test_hash_that_is_not_ours_is_no_saga(store: SagaStore, keys: Keys) -> None:
    new, sound = new_saga(), new_saga()
    for one in (new, sound):
        await store.create(one)
    key = f"{keys.prefix}saga:{new.saga_id}"
    await keys.client.delete(key)
    await keys.client.hset(key, mapping={"name": "x", "version": "one", "state": "{"})
    assert [one.saga_id for one in (await claim(store)).records] == [sound.saga_id]
    with pytest.raises(SchemaError, match=str(new.saga_id)):
        await store.load(new.saga_id)
    await keys.client.hset(key, "name", b"\xff\xfe")
    with pytest.raises(SchemaError, match=str(new.saga_id)):
        await store.load(new.saga_id)


async def test_entry_that_is_not_ours_is_told(store: SagaStore, keys: Keys) -> None:
    new = new_saga()
    await store.create(new)
    await keys.client.rpush(f"{keys.prefix}history:{new.saga_id}", "somebody else's")
    with pytest.raises(SchemaError, match="entry 1"):
        await store.history(new.saga_id)


@pytest.mark.parametrize("text", ["somebody else's", "1 {}", '1 ["a","no kind",null]'])
async def test_signal_that_is_not_ours_is_told(store: SagaStore, keys: Keys, text: str) -> None:
    new = new_saga()
    await store.create(new)
    await keys.client.rpush(f"{keys.prefix}inbox:{new.saga_id}", text)
    with pytest.raises(SchemaError, match="signal 1"):
        await store.inbox(new.saga_id)
    with pytest.raises(SchemaError, match="signal 1"):
        await store.export(new.saga_id)


@pytest.mark.parametrize("spoiled", ["row", "history"])
async def test_row_that_cannot_be_read_hides_no_other_from_a_claim(
    store: SagaStore, keys: Keys, caplog: pytest.LogCaptureFixture, spoiled: str
) -> None:
    new, sound = new_saga(), new_saga()
    for one in (new, sound):
        await store.create(one)
    if spoiled == "row":
        await keys.client.hset(f"{keys.prefix}saga:{new.saga_id}", "state", "{")
    else:
        await keys.client.rpush(f"{keys.prefix}history:{new.saga_id}", "1 1 - omitted")
    assert [one.saga_id for one in (await claim(store)).records] == [sound.saga_id]
    assert f"saga {new.saga_id} cannot be driven" in caplog.text


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_row_that_cannot_be_read_hides_no_other_from_a_list(
    store: SagaStore, keys: Keys, size: int
) -> None:
    made = [new_saga() for _ in range(6)]
    for one in made:
        await store.create(one)
    spoiled = {made[at].saga_id for at in (0, 2, 3, 5)}
    for saga_id in spoiled:
        await keys.client.hset(f"{keys.prefix}saga:{saga_id}", "state", "{")
    sound, told = await listed(store, size)
    assert sound == [made[1].saga_id, made[4].saga_id]
    assert (len(told), set(told)) == (4, spoiled)


async def test_copy_names_what_cannot_be_read_and_moves_all_else(
    store: SagaStore, keys: Keys
) -> None:
    row, entry, sound = new_saga(), new_saga(), new_saga()
    for one in (row, entry, sound):
        await store.create(one)
    await keys.client.hset(f"{keys.prefix}saga:{row.saga_id}", "state", "{")
    await keys.client.rpush(f"{keys.prefix}history:{entry.saga_id}", "somebody else's")
    target = MemoryStore()
    with pytest.raises(CopyConflictError, match="cannot be read at the source") as refused:
        await copy_sagas(store, target)
    report = refused.value.report
    assert (report.copied, report.conflicts) == (1, 2)
    assert {saga_id for saga_id, _ in report.reasons} == {row.saga_id, entry.saga_id}
    assert (await target.load(sound.saga_id)).saga_id == sound.saga_id


async def test_holder_of_an_aggregate_that_is_no_saga_is_told(store: SagaStore, keys: Keys) -> None:
    await keys.client.hset(f"{keys.prefix}aggregates", "a", "somebody else")
    with pytest.raises(SchemaError, match="'somebody else' stands where the id of a saga belongs"):
        await store.create(new_saga(aggregation_id="a"))


async def test_commit_that_is_not_ours_is_told(store: SagaStore, keys: Keys) -> None:
    new = leased()
    record = (await store.create(new)).record
    change = commit_of(record)
    await keys.client.hset(f"{keys.prefix}commits:{new.saga_id}", str(change.commit_id), "what")
    with pytest.raises(SchemaError, match=f"made of saga {new.saga_id}"):
        await store.commit(change)


async def test_id_in_an_index_that_is_none_hides_no_saga(store: SagaStore, keys: Keys) -> None:
    new = new_saga()
    await store.create(new)
    row = await keys.client.hgetall(f"{keys.prefix}saga:{new.saga_id}")
    await keys.client.hset(f"{keys.prefix}saga:nobody", mapping=row)
    for index in ("due", f"due:{row['lane']}:{row['kind']}", "by:created"):
        score = await keys.client.zscore(f"{keys.prefix}{index}", str(new.saga_id))
        await keys.client.zadd(f"{keys.prefix}{index}", {"nobody": score})
    page = await store.find(Query())
    assert ([one.saga_id for one in page.records], page.unreadable) == ([new.saga_id], ())
    assert [one.saga_id for one in (await claim(store)).records] == [new.saga_id]


@pytest.mark.parametrize(
    "due", [Due(at=datetime(9999, 1, 1, tzinfo=UTC)), Due(delay=timedelta.max)]
)
async def test_saga_that_is_due_in_the_far_future_stops_no_claim(
    store: SagaStore, due: Due
) -> None:
    await store.create(new_saga(due=due))
    found = await claim(store)
    assert not found.records
    assert found.next_due is not None
    assert found.next_due > timedelta(days=36500)


@pytest.mark.parametrize("found", ["2", "999", "soon"])
async def test_format_of_the_future_is_refused(
    redis: RedisServer, store: SagaStore, keys: Keys, found: str
) -> None:
    await keys.client.hset(f"{keys.prefix}meta", "format", found)
    with pytest.raises(SchemaError, match=f"'{found}'.*upgrade saga-core"):
        async with open_store(redis.url, namespace=store.namespace):
            pass
