"""Move a saga to the newest version that an upcaster leads to. Reads nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saga_core.branches import standing
from saga_core.codec import PayloadCodec, PayloadLimits, decode_json, encode_json
from saga_core.decide import decide
from saga_core.definition import SagaDefinition
from saga_core.errors import PayloadError, SagaDefinitionError
from saga_core.failure import describe
from saga_core.happening import Mapped, MovedToVersion
from saga_core.inflight import done_step, doubtful, payload, yet_to_be_undone
from saga_core.live import LiveSaga, Unwritten
from saga_core.records import KEY, NewEntry, SagaRecord, StoredSignal
from saga_core.registry import Registry, Route
from saga_core.rollback import begun_step
from saga_core.status import Direction, EntryKind
from saga_core.timing import AT_START
from saga_core.upcaster import DoneStep, SagaInFlight
from saga_core.versions import Move, NewOutput, as_driven, tag_of

__all__ = ["bring_to_life"]


def bring_to_life(
    record: SagaRecord,
    registry: Registry,
    limits: PayloadLimits,
    heard: Sequence[StoredSignal] = (),
    *,
    upcast: bool = True,
) -> LiveSaga:
    """Return a saga with the definition that drives it here, upcast where an upcaster applies.

    What an upcast has to write lies in `LiveSaga.unwritten`. `heard` is the inbox as far as it was
    seen. Raises `SagaDefinitionError` if the definition, or one of a child, is not here, or has
    changed, and for an upcaster that raises or returns what does not fit the new version. Without
    `upcast` the saga is left in its version, fit to be ended but not to be driven.
    """
    try:
        driven = as_driven(record)
    except PayloadError as error:
        raise SagaDefinitionError(str(error), saga_id=record.saga_id) from error
    if not upcast:
        return _as_it_is(driven, registry, limits, heard)
    entries: list[NewEntry] = []
    while _moves(driven) and (route := registry.route(driven)) is not None:
        try:
            driven, entry = _Upcast(driven, route, limits, tuple(heard)).apply()
        except _RefusedError as refused:
            raise SagaDefinitionError(
                f"saga {record.saga_id} cannot be moved from version "
                f"'{driven.definition_version}' of '{driven.saga_name}' to version "
                f"'{route.target.version}': {refused}",
                saga_id=record.saga_id,
            ) from refused.__cause__
        entries.append(entry)
    live = LiveSaga(driven, registry.resolve(driven), limits, tuple(heard))
    registry.check_children(live.definition, live.saga_name, record.saga_id)
    if entries:
        live.unwritten = Unwritten(tuple(entries), driven.tags)
    return live


def _moves(record: SagaRecord) -> bool:
    """Tell whether a saga may be moved: one in a hook ends, or begins, in the version it is of."""
    return record.state.step_id is not None and not record.state.in_hook


def _as_it_is(
    driven: SagaRecord, registry: Registry, limits: PayloadLimits, heard: Sequence[StoredSignal]
) -> LiveSaga:
    """Return a saga fit to be ended, with its hooks if its version is here or it can be moved."""
    route = registry.route(driven)
    target = registry.resolve(driven) if route is None else route.target
    if route is not None and target.definition.hooks:
        try:
            return bring_to_life(driven, registry, limits, heard)
        except SagaDefinitionError:
            target = replace(target, definition=replace(target.definition, hooks=()))
    return LiveSaga(driven, target, limits, tuple(heard))


class _RefusedError(Exception):
    """An upcaster did not do what it must."""


class _Upcast:
    """One saga on its way from one version to the next."""

    def __init__(
        self,
        record: SagaRecord,
        route: Route,
        limits: PayloadLimits,
        heard: tuple[StoredSignal, ...],
    ) -> None:
        self._record = record
        self._target = route.target
        self._convert = route.convert
        self._limits = limits
        self._heard = heard
        self._outputs = {
            entry.step_id: entry for entry in yet_to_be_undone(record) if entry.step_id is not None
        }
        self._doubtful = doubtful(record)

    @property
    def _definition(self) -> SagaDefinition:
        return self._target.definition

    def apply(self) -> tuple[SagaRecord, NewEntry]:
        """Return the saga as the new version drives it, and the entry that says so."""
        record = self._record
        if any(entry.kind is EntryKind.VOIDED for entry in record.outputs):
            raise _RefusedError(
                "it went back to an earlier step or input, and what it did before must be undone "
                "by the version that did it"
            )
        if self._definition.parallel or standing(record):
            raise _RefusedError("parallel sagas end with the version that they were started with")
        before = self._in_flight()
        after = self._converted()
        if (after.saga_id, after.direction) != (before.saga_id, before.direction):
            raise _RefusedError("its upcaster returned another saga, or another direction")
        data = self._data(before, after)
        outputs = self._done(after)
        maybe_done = self._maybe_done(after)
        self._check_position(before, after)
        entry = self._entry(before, after, data, outputs, maybe_done)
        written = entry.as_entry(seq=0, version=record.version, at=record.now)
        moved = as_driven(replace(record, outputs=(*record.outputs, written)))
        live = LiveSaga(moved, self._target, self._limits, self._heard)
        happened = MovedToVersion(after.step_id, self._given(before, after, live), entry)
        state = decide(self._definition, record.state, live.outputs, happened).state
        old, new = tag_of(record.definition_version), tag_of(self._target.version)
        tags = (*(tag for tag in record.tags if tag not in (old, new)), new)
        return replace(moved, state=state, tags=tags), entry

    def _entry(
        self,
        before: SagaInFlight,
        after: SagaInFlight,
        data: str,
        outputs: Mapping[str, NewOutput | None],
        maybe_done: Mapping[str, str],
    ) -> NewEntry:
        record = self._record
        move = Move(
            from_version=record.definition_version,
            from_fingerprint=record.fingerprint,
            version=self._target.version,
            fingerprint=self._definition.fingerprint,
            from_step=before.step_id,
            step_id=after.step_id,
            data=None if data == record.data else data,
            outputs=outputs,
            maybe_done=maybe_done,
        )
        try:
            return move.as_entry()
        except PayloadError as error:
            raise _RefusedError(str(error)) from error

    # --- what the upcaster sees -----------------------------------------------------------------

    def _in_flight(self) -> SagaInFlight:
        record = self._record
        state = record.state
        try:
            return SagaInFlight(
                saga_id=record.saga_id,
                saga_name=record.saga_name,
                version=record.definition_version,
                direction=state.direction,
                initial_data=decode_json(record.data, what="initial_data"),
                done={step_id: done_step(entry) for step_id, entry in self._outputs.items()},
                step_id=state.step_id or "",
                step_input=payload(state.step_input),
                maybe_done={step_id: payload(text) for step_id, text in self._doubtful.items()},
            )
        except PayloadError as error:
            raise _RefusedError(str(error)) from error

    def _converted(self) -> SagaInFlight:
        # A copy of its own, so that what it changes in place is seen as a change.
        given = self._in_flight()
        try:
            returned: Any = self._convert(given)
        except Exception as error:
            raise _RefusedError(f"its upcaster raised {describe(error)}") from error
        if not isinstance(returned, SagaInFlight):
            if hasattr(returned, "close"):
                returned.close()  # a coroutine that nobody awaits would warn
            raise _RefusedError(
                f"its upcaster returned {type(returned).__name__}; it must return the "
                "SagaInFlight that it got, changed with dataclasses.replace"
            )
        return returned

    # --- what it returned -----------------------------------------------------------------------

    def _data(self, before: SagaInFlight, after: SagaInFlight) -> str:
        text = self._plain(after.initial_data, "initial_data")
        return self._record.data if text == _plainly(before.initial_data) else text

    def _done(self, after: SagaInFlight) -> Mapping[str, NewOutput | None]:
        if not isinstance(after.done, Mapping):
            raise _RefusedError(f"`done` must be a mapping, got {type(after.done).__name__}")
        known = [spec.step_id for spec in self._definition.steps]
        strange = [step_id for step_id in after.done if step_id not in known]
        if strange:
            raise _RefusedError(
                f"step {strange[0]!r} is done, and version '{self._target.version}' has no such "
                f"step: give what it has put out to one of {', '.join(known)}, or take it out of "
                "`done`, and it is never undone"
            )
        return {
            step_id: self._one(step_id, after.done[step_id])
            for step_id in known
            if step_id in after.done
        }

    def _one(self, step_id: str, done: object) -> NewOutput | None:
        if not isinstance(done, DoneStep):
            raise _RefusedError(
                f"`done` of step '{step_id}' must be a DoneStep, got {type(done).__name__}"
            )
        spec = self._definition.step(step_id)
        stored = self._outputs.get(step_id)
        output = self._text(
            spec.output,
            done.output,
            None if stored is None else stored.output,
            f"the output of step '{step_id}'",
        )
        given = None
        if done.ran:
            what = f"the input of step '{step_id}'"
            old = None if stored is None else stored.input
            if spec.can_compensate:
                given = self._text(spec.input, done.input, old, what)
            elif old is not None and _plainly(done.input) == _plainly(payload(old)):
                given = old  # nothing reads it any more
            else:
                given = self._plain(done.input, what)
        if stored is not None and (given, output) == (stored.input, stored.output):
            return None  # as it is on record
        return NewOutput(given, output)

    def _maybe_done(self, after: SagaInFlight) -> Mapping[str, str]:
        """Return the inputs that are new of what may have been done."""
        given = after.maybe_done
        if not isinstance(given, Mapping):
            raise _RefusedError(f"`maybe_done` must be a mapping, got {type(given).__name__}")
        if set(given) != set(self._doubtful):
            there = ", ".join(f"'{step_id}'" for step_id in self._doubtful) or "no step"
            raise _RefusedError(
                f"{there} may have been done, and that its upcaster cannot change: leave the keys "
                "of `maybe_done` as they are"
            )
        changed = {}
        for step_id, stored in self._doubtful.items():
            if step_id not in (spec.step_id for spec in self._definition.steps):
                continue  # what is wrong with it, its position says
            spec = self._definition.step(step_id)
            text = self._text(spec.input, given[step_id], stored, f"the input of step '{step_id}'")
            if text != stored:
                changed[step_id] = text
        return changed

    def _check_position(self, before: SagaInFlight, after: SagaInFlight) -> None:
        steps = [spec.step_id for spec in self._definition.steps]
        if after.step_id not in steps:
            raise _RefusedError(
                f"it is at step {after.step_id!r}, and version '{self._target.version}' has no "
                f"such step: return a `step_id` that is one of {', '.join(steps)}"
            )
        at = steps.index(after.step_id)
        forward = before.direction is Direction.FORWARD
        behind = [step for step in steps[at + (not forward) :] if step in after.done]
        if behind:
            told = "is done" if forward else "is yet to be undone"
            raise _RefusedError(
                f"step '{behind[0]}' {told} and comes {'not before' if forward else 'after'} step "
                f"'{after.step_id}', where the saga is: move the saga or take it out of `done`"
            )
        missing = [step for step in steps[:at] if step not in after.done]
        if forward and missing:
            raise _RefusedError(
                f"step '{missing[0]}' comes before step '{after.step_id}', where the saga is, and "
                "is not done: add a DoneStep with its output, or move the saga to it"
            )
        if not forward and before.step_id in before.done and after.step_id not in after.done:
            raise _RefusedError(
                f"step '{after.step_id}' is to be undone and has no output in `done`"
            )
        if not forward and before.step_id not in before.done and after.step_id != before.step_id:
            raise _RefusedError(
                f"step '{before.step_id}', which may have been done, is being undone, so its "
                "upcaster must leave it there"
            )
        if forward and after.step_id != before.step_id and self._may_have_been_done():
            raise _RefusedError(
                f"step '{before.step_id}' may have been done, and a rollback would pass it over: "
                "leave the saga there, with a DoneStep for each new step before it"
            )
        waits = self._record.state.waiting_for not in (None, AT_START, KEY)
        if waits and after.step_id != before.step_id:
            raise _RefusedError(
                f"it waits for {self._record.state.waiting_for} at step '{before.step_id}', so "
                "its upcaster must leave it there"
            )

    def _may_have_been_done(self) -> bool:
        """Tell whether a rollback would have to undo the current step, finished or not."""
        step_id = self._record.state.step_id
        known = any(spec.step_id == step_id for spec in self._definition.steps)
        return known and begun_step(self._definition, self._record.state) is not None

    def _given(self, before: SagaInFlight, after: SagaInFlight, live: LiveSaga) -> str | None:
        """Return the current step's input in the new version."""
        stored = self._record.state.step_input
        if before.direction is Direction.ROLLBACK:
            return None
        spec = self._definition.step(after.step_id)
        what = f"the input of step '{spec.step_id}'"
        touched = self._plain(after.step_input, what) != _plainly(before.step_input)
        stays = after.step_id == before.step_id
        if stored is None and stays and not touched:
            return None  # its map had failed, and is called again when somebody asks for it
        if after.step_input is not None and (touched or stays):
            return self._text(spec.input, after.step_input, stored, what)
        if stored is not None and stays and not touched:
            return self._text(spec.input, None, stored, what)
        mapped = live.map_input(spec)
        if isinstance(mapped, Mapped):
            return mapped.text
        raise _RefusedError(mapped.failure.error)

    # --- payloads -------------------------------------------------------------------------------

    def _text(self, codec: PayloadCodec, value: Any, stored: str | None, what: str) -> str:
        """Return a valid value's text, to the letter the stored one if it is the same."""
        try:
            if stored is not None and _plainly(value) == _plainly(payload(stored)):
                codec.decode(stored, what=what)
                return stored
            return codec.encode(value, what=what, limits=self._limits)
        except PayloadError as error:
            raise _RefusedError(f"{error}; its upcaster must convert it") from error

    def _plain(self, value: Any, what: str) -> str:
        try:
            return encode_json(value, what=what, limits=self._limits)
        except PayloadError as error:
            raise _RefusedError(str(error)) from error


def _plainly(value: Any) -> str | None:
    try:
        return encode_json(value, what="value", limits=_ANY_SIZE)
    except PayloadError:
        return None


_ANY_SIZE = PayloadLimits(max_bytes=1 << 40, warn_bytes=1 << 40)
