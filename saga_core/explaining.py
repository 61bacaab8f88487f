"""Say why a saga is where it is: one true sentence, of a record and what is registered here."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from saga_core.awaiting import event_name
from saga_core.child import ChildEnded
from saga_core.codec import PayloadLimits, decode_json
from saga_core.errors import PayloadError, SagaDefinitionError
from saga_core.happening import WORKER_LOST, Recorded
from saga_core.live import LiveSaga
from saga_core.pausing import begins_pause
from saga_core.records import SagaRecord
from saga_core.registry import Registry
from saga_core.resting import EVENT, SLEEP
from saga_core.rollback import begun_step
from saga_core.sides import told_of_branches
from saga_core.status import Direction, EntryKind, Hook, SagaStatus
from saga_core.surroundings import comes_to, kin
from saga_core.suspects import SUSPECT_AFTER, is_suspect
from saga_core.timing import AT_START, Timing, deadline_applies
from saga_core.upcasting import bring_to_life
from saga_core.versions import as_driven
from saga_core.wording import short, time, times, when

__all__ = ["explain"]

_CHILD = f"{EVENT}{event_name(ChildEnded)} with correlation_id "


def explain(
    record: SagaRecord,
    registry: Registry,
    before: tuple[UUID | None, UUID | None] = (None, None),
) -> str:
    """Return the sentence. Pure; it speaks of the moment at which the store was read.

    `before` is who holds the aggregate of a saga that is queued, or FAILED, and who is the first
    in its queue.
    """
    state = record.state
    if state.status.is_terminal:
        said = _ended(record, registry, before[0])
    elif state.is_paused:
        said = _paused(record, registry)
    elif state.is_queued:
        said = _queued(record, registry, *before)
    elif record.is_held:
        said = _held(record)
    elif record.worker is not None:
        said = _expired(record, registry)
    elif state.status is SagaStatus.STUCK:
        said = _stuck(record, registry)
    elif record.due_at is not None and record.due_at <= record.now:
        said = _due(record, registry)
    else:
        said = _waits(record, registry)
    said += "" if state.status.is_terminal else told_of_branches(record)
    more = comes_to(record) + kin(record) + _deadline(record, registry)
    return f"Saga {record.saga_id} {said}{more}."


# --- each situation ------------------------------------------------------------------------------


def _ended(record: SagaRecord, registry: Registry, holder: UUID | None) -> str:
    state = record.state
    said = f"ended as {state.status}, last changed at {time(record.updated_at)}"
    if state.status is SagaStatus.COMPLETED:
        return f"{said}: all its steps are done"
    if state.status is SagaStatus.COMPENSATED:
        undone = f"{said}: every completed step that can be undone has been undone"
        return undone + _left_done(record) + _last_error(record)
    where = f" while {_work(record)} was current" if state.step_id is not None else ""
    said = f"{said}{where}{_last_error(record)}"
    if not _readable(record):
        return f"{said}; its initial_data cannot be read, so it stays so"
    ways = []
    if state.direction is Direction.FORWARD:
        ways.append("retry_step goes on with it")
    if _can_roll_back(record, registry):
        ways.append("compensate_step rolls back what was done")
    if not ways:
        return said
    if holder is not None:  # to go on, the saga would have to take it again
        said += (
            f"; once saga {holder} has ended, which holds aggregate '{record.aggregation_id}' now,"
        )
        return f"{said} {_ways(record, registry, ways)}"
    return f"{said}; {_ways(record, registry, ways)}"


def _held(record: SagaRecord) -> str:
    said = (
        f"is {record.state.status}: worker {record.worker} drives it, at {_attempt(record)}, "
        f"and holds its lease until {when(record, record.due_at)}"
    )
    return said + _suspicion(record)


def _expired(record: SagaRecord, registry: Registry) -> str:
    said = (
        f"is {record.state.status} at {_attempt(record)}: the lease of worker {record.worker} "
        f"ended at {when(record, record.due_at)} and nobody has taken the saga over"
    )
    return said + _suspicion(record) + _next_driver(record, registry)


def _stuck(record: SagaRecord, registry: Registry) -> str:
    back = record.state.direction is Direction.ROLLBACK
    ways = ["retry_step", "skip_compensation"] if back else ["retry_step", "skip_step"]
    ending = record.state.is_ending
    pivot = None if ending else _pivot_done(record, registry)
    if not ending and _can_roll_back(record, registry):
        ways.append("compensate_step")
    ways.append("abort")
    said = (
        f"is STUCK at {_work(record)}{_last_error(record)}, last changed at "
        f"{time(record.updated_at)}"
    )
    if record.due_at is not None:
        said += ", and due to hear what was sent to it"
    needed = f"it needs a person: {', '.join(ways[:-1])} or {ways[-1]} ends that"
    if pivot is not None:
        needed = f"its pivot '{pivot}' is done, so there is no way back; {needed}"
    if not _readable(record):
        needed = (
            "its initial_data cannot be read, so it needs a person to abort it, or to mend it in "
            "the store"
        )
    return f"{said}; {_ways(record, registry, [needed])}"


def _paused(record: SagaRecord, registry: Registry) -> str:
    said = f"is {record.state.status} and paused at {_attempt(record)}"
    pauses = [entry for entry in record.outputs if begins_pause(entry)]
    if pauses:
        pause = pauses[-1]
        by = "" if pause.actor is None else f" by '{pause.actor}'"
        why = "" if pause.reason is None else f" because of {short(pause.reason)}"
        said += f" since {time(pause.at)}{by}{why}"
    if record.state.attempt:
        said += _last_error(record)
    if record.worker is not None:
        said += f", and worker {record.worker} looks what was sent to it"
    elif record.due_at is not None:
        said += ", and due to hear what was sent to it"
    pivot = _pivot_done(record, registry)
    ends = "cancel or abort ends it"
    if pivot is not None:
        ends = f"abort ends it, but its pivot '{pivot}' is done, so there is no way back"
    return f"{said}; {_ways(record, registry, ['resume goes on with it', ends])}"


def _due(record: SagaRecord, registry: Registry) -> str:
    begins_at = _begins_at(record)
    if begins_at is not None and begins_at > record.now:
        said = f"has not begun: it is to begin at {when(record, begins_at)}, and due to be looked"
        return f"{said} at before{_next_driver(record, registry)}"
    said = (
        f"is {record.state.status} and due since {when(record, record.due_at)} for "
        f"{_attempt(record)}{_cause(record)}"
    )
    return said + _suspicion(record) + _next_driver(record, registry)


def _waits(record: SagaRecord, registry: Registry) -> str:
    state = record.state
    until = "" if record.due_at is None else when(record, record.due_at)
    back = state.direction is Direction.ROLLBACK
    if state.waiting_for == AT_START:
        gap = _gap(record, registry)
        # It may be looked at before, at its deadline.
        begins = when(record, _begins_at(record) or record.due_at)
        return f"has not begun: it is to begin at {begins}" + (f"; {gap}" if gap else "")
    said = f"is {state.status} and {'its rollback ' if back else ''}waits "
    if state.waiting_for is not None:
        latest = f", until {until} at the latest" if until else ""
        said += f"for {_thing(state.waiting_for)}{latest}, at {_attempt(record)}"
    elif not until:
        said += (
            f"at {_attempt(record)} without anything that would wake it, which no store should "
            "have accepted; only a command moves it"
        )
    elif _ends_there(record, registry):
        said += f"until {until}, when its deadline comes before {_attempt(record)}"
    else:
        said += f"until {until} for {_attempt(record)}"
    gap = _gap(record, registry)
    return said + _cause(record) + _suspicion(record) + (f"; {gap}" if gap else "")


def _queued(record: SagaRecord, registry: Registry, holder: UUID | None, first: UUID | None) -> str:
    said = f"is {record.state.status} and has not begun: "
    key = f"'{record.aggregation_id}'"
    if holder is not None:
        said += f"it waits for saga {holder}, which holds aggregate {key}"
        if first not in (None, record.saga_id):
            said += f", and then for those queued before it, the first of which is saga {first}"
    elif first not in (None, record.saga_id):
        said += f"it waits for saga {first}, which is before it in the queue for aggregate {key}"
    elif record.is_held:
        said += f"worker {record.worker} is about to take aggregate {key} for it"
    else:
        return f"{said}its turn at aggregate {key} has come{_next_driver(record, registry)}"
    gap = _gap(record, registry)
    return said + (f"; {gap}" if gap else "")


def _ends_there(record: SagaRecord, registry: Registry) -> bool:
    """Tell whether a saga is looked at next because its deadline has come."""
    if not deadline_applies(record.state) or _pivot_done(record, registry) is not None:
        return False
    try:
        deadline_at = Timing.of(record).deadline_at
    except PayloadError:
        return False
    return deadline_at is not None and record.due_at is not None and record.due_at >= deadline_at


def _begins_at(record: SagaRecord) -> datetime | None:
    """Return when a saga that has not begun is to begin, as far as that can be read."""
    if record.state.waiting_for != AT_START:
        return None
    try:
        return Timing.of(record).begins_at
    except PayloadError:
        return None


def _thing(waiting_for: str) -> str:
    """Say what a saga is waiting for."""
    if waiting_for == SLEEP:
        return "the end of its sleep"
    if waiting_for.startswith(_CHILD):
        return f"the end of its child saga {waiting_for.removeprefix(_CHILD)}"
    if not waiting_for.startswith(EVENT):
        return waiting_for
    names, what, correlation_id = waiting_for.removeprefix(EVENT).partition(" with correlation_id ")
    said = f"an event {' or '.join(names.split('|'))}"
    return f"{said} with the correlation_id '{correlation_id}'" if what else said


# --- pieces --------------------------------------------------------------------------------------


def _work(record: SagaRecord) -> str:
    state = record.state
    if state.step_id == Hook.TELL_PARENT:
        return "telling its parent"
    if state.in_hook:
        return f"hook '{state.step_id}'"
    step = f"step '{state.step_id}'"
    return f"undoing {step}" if state.direction is Direction.ROLLBACK else step


def _attempt(record: SagaRecord) -> str:
    return f"attempt {record.state.attempt + 1} of {_work(record)}"


def _cause(record: SagaRecord) -> str:
    """Say what the attempts before failed of, if there were any and the record knows."""
    state = record.state
    if not state.attempt:
        return ""
    if state.direction is Direction.ROLLBACK:
        # The record keeps what the saga failed of; what the compensation did is in the history.
        return f", after {times(state.attempt, 'failed attempt')}"
    if state.last_error is None or state.error_code == WORKER_LOST:
        return ""
    return f", because attempt {state.attempt} failed with {short(state.last_error)}"


def _last_error(record: SagaRecord) -> str:
    error = record.state.last_error
    return "" if error is None else f", with the last error {short(error)}"


def _left_done(record: SagaRecord) -> str:
    left = [each for each in record.outputs if each.kind is EntryKind.COMPENSATION_SKIPPED]
    if not left:
        return ""
    steps = ", ".join(f"'{each.step_id}'" for each in left)
    return f", except {steps}, whose compensation a person has skipped"


def _pivot_done(record: SagaRecord, registry: Registry) -> str | None:
    """Return the pivot's id if it is done, by the definition that drives the saga from here."""
    live = _alive(record, registry)
    if live is None or not live.definition.is_past_pivot(live.outputs):
        return None
    pivot = live.definition.pivot
    return None if pivot is None else pivot.step_id


def _can_roll_back(record: SagaRecord, registry: Registry) -> bool:
    if any(Recorded.of(each) is not None for each in record.outputs):
        return _pivot_done(record, registry) is None
    live = _alive(record, registry)
    return live is not None and begun_step(live.definition, live.state) is not None


def _alive(record: SagaRecord, registry: Registry) -> LiveSaga | None:
    """Return the saga as it would be driven from here; None if it cannot be."""
    try:
        return bring_to_life(record, registry, PayloadLimits())
    except (SagaDefinitionError, PayloadError):
        return None


def _suspicion(record: SagaRecord) -> str:
    if not is_suspect(record):
        return ""
    if record.reclaims >= SUSPECT_AFTER:
        lost = f"it was taken over {times(record.reclaims, 'time')} since its last commit"
    else:
        lost = "workers were lost with it before"
    return f"; {lost}, so it is a suspect, driven apart from other suspects"


def _next_driver(record: SagaRecord, registry: Registry) -> str:
    gap = _gap(record, registry)
    if gap is not None:
        return f"; nobody here can drive it, because {gap}"
    route = registry.route(as_driven(record))
    moves = "" if route is None else f", which moves it to version '{route.target.version}'"
    return f"; it waits for a worker to claim it{moves}"


def _deadline(record: SagaRecord, registry: Registry) -> str:
    """Say what becomes of forward work that has a deadline."""
    state = record.state
    if state.status.is_terminal or state.is_ending or state.direction is Direction.ROLLBACK:
        return ""
    if _pivot_done(record, registry) is not None:
        return ""  # nothing stops it any more
    try:
        deadline_at = Timing.of(record).deadline_at
    except PayloadError:
        return "; when it is to be done cannot be read"
    if deadline_at is None:
        return ""
    moment = when(record, deadline_at)
    passed = deadline_at <= record.now
    if state.status is SagaStatus.STUCK:
        void = ", which retry_step and skip_step make void" if passed else ""
        return f"; its deadline {'passed' if passed else 'is'} at {moment}{void}"
    if not passed:
        return f"; its deadline is at {moment}"
    if not deadline_applies(state):
        return f"; its deadline passed at {moment} and stops it once it goes on"
    return f"; its deadline passed at {moment}, so no more forward work is done"


def _ways(record: SagaRecord, registry: Registry, ways: list[str]) -> str:
    gap = _gap(record, registry)
    said = ", ".join(ways)
    return said if gap is None else f"{said}, but not from here, because {gap}"


def _gap(record: SagaRecord, registry: Registry) -> str | None:
    """Say why this process cannot drive the saga; None if it can."""
    # A claim goes by the version that a saga was started with, its driver by the one it is of now.
    driven = as_driven(record)
    wanted = driven if registry.knows(record) else record
    if registry.route(wanted) is not None:
        try:
            bring_to_life(record, registry, PayloadLimits())
        except SagaDefinitionError as error:
            return str(error)
        return None
    name, version = wanted.saga_name, wanted.definition_version
    registration = registry.get(name, version)
    if registration is not None:
        try:
            registry.check_children(registration.definition, name)
        except SagaDefinitionError as error:
            return str(error).removesuffix(".")
    if registration is None:
        others = ", ".join(f"'{each}'" for each in registry.versions(name))
        there = f"only version {others} is" if others else "no version is"
        return f"'{name}' version '{version}' is not registered here ({there})"
    differences = registration.definition.differences(wanted.fingerprint)
    if not differences:
        return None
    return (
        f"the definition of '{name}' version '{version}' that is registered here differs from "
        f"the one it was started with: {'; '.join(differences)}"
    )


def _readable(record: SagaRecord) -> bool:
    try:
        decode_json(record.data, what="initial_data")
    except PayloadError:
        return False
    return True
