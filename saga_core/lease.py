"""Keep the leases of the sagas that are being driven here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from saga_core.call import Interrupt
from saga_core.errors import SagaError
from saga_core.outage import Outage
from saga_core.records import Held, SagaRecord

if TYPE_CHECKING:
    from saga_core.live import LiveSaga
    from saga_core.store import SagaStore

__all__ = ["TRUSTED", "LeaseKeeper", "LeaseLostError", "TakenOverError", "lease_used"]

logger = logging.getLogger("saga_core")


TRUSTED = 0.8
"""The share of a lease after which a holder that has heard nothing gives up by itself."""


class LeaseLostError(SagaError):
    """Somebody else drives the saga now: nothing more is committed for it here."""

    recorded = False
    """Whether what was to be committed is on record all the same."""


class TakenOverError(LeaseLostError):
    """The commit was applied, and somebody else took the saga over before its answer came."""

    recorded = True


def lease_used(record: SagaRecord, lease: timedelta) -> float:
    """Return for how many seconds a saga's lease had run when the claim of it was answered.

    A repeated claim is answered with the leases of the first, an outage may lie between.
    """
    if record.due_at is None:
        return 0.0
    return max((lease - (record.due_at - record.now)).total_seconds(), 0.0)


class LeaseKeeper:
    """Renews all leases of one engine in one call, at a third of their length.

    A holder that cannot reach the store counts on its own monotonic clock, from before it sent
    the claim or renewal: when less than a fifth of the lease is left, it cancels the step and
    commits nothing more, so its successor never runs beside it. So does one whose lease the store
    could not renew for so long because its row was locked; the others are renewed.
    """

    def __init__(
        self,
        store: SagaStore,
        worker: str,
        lease: timedelta,
        signalled: Callable[[LiveSaga, int], None],
        outage: Outage,
    ) -> None:
        """`signalled` is told when a renewal shows signals that the saga has not heard yet."""
        self._store = store
        self._worker = worker
        self._lease = lease
        self._signalled = signalled
        self._outage = outage
        self._third = lease.total_seconds() / 3
        self._trusted = lease.total_seconds() * TRUSTED
        self._held: dict[UUID, LiveSaga] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None

    def held(self, saga_id: UUID) -> LiveSaga | None:
        """Return the saga if it is being driven here."""
        return self._held.get(saga_id)

    def hold(self, live: LiveSaga, *, since: float) -> None:
        """Look after a lease that was asked for at loop time `since`."""
        live.trusted_until = since + self._trusted
        self._held[live.saga_id] = live
        if self._timer is None and self._renewal is None:
            self._schedule(self._third)

    def drop(self, live: LiveSaga) -> None:
        """Stop renewing. The lease itself ends by a commit, a release or its time."""
        if self._held.get(live.saga_id) is live:
            del self._held[live.saga_id]

    def _schedule(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + delay, self._tick, loop.time() + delay)

    def _tick(self, planned: float) -> None:
        self._timer = None
        if not self._trusted_ones():
            return
        late = asyncio.get_running_loop().time() - planned
        if late > self._third:
            self._name_blockers(late)
        self._renewal = asyncio.ensure_future(self._renew())

    def _name_blockers(self, late: float) -> None:
        steps = sorted({live.position for live in self._held.values() if live.call.is_running})
        logger.warning(
            "the event loop was blocked for %.1f s, more than a third of the lease of %.1f s; "
            "running then: %s. Make the blocking step a plain `def`, so that it runs in a thread.",
            late,
            self._lease.total_seconds(),
            ", ".join(steps) or "no step",
        )

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        asked = self._trusted_ones()
        patience = min(self._third, max(self._earliest_end() - sent, 0.001))
        answer, put_off = None, False
        try:
            async with asyncio.timeout(patience):
                answer = await self._store.renew(
                    self._worker, [Held(live.saga_id, live.fence) for live in asked], self._lease
                )
        except (SagaError, TimeoutError) as error:
            self._outage.unanswered("the renewal of leases", error)
        except Exception:
            logger.exception("leases could not be renewed")
        finally:
            self._renewal = None
        if answer is not None:
            self._outage.answered()
            for live in asked:
                if live.saga_id in answer:
                    signals = answer[live.saga_id]
                    if signals is None:
                        put_off = True
                        continue
                    live.trusted_until = sent + self._trusted
                    if signals > live.signals:
                        self._signalled(live, signals)
                elif self._held.get(live.saga_id) is live:
                    live.call.break_off(Interrupt.LEASE_LOST)
        now = loop.time()
        for live in asked:
            if live.trusted_until <= now:
                live.call.break_off(Interrupt.LEASE_LOST)
        if self._trusted_ones():
            pause = self._third if answer is not None and not put_off else self._third / 4
            self._schedule(max(min(pause, self._earliest_end() - now), 0.001))

    def _earliest_end(self) -> float:
        return min((live.trusted_until for live in self._trusted_ones()), default=float("inf"))

    def _trusted_ones(self) -> list[LiveSaga]:
        return [
            live for live in self._held.values() if live.call.interrupt is not Interrupt.LEASE_LOST
        ]
