"""`check_saga`: let every step fail at every boundary, and see that what was done is undone."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from saga_core.definition import SagaDefinition
from saga_core.errors import NonRetryableError, SagaDefinitionError, SagaStateError
from saga_core.snapshot import SagaAdminSnapshot
from saga_core.status import Hook, SagaStatus
from saga_testing.arguments import check_function, check_world, copy_of
from saga_testing.cases import Boundary, Case, Ending, cases_of
from saga_testing.differing import differences
from saga_testing.environment import SagaEnv, saga_env
from saga_testing.family import Family, latest
from saga_testing.judging import not_undone, repeated, suspects
from saga_testing.ledger import World
from saga_testing.places import Action, Place
from saga_testing.report import CheckReport, Finding
from saga_testing.script import Script, ScriptPart

__all__ = ["SagaCheckError", "check_saga"]

Made = SagaDefinition | Callable[[], SagaDefinition]

_NAME = "saga"

_SAGA_ID = UUID("01900000-0000-7000-8000-000000000001")
"""One for all runs, so that keys and what is made of them are the same in each."""


class SagaCheckError(AssertionError):
    """The saga does not undo what it has done; the text is the report's."""

    def __init__(self, report: CheckReport) -> None:
        super().__init__(str(report))
        self.report = report


async def check_saga(
    saga: Made,
    *,
    children: Mapping[str, Made] | None = None,
    initial_data: Any = None,
    world: World | None = None,
    reset: Callable[[], Any] | None = None,
    events: Sequence[ScriptPart] = (),
    ends: SagaStatus = SagaStatus.COMPLETED,
    boundaries: Collection[str] = tuple(Boundary),
    progress: Callable[[str], Any] | None = None,
    raises: bool = True,
) -> CheckReport:
    """Run a saga once per step and boundary, with one thing going wrong each time.

    Each step fails before and after its work, and loses its worker before, after and once it is
    on record; then, in the longest rollback, each compensation does. A rollback has to end
    COMPENSATED with every finished step undone, and a saga that only lost its worker, or was
    retried past its pivot, has to complete. `world` returns what can be seen of the outside
    world: after a rollback it must be equal to what it was before the run, and after a run that
    completes to what it is without a fault. Without it a compensation that undoes nothing looks
    like one that does.

    `children` are the sagas that this one starts, and these, by the names by which it does; each
    step of theirs fails too, and they end as one.

    `reset` (may be async) makes the world as it is at first, before each run; so may `saga`, or one
    of `children`, if it is a function that makes the definition. With a `world` and neither of
    them, runs that complete are left out, and the check ends with its first finding. `events` are
    sent to each run when it waits for them, as by `SagaEnv.run`. `ends` is how the saga ends when
    nothing goes wrong: a saga made to be rolled back is COMPENSATED. `boundaries` is a choice of
    "before", "after" and "crash". `progress` gets a line before each run. Raises `SagaCheckError`,
    an AssertionError with the report in `.report`, unless all is well or `raises` is False;
    `SagaDefinitionError` for arguments that make no sense, and `SagaStateError` for a saga that
    does not end so by itself.
    """
    check = _Check(saga, children or {}, initial_data, world, reset, events, ends, progress)
    await check.run(_chosen(boundaries))
    if raises and not check.report.ok:
        raise SagaCheckError(check.report)
    return check.report


def _chosen(boundaries: Collection[str]) -> frozenset[Boundary]:
    if not isinstance(boundaries, Iterable):
        boundaries = [boundaries]
    names = [boundaries] if isinstance(boundaries, str) else list(boundaries)
    wrong = [name for name in names if name not in tuple(Boundary)]
    if wrong or not names:
        raise SagaDefinitionError(
            f"boundaries must be some of {', '.join(Boundary)}, got {', '.join(map(str, names))}"
        )
    return frozenset(map(Boundary, names))


class _Check:
    def __init__(
        self,
        saga: Made,
        children: Mapping[str, Made],
        initial_data: Any,
        world: World | None,
        reset: Callable[[], Any] | None,
        events: Sequence[ScriptPart],
        ends: SagaStatus,
        progress: Callable[[str], Any] | None,
    ) -> None:
        check_world(world)
        check_function(reset, "reset")
        check_function(progress, "progress")
        Script(events)
        if not isinstance(children, Mapping):
            raise SagaDefinitionError(f"children must be sagas by name, got {children!r}")
        for made in (saga, *children.values()):
            if not isinstance(made, SagaDefinition) and not callable(made):
                raise SagaDefinitionError(
                    f"check_saga needs a SagaDefinition or a function that makes one, got {made!r}"
                )
        self._saga = saga
        self._children = dict(children)
        self._data = initial_data
        self._world = world
        self._reset = reset
        self._events = events
        self._goes_back = _goes_back(ends)
        self._progress = progress
        makes = [
            each for each in (saga, *children.values()) if not isinstance(each, SagaDefinition)
        ]
        self._renews = world is None or reset is not None or bool(makes)
        self._finished: tuple[Any] | None = None
        """The world after a run without a fault, if it is the same each time."""
        self._first: tuple[Any] | None = None
        """The world before the first run, and so before each."""
        self._visits: Counter[Place] = Counter()
        """How often a run without a fault comes to each place."""
        self._left: list[tuple[frozenset[str], tuple[str, ...]]] = []
        """Which steps had begun where something was left that has to be undone, and what."""
        self.report = CheckReport()

    async def run(self, boundaries: frozenset[Boundary]) -> None:
        await self._run_all(boundaries)
        self._forget_what_others_left()

    async def _run_all(self, boundaries: frozenset[Boundary]) -> None:
        if self._renews:
            family = await self._run_undisturbed()
        else:
            family = await self._fresh()
            self.report.notes.append(
                "without reset= runs that complete, and steps that fail after their work, are "
                "left out: their world would be the next run's first"
            )
        if self._world is None:
            self.report.notes.append(
                "without world= a compensation that undoes nothing is not found"
            )
        chosen = [case for case in cases_of(family, self._visits) if case.boundary in boundaries]
        if not self._renews:
            chosen = [case for case in chosen if case.ending is Ending.UNDONE]
        for number, case in enumerate(chosen, start=1):
            if self._progress is not None:
                self._progress(f"{number} of {len(chosen)}: {case}")
            if self._goes_back and case.ending is Ending.COMPLETED:
                await self._run_case(replace(case, ending=Ending.UNDONE))
            else:
                await self._run_case(case)
            if not self._renews and not self.report.ok:
                self.report.notes.append(
                    "without reset= the check ends with its first finding: give it to see all"
                )
                return

    async def _fresh(self) -> Family:
        """Return the definitions for the next run, with the world as it is at first."""
        if self._reset is not None:
            done = self._reset()
            if inspect.isawaitable(done):
                await done
        family = Family(
            _made(self._saga), {name: _made(each) for name, each in self._children.items()}
        )
        family.check()
        return family

    def _look(self) -> Any:
        return None if self._world is None else copy_of(self._world)

    def _check_same_world(self) -> None:
        world = self._look()
        if self._first is None:
            self._first = (world,)
        elif self._renews and world != self._first[0]:
            raise SagaDefinitionError(
                "reset= must bring the world back to what it was at first: "
                + "; ".join(differences(self._first[0], world))
            )

    async def _run_undisturbed(self) -> Family:
        """Run the saga as it is, twice: what it comes to is the measure for others."""
        worlds = []
        for _ in range(2):
            family = await self._fresh()
            self._check_same_world()
            async with self._env(family) as env:
                ended = await self._play(env)
                wanted = SagaStatus.COMPENSATED if self._goes_back else SagaStatus.COMPLETED
                if ended.status is not wanted:
                    raise SagaStateError(
                        f"nothing went wrong, and the saga is not {wanted}: {await env.explain()} "
                        "What it waits for goes into events=, how it has to end into ends=.",
                        saga_id=ended.saga_id,
                    )
            worlds.append(self._look())
            self._visits = env.visits
        await self._look_at_the_way_back()
        if worlds[0] == worlds[1]:
            self._finished = (worlds[0],)
        else:
            self.report.notes.append(
                "two runs without a fault leave different worlds, so those that complete are "
                "not compared"
            )
        return family

    async def _look_at_the_way_back(self) -> None:
        """Count to which places the longest rollback comes."""
        family = await self._fresh()
        env = self._env(family)
        last, others = family.failing(family.parent, latest(family.parent))
        env.fail_at(last.step_id, error=NonRetryableError, when_done=others)
        await self._play(env)
        for place, times in env.visits.items():
            if place.action is not Action.EXECUTE or place.step_id == Hook.ON_COMPENSATED:
                self._visits[place] = times

    def _env(self, family: Family) -> SagaEnv:
        env = saga_env(world=self._world)
        for name, definition in ((_NAME, family.parent), *family.children.items()):
            env.register(name, definition)
        return env

    async def _play(self, env: SagaEnv) -> SagaAdminSnapshot:
        return await env.run(_NAME, self._data, events=self._events, saga_id=_SAGA_ID)

    # --- one case -------------------------------------------------------------------------------

    async def _run_case(self, case: Case) -> None:
        family = await self._fresh()
        self._check_same_world()
        env = self._env(family)
        for fault in case.faults:
            if fault.error is None:
                env.crash_at(str(fault.place), nth=fault.nth)
            else:
                env.fail_at(
                    str(fault.place),
                    error=fault.error,
                    times=fault.times,
                    nth=fault.nth,
                    when_done=fault.when_done,
                )
        await self._play(env)
        ended = await self._help(env, case)
        if env.unreached:
            self.report.unreached.append(case)
            return
        self.report.cases.append(case)
        await self._judge(env, family, case, ended)

    async def _help(self, env: SagaEnv, case: Case) -> SagaAdminSnapshot:
        """Do what an operator does once the trouble is over."""
        ended = await env.snapshot()
        for _ in range(2):
            stuck = [each async for each in env.admin.find_all(status=SagaStatus.STUCK)]
            if stuck and case.faults[0].times is not None:
                for each in stuck:
                    await env.admin.retry_step(each.saga_id, wait=False)
            elif ended.status is SagaStatus.FAILED and ended.outputs:
                await env.admin.cancel(ended.saga_id, wait=False)
            else:
                return ended
            ended = await env.finish(events=self._events)
        return ended

    async def _judge(
        self, env: SagaEnv, family: Family, case: Case, ended: SagaAdminSnapshot
    ) -> None:
        assert self._first is not None  # noqa: S101 - looked at before each run
        world = self._look()
        if not _has_ended(family.parent, case, ended):
            self._find(env, case, await _why(env, case, ended), ())
        elif case.ending is Ending.COMPLETED:
            left = () if self._finished is None else differences(self._finished[0], world)
            if left:
                what = "it is COMPLETED, with another world than without the fault"
                self._find(env, case, what, left, repeated(family, env.ledger))
        else:
            missing: list[str] = []
            async for each in env.admin.find_all():
                definition = family.children.get(each.saga_name, family.parent)
                one = await env.admin.get_saga(each.saga_id)
                missing += not_undone(definition, one, env.ledger)
            left = differences(self._first[0], world)
            blamed = suspects(family, env.ledger)
            if case.ending is Ending.UNDONE_BUT_ONE:
                blamed = tuple(each for each in blamed if each.step_id != case.step_id)
                if left and not blamed:
                    self.report.unguarded[case.step_id] = left
                    left = ()
            elif left:
                began = {call.step_id for call in env.calls if call.action is Action.EXECUTE}
                self._left.append((frozenset(began), left))
            if missing:
                self._find(env, case, f"{', '.join(missing)} was done and not undone", left)
            elif left:
                what = f"it is {ended.status}, and what was done is not undone"
                self._find(env, case, what, left, tuple(map(str, blamed)))

    def _forget_what_others_left(self) -> None:
        """Say of no step that it leaves what is left as well where it has not begun."""
        for step_id, left in list(self.report.unguarded.items()):
            others = {line for began, lines in self._left if step_id not in began for line in lines}
            own = tuple(line for line in left if line not in others)
            if own:
                self.report.unguarded[step_id] = own
            else:
                del self.report.unguarded[step_id]

    def _find(
        self,
        env: SagaEnv,
        case: Case,
        what: str,
        left: tuple[str, ...],
        blamed: tuple[str, ...] = (),
    ) -> None:
        events = ", events=events" if self._events else ""
        reproduce = (
            "async with saga_env() as env:",
            f'    env.register("{_NAME}", saga)',
            *(f'    env.register("{name}", children["{name}"])' for name in self._children),
            *(f"    {call}" for call in env.planned),
            f'    snapshot = await env.run("{_NAME}", {self._data!r}{events})',
        )
        calls = tuple(map(str, env.calls))
        self.report.findings.append(Finding(case, what, left, blamed, calls, reproduce))


def _made(saga: Made) -> SagaDefinition:
    made = saga if isinstance(saga, SagaDefinition) else saga()
    if inspect.iscoroutine(made):
        made.close()
        raise SagaDefinitionError(
            "the function given to check_saga must be a plain one: it makes the definition and "
            "returns it, awaiting nothing"
        )
    if not isinstance(made, SagaDefinition):
        raise SagaDefinitionError(
            f"the function given to check_saga must return a SagaDefinition, got {made!r}"
        )
    return made


def _goes_back(ends: SagaStatus) -> bool:
    if ends not in (SagaStatus.COMPLETED, SagaStatus.COMPENSATED):
        raise SagaDefinitionError(f"ends must be COMPLETED or COMPENSATED, got {ends!r}")
    return ends == SagaStatus.COMPENSATED


def _has_ended(definition: SagaDefinition, case: Case, ended: SagaAdminSnapshot) -> bool:
    if case.ending is Ending.COMPLETED:
        return ended.status is SagaStatus.COMPLETED
    nothing_done = not definition.compensate_on_failure and not ended.outputs
    return ended.status is SagaStatus.COMPENSATED or (
        nothing_done and ended.status is SagaStatus.FAILED
    )


async def _why(env: SagaEnv, case: Case, ended: SagaAdminSnapshot) -> str:
    wanted = "COMPLETED" if case.ending is Ending.COMPLETED else "COMPENSATED"
    return f"it is {ended.status}, not {wanted}: {await env.explain()}"
