"""The Redis store: each call is one script, which the server runs whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from saga_backends.redis.address import safe
from saga_backends.redis.answers import (
    committed_of,
    entries_of,
    entry_of,
    record_of,
    saga_id_of,
    signals_of,
)
from saga_backends.redis.arguments import (
    commit_arguments,
    kind_of,
    listed,
    new_arguments,
    signal_text,
)
from saga_backends.redis.catalog import RedisCatalog
from saga_backends.redis.listening import listen
from saga_backends.redis.moments import micros, moment
from saga_backends.redis.options import RedisOptions
from saga_core.errors import SagaStateError, SchemaError, StaleVersionError
from saga_core.records import (
    Claims,
    Committed,
    Created,
    Held,
    HistoryEntry,
    NewSaga,
    Receipt,
    Registered,
    SagaRecord,
    Signal,
    StoredSignal,
    Transition,
    Wakeup,
)
from saga_core.status import Direction
from saga_core.store import CONTRACT_VERSION

__all__ = ["RedisStore"]

logger = logging.getLogger("saga_backends.redis")

ZERO = timedelta(0)
FORMAT = 1
"""Of the keys of a namespace. It rises when older code could no longer work with them."""
CLAIM_MEMORY = timedelta(minutes=1)
"""For how long a claim can be repeated, beside twice its lease: then others may take its sagas."""


class RedisStore(RedisCatalog):
    """A `SagaStore` in the keys of one hash tag. Made by `open_store("redis://...")`."""

    contract_version = CONTRACT_VERSION

    def __init__(self, client: Any, calls: Any, url: str, options: RedisOptions) -> None:
        """`client` is for subscriptions, `calls` for scripts: a cluster's client, or `Lines`."""
        super().__init__()
        self._client = client
        self._calls = calls
        self._options = options
        self._where = safe(url)
        self.namespace = options.namespace
        self._prefix = f"saga:{{{options.namespace}}}:"

    async def check_format(self) -> None:
        """Note the format of a new namespace; raise `SchemaError` for one from the future."""
        found = (await self._run("open", [FORMAT]))[1]
        if not found.isdecimal() or int(found) > FORMAT:
            raise SchemaError(
                f"namespace '{self.namespace}' of {self._where} has format {found!r}, this "
                f"library knows {FORMAT}: upgrade saga-core"
            )

    # --- the saga log ---------------------------------------------------------------------------

    async def create(self, new: NewSaga) -> Created:
        """Write a new saga; see `SagaLog.create`."""
        answer = await self._run("create", new_arguments(new, self._write_id()), new.saga_id)
        now = moment(answer[1])
        if answer[0] == "exists":
            record = record_of(new.saga_id, answer[2], now=now, outputs=entries_of(answer[3]))
            return Created(record=record, created=answer[4] == "1")
        due_at = moment(answer[2]) if answer[2] else None
        return Created(record=new.as_record(now=now, due_at=due_at), created=True)

    async def load(self, saga_id: UUID) -> SagaRecord:
        """Return the saga with its outputs; see `SagaLog.load`."""
        answer = await self._run("load", [str(saga_id)], saga_id)
        outputs = entries_of(answer[3])
        return record_of(saga_id, answer[2], now=moment(answer[1]), outputs=outputs)

    async def commit(self, transition: Transition) -> Committed:
        """Apply a transition by one script; see `SagaLog.commit`."""
        arguments = commit_arguments(transition)
        answer = await self._run("commit", arguments, transition.saga_id)
        if answer[0] == "stale":
            raise StaleVersionError(
                f"saga {transition.saga_id} is at version {answer[1]}, not at "
                f"{transition.expected_version}",
                saga_id=transition.saga_id,
            )
        if answer[0] == "known":
            raise SagaStateError(
                f"saga {transition.saga_id} has an event with the id {answer[1]!r} already",
                saga_id=transition.saga_id,
            )
        return committed_of(transition.saga_id, answer)

    async def history(
        self, saga_id: UUID, *, after: int = 0, limit: int = 100
    ) -> Sequence[HistoryEntry]:
        """Return entries in order; see `SagaLog.history`."""
        answer = await self._run("history", [str(saga_id), after, limit], saga_id)
        return [entry_of(seq, text)[0] for seq, text in enumerate(answer[1], start=after + 1)]

    # --- the work queue -------------------------------------------------------------------------

    async def claim_due(
        self,
        worker: str,
        *,
        claim_id: UUID,
        limit: int,
        lease: timedelta,
        only: Collection[Registered],
        favour: Direction,
    ) -> Claims:
        """Take due sagas by one script; see `WorkQueue.claim_due`."""
        kinds = [kind_of(one.saga_name, one.definition_version, one.fingerprint) for one in only]
        memory = (CLAIM_MEMORY + 2 * lease) // timedelta(milliseconds=1)
        answer = await self._run(
            "claim_due",
            [
                *(worker, str(claim_id), limit, micros(lease), int(favour), memory),
                *listed(list(dict.fromkeys(kinds))),
            ],
        )
        now = moment(answer[1])
        records: list[SagaRecord] = []
        for at in range(3, len(answer), 4):
            try:
                outputs, reclaimed = entries_of(answer[at + 2]), answer[at + 3] == "1"
                record = record_of(
                    saga_id_of(answer[at]),
                    answer[at + 1],
                    now=now,
                    outputs=outputs,
                    reclaimed=reclaimed,
                )
            except SchemaError as error:
                # Its lease ends by itself; the others must not wait for those who mend it.
                logger.warning("saga %s cannot be driven: %s", answer[at], error)
            else:
                records.append(record)
        taken = tuple(records)
        if len(answer) - 3 >= 4 * limit:
            return Claims(records=taken, next_due=ZERO)
        return Claims(records=taken, next_due=moment(answer[2]) - now if answer[2] else None)

    async def renew(
        self, worker: str, held: Sequence[Held], lease: timedelta
    ) -> Mapping[UUID, int]:
        """Extend the leases that are still ours; see `WorkQueue.renew`."""
        if not held:
            return {}
        answer = await self._run("renew", [worker, micros(lease), *_pairs(held)])
        return {UUID(answer[at]): int(answer[at + 1]) for at in range(1, len(answer), 2)}

    async def release(self, worker: str, held: Sequence[Held], *, delay: timedelta) -> None:
        """Give back what is still ours; see `WorkQueue.release`."""
        if held:
            await self._run("release", [worker, micros(delay), *_pairs(held)])

    async def wakeups(self) -> AsyncIterator[Wakeup]:
        """Yield a hint when something falls due for others; see `WorkQueue.wakeups`."""
        if not self._options.wakeup:
            return
        channel = f"{self._prefix}wake"
        async for wakeup in listen(self._client, self._where, self.namespace, channel):
            yield wakeup

    # --- the inbox ------------------------------------------------------------------------------

    async def signal(self, saga_id: UUID, signal: Signal) -> Receipt:
        """Append to the inbox by one script; see `Inbox.signal`."""
        arguments = [str(saga_id), signal.event_id, signal_text(signal), self._write_id()]
        what, held = await self._run("signal", arguments, saga_id)
        return Receipt(accepted=what != "ended", duplicate=what == "duplicate", held=held == "1")

    async def inbox(self, saga_id: UUID, *, after: int = 0) -> Sequence[StoredSignal]:
        """Return the signals in order; see `Inbox.inbox`."""
        answer = await self._run("inbox", [str(saga_id), after], saga_id)
        return signals_of(answer[1], answer[2], after)


def _pairs(held: Sequence[Held]) -> list[Any]:
    return [part for one in held for part in (str(one.saga_id), one.fence)]
