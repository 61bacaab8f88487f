"""Rules for payloads: what was written comes back to the letter."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from saga_core.errors import PayloadError, SagaNotFoundError
from saga_core.records import Query
from saga_core.store import SagaStore
from saga_testing.conformance.sagas import commit_of, entry, event, leased, new_saga
from saga_testing.conformance.topic import Topic
from saga_testing.conformance.transitions import unchanged

__all__ = ["PayloadRules"]

PAYLOADS = {
    "empty list": "[]",
    "empty object": "{}",
    "null": "null",
    "order of keys": '{"b":1,"a":2,"b2":{"z":1,"y":2}}',
    "spaces": '{ "a" :  1 }',
    "large integer": "12345678901234567890123",
    "precise float": "0.1000000000000000055511151231257827",
    "unicode": '"Grüße, 世界 🚀"',
    "escapes": r'"\" \\ \/ \b \f \n \r \t \u00e9 \ud83d\ude80"',
    "percent and braces": '"100% {x} $1 :name ?"',
    "256 KiB": '"' + "x" * 262_144 + '"',
    "2 MiB": '"' + "x" * (2 * 1024 * 1024 - 2) + '"',  # the most that the engine sends
}

ODD = {"NUL": "a\x00b", "half a surrogate pair": "a\ud800b"}
"""No JSON of ours holds these, but a caller may send them."""


class PayloadRules(Topic):
    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
    async def test_payload_comes_back_to_the_letter(self, store: SagaStore, payload: str) -> None:
        new = leased(data=payload)
        record = (await store.create(new)).record
        state = replace(record.state, step_input=payload)
        done = entry(input=payload, output=payload)
        await store.signal(record.saga_id, event("one", payload))
        await store.commit(commit_of(record, seen=1, state=state, history=(done,)))
        after = await store.load(record.saga_id)
        assert after.data == payload
        assert after.state.step_input == payload
        assert [(one.input, one.output) for one in after.outputs] == [(payload, payload)]
        assert [one.payload for one in await store.inbox(record.saga_id)] == [payload]

    async def test_names_may_be_any_text(self, store: SagaStore) -> None:
        odd = "Ünï'\"; DROP TABLE saga; -- %s $1 ? {}"
        new = new_saga(aggregation_id=odd, trace_id=odd, tags=(odd,))
        record = (await store.create(new)).record
        assert (record.aggregation_id, record.trace_id, record.tags) == (odd, odd, (odd,))
        assert (await store.load(new.saga_id)).tags == (odd,)

    @pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
    async def test_text_is_kept_or_refused_as_a_payload_error(
        self, store: SagaStore, text: str
    ) -> None:
        for changes in (
            {"data": text},
            {"aggregation_id": text},
            {"tags": (text,)},
            {"saga_name": text},
            {"trace_id": text},
        ):
            new = new_saga(**changes)
            try:
                created = await store.create(new)
            except PayloadError:
                with pytest.raises(SagaNotFoundError):
                    await store.load(new.saga_id)
            else:
                kept = await store.load(new.saga_id)
                assert replace(kept, now=created.record.now) == created.record
                for name, value in changes.items():
                    assert getattr(kept, name) == value

    @pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
    async def test_text_that_a_commit_cannot_store_refuses_all_of_it(
        self, store: SagaStore, text: str
    ) -> None:
        record = (await store.create(leased())).record
        before = await store.export(record.saga_id)
        odd = entry(output=text, error=text)
        with suppress(PayloadError):
            await store.commit(commit_of(record, history=(entry(), odd), spawn=(new_saga(),)))
            (_, kept) = await store.history(record.saga_id)
            assert (kept.output, kept.error) == (text, text)
            return
        assert await unchanged(store, record.saga_id, before)
        assert await store.count(Query()) == 1

    async def test_long_error_is_kept(self, store: SagaStore) -> None:
        record = (await store.create(leased())).record
        said = "ValueError: " + "é" * 4096
        state = replace(record.state, last_error=said)
        await store.commit(commit_of(record, state=state, history=(entry(error=said),)))
        assert (await store.load(record.saga_id)).state.last_error == said
        assert [one.error for one in await store.history(record.saga_id)] == [said]
