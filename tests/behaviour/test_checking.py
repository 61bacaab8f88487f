"""`check_definitions`: what the sagas in the store need, before a deploy."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from saga_core import SagaOrchestrator, SagaStore
from tests.behaviour.cast import NAME, Story, definition, fails, retry, saga

OLD = definition(Story().step(), Story().step())


async def test_report_of_an_empty_store_is_fine(store: SagaStore) -> None:
    report = await saga(store, Story().step()).orchestrator.check_definitions()
    assert report.ok
    assert (report.definitions, report.sagas) == ((), 0)
    assert str(report) == "every active saga can be driven: 0 looked at"


async def test_only_active_sagas_count_whatever_their_status(
    store: SagaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.checking.PAGE", 2)  # so there are several
    one = saga(store, Story().step())
    register = one.orchestrator.register
    register("suspended", definition(Story().step(fails()), retry_policy=retry(2)))
    register("stuck", definition(Story().step(lambda *_: "no number")))
    undo = Story().step(undo=fails())
    register(
        "compensating",
        definition(undo, Story().step(fails()), compensation_retry_policy=retry(2)),
    )
    register("failed", definition(Story().step(fails()), compensate_on_failure=False))
    register("compensated", definition(Story().step(fails())))
    await one.start()
    for name in ("suspended", "stuck", "compensating", "failed", "compensated"):
        await one.start(saga_name=name)
    left = [await one.start(wait=False) for _ in range(3)]

    report = await one.orchestrator.check_definitions()
    assert report.ok
    counts = {each.saga_name: each.sagas for each in report.definitions}
    assert counts == {"suspended": 1, "stuck": 1, "compensating": 1, NAME: 3}
    assert report.sagas == 6
    assert {each.example for each in report.definitions if each.saga_name == NAME} == {left[0]}


async def test_missing_and_changed_definitions_are_told_with_their_differences(
    store: SagaStore,
) -> None:
    before = saga(store, made=OLD)
    before.orchestrator.register("other", OLD, version="2")
    oldest = await before.start(wait=False)
    await before.start(wait=False)
    other = await before.start(saga_name="other", wait=False)

    after = saga(store, Story().step(), Story().step(), Story().step())
    after.orchestrator.register("other", OLD, version="3")
    mine = await after.start(wait=False)
    report = await after.orchestrator.check_definitions()

    assert not report.ok
    assert report.sagas == 4
    told = {each.example: each for each in report.definitions}
    assert told[mine].ok
    assert {each.example for each in report.problems} == {oldest, other}
    assert (told[oldest].registered, told[oldest].sagas) == (True, 2)
    assert told[oldest].differences == ("step 'step_2' was added after 'step_1'",)
    assert told[oldest].fingerprint == OLD.fingerprint
    assert (told[other].registered, told[other].differences) == (False, ())
    assert str(report).splitlines() == [
        "3 of 4 active sagas cannot be driven:",
        f"- 'other' version '2' is not registered (1 active saga, such as {other})",
        f"- '{NAME}' version '1' has changed: step 'step_2' was added after 'step_1' "
        f"(2 active sagas, such as {oldest})",
    ]
    with pytest.raises(FrozenInstanceError):
        report.definitions = ()  # type: ignore[misc]


async def test_check_changes_nothing(store: SagaStore) -> None:
    saga_id = await saga(store, Story().step()).start(wait=False)
    before = await store.export(saga_id)
    await SagaOrchestrator(store=store).check_definitions()
    after = await store.export(saga_id)
    assert (after.record.version, after.history) == (before.record.version, before.history)
