"""What every topic of the suite is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from saga_core.hookspecs import Capability
from saga_core.store import SagaStore
from saga_testing.conformance.declared import check_harness, check_rule, check_version, since
from saga_testing.conformance.harness import StoreHarness

__all__ = ["Topic", "needs", "since"]

_DECLARED = pytest.StashKey[int]()


@pytest.mark.asyncio
class Topic:
    """A group of rules. Each rule is a test whose name says it."""

    @pytest_asyncio.fixture(autouse=True)
    async def _declared(self, request: pytest.FixtureRequest, harness: StoreHarness) -> None:
        """Compare what store and harness declare with what the kit knows, before each rule."""
        check_harness(harness)
        group = request.node.parent.stash
        if _DECLARED not in group:  # once per class: to open a store may be slow
            async with harness.open() as store:
                group[_DECLARED] = check_version(store)
        check_rule(request.function, group[_DECLARED])

    @pytest_asyncio.fixture
    async def store(self, harness: StoreHarness) -> AsyncIterator[SagaStore]:
        """Open one handle on the harness's empty store."""
        async with harness.open() as store:
            yield store


def needs(harness: StoreHarness, capability: Capability) -> None:
    """Leave a rule out for a store that does not declare the capability. The only way to."""
    if capability not in harness.capabilities:
        pytest.skip(f"the store does not declare the capability '{capability}'")
