"""Queues that Hypothesis makes, on every store: whatever befalls them, all get their turn."""

from __future__ import annotations

import pytest

from saga_testing.conformance import StoreHarness
from tests.campaign.campaign import EVERYDAY_SEED, FULL
from tests.campaign.test_campaign import backend, harness  # noqa: F401 - fixtures
from tests.campaign.turns.tour import Tour, tallied

MET = (
    "queued",
    "admitted",
    "COMPENSATED in the queue",
    "FAILED in the queue",
    "turn passed after COMPLETED",
    "turn passed after COMPENSATED",
    "turn passed after FAILED",
    "takeovers of the holder",
    "takeovers in the queue",
    "freeing commits not heard",
    "crashes right after a freeing commit",
    "starts refused",
    "starts that raised",
    "starts that returned another",
    "hooks",
    "cancel granted",
    "abort granted",
    "pause granted",
    "resume granted",
)
"""What a campaign must have met, or it has proved little."""


@pytest.mark.timeout(3600)
async def test_every_queue_is_worked_off_in_turn(
    backend: str,  # noqa: F811
    harness: StoreHarness,  # noqa: F811
) -> None:
    tour = Tour.wanted()
    async with harness.open() as store:
        verdicts = await tour.run(store, harness)
    report = tour.report(backend, verdicts)
    assert not report, report
    met = tallied(verdicts)
    print(f"{len(verdicts)} queues on {backend}, seed {tour.seed}: {dict(met)}")
    # A hundred queues of any seed may do without the rarest of these.
    if tour.only is None and (tour.size == FULL or tour.seed == EVERYDAY_SEED):
        assert not [name for name in MET if not met[name]], met
