"""Arguments of another kind: an error of ours says what to give instead, and nothing changes."""

from __future__ import annotations

from typing import Any

import pytest

from saga_core import SagaDefinitionError, SagaOrchestrator, SagaStateError, SagaStatus, SagaStore
from saga_testing import MemoryStore
from tests.behaviour.cast import Story, fails, retry, saga


@pytest.mark.parametrize("given", ["sqlite:///orders.db", "", 5, []])
async def test_definitions_are_checked_against_a_store_and_nothing_else(
    store: SagaStore, given: Any
) -> None:
    one = saga(store, Story().step())
    with pytest.raises(SagaDefinitionError, match=r"needs a SagaStore, got .*open_store\(url\)"):
        await one.orchestrator.check_definitions(given)
    await one.start(wait=False)
    assert (await one.orchestrator.check_definitions()).sagas == 1
    assert (await one.orchestrator.check_definitions(MemoryStore())).sagas == 0


@pytest.mark.parametrize("given", [["story"], {"story": 1}, None, 5])
async def test_saga_is_started_by_a_name_that_is_text(store: SagaStore, given: Any) -> None:
    one = saga(store, Story().step())
    with pytest.raises(SagaDefinitionError, match="saga_name must be text, got"):
        await one.start(saga_name=given)
    assert await one.admin.count() == 0


@pytest.mark.parametrize("given", [None, 5, object()])
def test_plugins_are_several(given: Any) -> None:
    with pytest.raises(SagaDefinitionError, match="plugins must be a sequence of plugins, got"):
        SagaOrchestrator(store=MemoryStore(), plugins=given)


@pytest.mark.parametrize("given", [str, lambda token: token.hex, lambda token: token.int])
async def test_token_is_a_uuid(store: SagaStore, given: Any) -> None:
    one = saga(store, Story().step(fails(times=1)), retry_policy=retry(2))
    saga_id = await one.start()
    token = (await one.see(saga_id)).step_execution_token
    assert token is not None
    wrong = given(token)
    told = f"token must be a uuid.UUID, got {type(wrong).__name__}"
    told += r": make it one with uuid\.UUID" if isinstance(wrong, str) else "$"
    for call in (one.orchestrator.notify, one.orchestrator.notify_detailed):
        with pytest.raises(SagaStateError, match=told):
            await call(saga_id=saga_id, token=wrong)  # type: ignore[operator]
    assert not await store.inbox(saga_id)
    assert await one.orchestrator.notify(saga_id=saga_id, token=token)
    assert (await one.see(saga_id)).status is SagaStatus.COMPLETED
