"""Versions of a definition side by side, and sagas in flight that are moved between them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from saga_core import (
    DoneStep,
    SagaAdminSnapshot,
    SagaBuilder,
    SagaDefinition,
    SagaDefinitionError,
    SagaInFlight,
    SagaStateError,
    SagaStatus,
    SagaStore,
    SagaWorker,
    StepContext,
    Upcaster,
)
from saga_core.records import HistoryEntry, SagaExport
from saga_testing.conformance import StoreHarness
from tests.behaviour.cast import HOUR, NAME, Number, Story, definition, fails, retry
from tests.behaviour.versions import Release, old_definition, renamed, second, to_second

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def returns_nothing(_: SagaInFlight) -> Any:
    return None


def loses_a_step(saga: SagaInFlight) -> SagaInFlight:
    return replace(to_second(saga), done={})


def leaves_old_outputs(saga: SagaInFlight) -> SagaInFlight:
    return replace(saga, initial_data={"cents": 1}, step_id="check", step_input=None)


def goes_nowhere(saga: SagaInFlight) -> SagaInFlight:
    return replace(to_second(saga), step_id="step_9")


def raises(saga: SagaInFlight) -> SagaInFlight:
    raise LookupError(f"no rate for {saga.saga_name}")


async def waiting_at_last_step(store: SagaStore, story: Story) -> tuple[UUID, Release]:
    """Return a saga of version 1 whose second step waits for its second attempt, an hour away."""
    made = old_definition(story, None, fails(times=1), retry_policy=retry(3))
    old = Release(store).register(made, "1")
    return await old.start(), old


def made_by(release: Release) -> Any:
    registration = release.orchestrator.engine.registry.get(NAME, "1")
    assert registration is not None
    return registration.definition


def entries(export: SagaExport) -> list[HistoryEntry]:
    """Return the history without its times, which pass when a rule lets time pass."""
    return [replace(entry, at=EPOCH) for entry in export.history]


# --- what may have been done ---------------------------------------------------------------------


@pytest.mark.parametrize("found", [False, True])
async def test_what_may_have_been_done_is_undone_by_the_new_version_with_what_it_was_given(
    store: SagaStore, harness: StoreHarness, found: bool
) -> None:
    """Its input, and what a probe has found of it, are converted like all else."""

    def probe(inp: Number, ctx: StepContext) -> Number:
        return Number(n=7)

    def release(story: Story, broken: bool) -> SagaDefinition:
        undo = fails("busy") if broken else None
        asked = probe if found else None
        steps = story.step(), story.uncertain(fails(), undo, probe=asked)
        return definition(*steps, compensation_retry_policy=retry(3))

    def times_100(in_flight: SagaInFlight) -> SagaInFlight:
        done = {
            step_id: replace(
                each, input={"n": each.input["n"] * 100}, output={"n": each.output["n"] * 100}
            )
            for step_id, each in in_flight.done.items()
        }
        doubtful = {
            step_id: {"n": given["n"] * 100} for step_id, given in in_flight.maybe_done.items()
        }
        return replace(in_flight, done=done, maybe_done=doubtful)

    old, new = Story(), Story()
    saga_id = await Release(store).register(release(old, broken=True), "1").start()
    assert old.log[-1] == f"undo step_1 2->{7 if found else None}"
    two = Release(store).register(release(Story(), broken=True), "1")
    two.register(release(new, broken=False), "2", upcast={"1": times_100})
    await harness.age(saga_id, HOUR)
    await two.orchestrator.run_due()
    after = await two.see(saga_id)
    assert (after.status, after.version_name) == (SagaStatus.COMPENSATED, "2")
    undone = [line for line in new.log if line.startswith("undo")]
    assert undone == [f"undo step_1 200->{700 if found else None}", "undo step_0 100->200"]
    assert [line for line in new.log if line.startswith("probe")] == []


# --- side by side --------------------------------------------------------------------------------


async def test_last_registered_version_starts_unless_another_is_asked_for(
    store: SagaStore,
) -> None:
    story = Story()
    one = Release(store).register(old_definition(story, None), "1").register(second(story), "2")
    newest = await one.start(initial_data={"cents": 1})
    older = await one.start(version="1")
    assert (await one.see(newest)).version_name == "2"
    assert (await one.see(older)).version_name == "1"
    assert story.log == ["do step_0", "do check", "do step_1", "do step_0"]
    for unknown in ("3", 1):
        with pytest.raises(SagaDefinitionError, match="Registered versions: '1', '2'"):
            await one.start(version=unknown)


async def test_repeated_start_finds_its_saga_whatever_version_is_the_last(
    store: SagaStore,
) -> None:
    story = Story()
    one = Release(store).register(old_definition(story, None), "1")
    saga_id = await one.start()
    one.register(second(story), "2", {"1": to_second})
    assert await one.start(saga_id=saga_id) == saga_id
    assert (await one.see(saga_id)).version_name == "1"  # it has ended
    assert story.log == ["do step_0"]


async def test_version_that_nobody_here_registers_is_left_to_others(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store).register(second(story), "2")
    await harness.age(saga_id, HOUR)
    assert await new.orchestrator.run_due() == 0
    assert "(only version '2' is)" in await new.admin.explain(saga_id)
    assert await old.orchestrator.run_due() == 1
    assert (await old.see(saga_id)).status is SagaStatus.COMPLETED


async def test_changed_definition_drives_no_saga_that_was_started_before(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, _ = await waiting_at_last_step(store, story)
    before = await store.export(saga_id)
    changed = Release(store).register(definition(story.step(), story.step(), story.step()), "1")
    await harness.age(saga_id, HOUR)
    story.log.clear()
    assert await changed.orchestrator.run_due() == 0
    with pytest.raises(SagaDefinitionError, match="step 'step_2' was added after 'step_1'"):
        await changed.admin.retry_step(saga_id)
    report = await changed.orchestrator.check_definitions()
    assert report.problems[0].differences == ("step 'step_2' was added after 'step_1'",)
    after = await store.export(saga_id)
    assert (after.record.version, entries(after)) == (before.record.version, entries(before))
    assert story.log == []


# --- upcasting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps_old", [True, False], ids=["old code is here", "old code is gone"])
async def test_saga_in_flight_goes_on_in_the_new_version(
    store: SagaStore, harness: StoreHarness, keeps_old: bool
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store)
    if keeps_old:
        new.register(made_by(old), "1").register(second(story), "2", {"1": to_second})
    else:
        known = Upcaster(to_second, fingerprints=(made_by(old).fingerprint,))
        new.register(second(story), "2", {"1": known})
    said = await new.admin.explain(saga_id)
    assert "cannot" not in said
    assert "not registered" not in said
    await harness.age(saga_id, HOUR)
    assert "a worker to claim it, which moves it to version '2'" in await new.admin.explain(saga_id)

    assert await new.orchestrator.run_due() == 1
    assert story.log == ["do step_0", "do step_1", "do check", "do step_1"]
    seen = await new.see(saga_id)
    assert (seen.status, seen.version_name) == (SagaStatus.COMPLETED, "2")
    assert seen.initial_data == {"cents": 100}
    assert seen.outputs == {
        "step_0": {"cents": 200},
        "check": {"cents": 300},
        "step_1": {"cents": 400},
    }
    assert seen.tags == ("upcast:2",)
    page = await new.admin.find(tag="upcast:2")
    assert [each.saga_id for each in page.sagas] == [saga_id]


async def test_history_tells_from_where_on_the_new_version_drives(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store).register(made_by(old), "1")
    new.register(second(story), "2", {"1": to_second})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    seen = await new.see(saga_id)
    kinds = [item.kind for item in seen.step_history]
    assert kinds == ["completed", "retrying", "upcast", "completed", "completed"]
    upcast = seen.step_history[2]
    assert upcast.reason == "moved from version '1' to version '2'"
    assert upcast.step_id == "check"
    assert upcast.output["from_version"] == "1"
    assert upcast.output["from_fingerprint"] == made_by(old).fingerprint
    assert upcast.output["fingerprint"] == second(story).fingerprint
    assert seen.step_history[0].output == {"n": 2}  # what was put out then stays as it was
    stored = await store.load(saga_id)
    assert (stored.definition_version, stored.data) == ("1", '{"n":1}')


async def test_upcast_is_on_record_before_a_step_of_the_new_version_runs(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    kinds: list[str] = []

    async def look(*_: object) -> None:
        kinds.extend(entry.kind for entry in await store.history(saga_id))

    new = Release(store).register(made_by(old), "1")
    new.register(second(story, check=look), "2", {"1": to_second})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    assert kinds == ["completed", "retrying", "upcast"]


async def test_rollback_of_an_upcast_saga_undoes_what_the_old_version_did(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store).register(made_by(old), "1")
    new.register(second(story, step_1=fails()), "2", {"1": to_second})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    assert story.log[2:] == [
        "do check",
        "do step_1",
        "undo check 200->300",
        "undo step_0 100->200",
    ]
    assert (await new.see(saga_id)).status is SagaStatus.COMPENSATED


async def test_rollback_that_has_begun_goes_on_with_what_is_yet_to_be_undone(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    made = definition(
        story.step(undo=fails()),
        story.step(),
        story.step(fails()),
        compensation_retry_policy=retry(3),
    )
    old = Release(store).register(made, "1")
    saga_id = await old.start()
    assert (await old.see(saga_id)).status is SagaStatus.COMPENSATING
    shown: list[SagaInFlight] = []

    def upcast(saga: SagaInFlight) -> SagaInFlight:
        shown.append(saga)
        return to_second(saga)

    new = Release(store).register(made, "1").register(second(story), "2", {"1": upcast})
    await harness.age(saga_id, HOUR)
    story.log.clear()
    await new.orchestrator.run_due()
    assert list(shown[0].done) == ["step_0"]  # step_1 is undone
    assert story.log == ["undo step_0 100->200"]
    assert (await new.see(saga_id)).status is SagaStatus.COMPENSATED


async def test_step_that_keeps_its_input_keeps_its_idempotency_key_and_token(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    token = (await old.see(saga_id)).step_execution_token
    more = definition(story.step(), story.step(), story.step())
    new = Release(store).register(made_by(old), "1").register(more, "2", {"1": lambda saga: saga})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    _, first, second_try, _ = story.contexts
    assert first.idempotency_key == second_try.idempotency_key
    assert (second_try.attempt, second_try.token) == (2, token)


async def test_step_whose_input_is_converted_keeps_its_idempotency_key(
    store: SagaStore, harness: StoreHarness
) -> None:
    """An attempt whose answer was lost may stand outside under it."""
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    more = definition(story.step(), story.step(), story.step())
    new = Release(store).register(made_by(old), "1")
    new.register(more, "2", {"1": lambda saga: replace(saga, step_input={"n": 9})})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    _, first, second_try, _ = story.contexts
    assert first.idempotency_key == second_try.idempotency_key
    assert (await new.see(saga_id)).outputs["step_1"] == {"n": 10}


async def test_step_that_may_have_been_done_is_not_left_for_one_before_it(
    store: SagaStore,
) -> None:
    story = Story()
    old = definition(story.uncertain(fails()), retry_policy=retry(5))
    saga_id = await Release(store).register(old, "1").start()
    builder = SagaBuilder()
    for step_id, step in (("check", story.step()), ("step_0", story.uncertain())):
        builder.add_step(
            step=step,
            input_map=lambda ctx: Number(n=ctx.initial_data["n"]),
            step_id=step_id,
            compensate_when="maybe_done" if step_id == "step_0" else "done",
        )
    new = Release(store).register(old, "1")
    new.register(builder.build(), "2", {"1": lambda saga: replace(saga, step_id="check")})
    with pytest.raises(SagaDefinitionError, match="'step_0' may have been done"):
        await new.admin.retry_step(saga_id)
    assert story.log == ["do step_0"]


async def test_upcasters_of_several_versions_follow_one_another_in_one_commit(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    third = definition(story.step(), story.step(), story.step())
    new = Release(store).register(made_by(old), "1")
    new.register(second(story), "2", {"1": to_second})
    new.register(third, "3", {"2": _back_to_numbers})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    seen = await new.see(saga_id)
    assert (seen.status, seen.version_name, seen.tags) == (
        SagaStatus.COMPLETED,
        "3",
        ("upcast:3",),
    )
    moves = [e for e in await store.history(saga_id) if e.kind == "upcast"]
    assert len(moves) == 2
    assert moves[0].version == moves[1].version
    assert seen.outputs == {"step_0": {"n": 2}, "step_1": {"n": 3}, "step_2": {"n": 4}}


def _back_to_numbers(saga: SagaInFlight) -> SagaInFlight:
    return replace(
        saga,
        initial_data={"n": 1},
        done={"step_0": DoneStep(output={"n": 2}, input={"n": 1}, ran=True)},
        step_id="step_1",
    )


async def test_renamed_step_is_undone_under_its_new_name(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)

    def rename(saga: SagaInFlight) -> SagaInFlight:
        return replace(saga, done={"begin": saga.done["step_0"]}, step_id="finish")

    new = Release(store).register(made_by(old), "1")
    new.register(renamed(story, "begin", "finish"), "2", {"1": rename})
    await harness.age(saga_id, HOUR)
    story.log.clear()
    await new.orchestrator.run_due()
    assert story.log == ["do finish", "undo begin 1->2"]


# --- commands ------------------------------------------------------------------------------------


async def test_command_moves_the_saga_in_its_own_commit(store: SagaStore) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    version = (await store.load(saga_id)).version
    new = Release(store).register(made_by(old), "1")
    new.register(second(story), "2", {"1": to_second})
    await new.admin.compensate_step(saga_id, wait=False)
    after = await store.load(saga_id)
    assert after.version == version + 1
    assert [e.kind for e in await store.history(saga_id)][2:] == [
        "upcast",
        "compensation_requested",
    ]
    await new.orchestrator.run_due()
    assert story.log[-1] == "undo step_0 100->200"


async def test_refused_command_moves_nothing(store: SagaStore) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    await old.admin.abort(saga_id)
    before = await store.export(saga_id)
    new = Release(store).register(made_by(old), "1")
    new.register(second(story), "2", {"1": to_second})
    with pytest.raises(SagaStateError, match="skip_step"):
        await new.admin.skip_step(saga_id, {"cents": 1})
    assert entries(await store.export(saga_id)) == entries(before)


# --- an upcaster that fails ----------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str]] = {
    "raises": (raises, "LookupError: no rate for story"),
    "returns nothing": (returns_nothing, "returned NoneType"),
    "loses a step": (loses_a_step, "step 'step_0' comes before step 'check'"),
    "leaves old outputs": (leaves_old_outputs, "the output of step 'step_0'"),
    "goes nowhere": (goes_nowhere, "it is at step 'step_9'"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_upcaster_that_fails_leaves_the_saga_as_it_was_and_is_reported(
    store: SagaStore, harness: StoreHarness, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    upcast, told = WRONG[wrong]
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store).register(made_by(old), "1")
    new.register(second(story), "2", {"1": upcast})
    before = await store.export(saga_id)
    story.log.clear()
    for _ in range(3):
        await harness.age(saga_id, HOUR)
        assert await new.orchestrator.run_due() == 0
    after = await store.export(saga_id)
    assert entries(after) == entries(before)
    assert after.record.state == before.record.state
    assert (after.record.worker, after.record.reclaims) == (None, 0)
    assert story.log == []
    warnings = [each.message for each in caplog.records if "left to others" in each.message]
    assert len(warnings) == 1
    assert told in warnings[0]
    assert told in await new.admin.explain(saga_id)
    report = await new.orchestrator.check_definitions()
    assert not report.ok
    assert (report.definitions[0].upcast_to, report.definitions[0].refused) == ("2", 1)
    assert told in str(report)
    with pytest.raises(SagaDefinitionError, match="cannot be moved from version '1'") as refused:
        await new.admin.retry_step(saga_id)
    assert refused.value.saga_id == saga_id
    assert entries(await store.export(saga_id)) == entries(before)

    await harness.age(saga_id, HOUR)  # a process of the old release drives it on
    assert await old.orchestrator.run_due() == 1
    assert (await old.see(saga_id)).status is SagaStatus.COMPLETED


async def test_saga_that_an_upcaster_refuses_can_be_aborted(store: SagaStore) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    known = Upcaster(raises, fingerprints=(made_by(old).fingerprint,))
    new = Release(store).register(second(story), "2", {"1": known})
    report = await new.admin.bulk("abort", name=NAME)
    assert report.ok, "the dry run tells what the command then does"
    await new.admin.abort(saga_id, reason="given up")
    seen = await new.see(saga_id)
    assert (seen.status, seen.version_name) == (SagaStatus.FAILED, "1")
    assert [item.kind for item in seen.step_history][-1] == "aborted"


async def test_pivot_is_known_of_a_saga_whose_old_version_is_gone(store: SagaStore) -> None:
    story = Story()
    before = definition(story.step(), story.step(fails()), pivot=0)
    saga_id = await Release(store).register(before, "1").start()
    known = Upcaster(lambda in_flight: in_flight, fingerprints=(before.fingerprint,))
    after = definition(story.step(), story.step(), story.step(), pivot=0)
    new = Release(store).register(after, "2", {"1": known})
    said = await new.admin.explain(saga_id)
    assert "its pivot 'step_0' is done, so there is no way back" in said
    assert "compensate_step" not in said


async def test_sagas_that_an_upcaster_refuses_hold_up_no_others(
    store: SagaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saga_core.running.AT_ONCE", 2)
    story = Story()
    made = old_definition(story, None)
    old = Release(store).register(made, "1")
    old.orchestrator.register("other", made)
    for _ in range(3):
        await old.start(wait=False)
    healthy = await old.start(saga_name="other", wait=False)
    new = Release(store).register(made, "1").register(second(story), "2", {"1": raises})
    new.orchestrator.register("other", made)
    assert await new.orchestrator.run_due() == 1
    assert (await new.see(healthy)).status is SagaStatus.COMPLETED
    (refused,) = (await new.orchestrator.check_definitions()).problems
    assert (refused.sagas, refused.refused, len(refused.refusals)) == (3, 3, 3)


# --- rolling deploys -----------------------------------------------------------------------------


async def test_old_worker_never_drives_a_saga_that_was_upcast(
    store: SagaStore, harness: StoreHarness, caplog: pytest.LogCaptureFixture
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store).register(made_by(old), "1")
    new.register(second(story, check=fails(times=1), retry_policy=retry(3)), "2", {"1": to_second})
    await harness.age(saga_id, HOUR)
    await new.orchestrator.run_due()
    assert (await new.see(saga_id)).status is SagaStatus.SUSPENDED

    story.log.clear()
    before = await store.export(saga_id)
    await harness.age(saga_id, HOUR)
    assert await old.orchestrator.run_due() == 0
    after = await store.export(saga_id)
    assert (entries(after), after.record.state) == (entries(before), before.record.state)
    assert after.record.worker is None
    assert "'2' is not registered" in await old.admin.explain(saga_id)
    told = [each.message for each in caplog.records if "left to others" in each.message]
    assert len(told) == 1
    with pytest.raises(SagaDefinitionError, match="version '2' is not registered"):
        await old.admin.retry_step(saga_id)
    report = await old.orchestrator.check_definitions()
    assert [(each.version, each.started_as, each.registered) for each in report.problems] == [
        ("2", "1", False)
    ]
    assert story.log == []

    await harness.age(saga_id, DAY)
    assert await new.orchestrator.run_due() == 1
    assert (await new.see(saga_id)).status is SagaStatus.COMPLETED


async def test_old_and_new_worker_bring_all_sagas_of_a_rolling_deploy_to_their_end(
    store: SagaStore,
) -> None:
    story = Story()
    soon = retry(3, timedelta(milliseconds=10))
    made = old_definition(story, None, fails(times=1), retry_policy=soon)
    old = Release(store, lease=timedelta(seconds=3)).register(made, "1")
    new = Release(store, lease=timedelta(seconds=3)).register(made, "1")
    new.register(second(story), "2", {"1": to_second})
    poll = timedelta(milliseconds=20)

    async def ended(saga_ids: list[UUID]) -> list[SagaAdminSnapshot]:
        for saga_id in saga_ids:
            seen = await new.orchestrator.wait(saga_id, timeout=60)
            assert seen.status is SagaStatus.COMPLETED, await new.admin.explain(saga_id)
        return [await new.see(saga_id) for saga_id in saga_ids]

    async with SagaWorker(old.orchestrator, concurrency=2, poll_interval=poll):
        before = await ended([await old.start(wait=False) for _ in range(2)])
        begun = [await old.start(wait=False) for _ in range(8)]
        async with SagaWorker(new.orchestrator, concurrency=2, poll_interval=poll):
            begun += [await old.start(wait=False) for _ in range(4)]
            begun += [await new.start(wait=False, initial_data={"cents": 1}) for _ in range(4)]
            during = await ended(begun)
    async with SagaWorker(new.orchestrator, concurrency=2, poll_interval=poll):
        after = await ended([await old.start(wait=False) for _ in range(2)])
    assert [seen.version_name for seen in before] == ["1", "1"]
    assert [seen.tags for seen in after] == [("upcast:2",), ("upcast:2",)]
    for seen in (*before, *during, *after):
        _judge(seen)


async def test_release_that_is_taken_back_gets_its_sagas_by_an_upcaster_the_other_way(
    store: SagaStore, harness: StoreHarness
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    new = Release(store).register(made_by(old), "1")
    new.register(second(story, check=fails(), retry_policy=retry(3)), "2", {"1": to_second})
    await new.admin.retry_step(saga_id)
    assert (await new.see(saga_id)).version_name == "2"

    known = Upcaster(_back_to_numbers, fingerprints=(second(story).fingerprint,))
    again = Release(store).register(made_by(old), "1", {"2": known})
    assert (await again.orchestrator.check_definitions()).ok
    await again.admin.retry_step(saga_id)
    await harness.age(saga_id, HOUR)
    await again.orchestrator.run_due()
    seen = await again.see(saga_id)
    assert (seen.status, seen.version_name) == (SagaStatus.COMPLETED, "1")
    assert seen.outputs == {"step_0": {"n": 2}, "step_1": {"n": 3}}


async def test_saga_whose_first_version_nobody_registers_is_reported_though_its_own_is(
    store: SagaStore,
) -> None:
    story = Story()
    saga_id, old = await waiting_at_last_step(store, story)
    made = second(story, check=fails(), retry_policy=retry(3))
    new = Release(store).register(made_by(old), "1").register(made, "2", {"1": to_second})
    await new.admin.retry_step(saga_id)
    careless = Release(store).register(made, "2")
    (problem,) = (await careless.orchestrator.check_definitions()).problems
    assert (problem.version, problem.started_as, problem.registered) == ("2", "1", False)
    assert "'story' version '2', started as version '1', is not registered" in str(problem)
    assert "'story' version '1' is not registered here" in await careless.admin.explain(saga_id)


def _judge(seen: SagaAdminSnapshot) -> None:
    """Each step was done by the version that drove the saga then, once, in its order."""
    kinds = [item.kind for item in seen.step_history]
    done = [item for item in seen.step_history if item.kind == "completed"]
    if "upcast" in kinds:
        at = kinds.index("upcast")
        later = [item for item in done if item.seq > seen.step_history[at].seq]
        assert all("cents" in item.output for item in later)
        assert [item for item in done if item not in later] == [
            item for item in done if "n" in item.output
        ]
    elif seen.version_name == "2":
        assert all("cents" in item.output for item in done)
    else:
        assert all("n" in item.output for item in done)
    expected = ["step_0", "step_1"] if seen.version_name == "1" else ["step_0", "check", "step_1"]
    assert [item.step_id for item in done] == expected
