"""The one checker: what happened in a world -> what was wrong with it, a sentence each.

Pure, and independent of `saga_core.decide`. It follows the ledger: `row` says what the store must
hold, `course` how the saga may go, and here is what ties both to who ran what.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from saga_core.errors import SagaNotFoundError, SagaStateError, StoreUnavailableError
from saga_core.records import NewEntry, NewSaga, Signal, Transition
from saga_core.status import EntryKind, SagaStatus, SignalKind
from tests.campaign.bells import Bells, Part
from tests.campaign.course import Course
from tests.campaign.fleet import Fleet
from tests.campaign.ledger import (
    Aged,
    Asked,
    Began,
    Call,
    Ended,
    Endless,
    Ledger,
    Lost,
    Rang,
    Replied,
    row_of,
)
from tests.campaign.plan import Act, Outcome, SagaPlan
from tests.campaign.row import Row
from tests.campaign.standing import Execution
from tests.campaign.waits import Came

__all__ = ["judge", "tally"]


def judge(plan: SagaPlan, ledger: Ledger) -> list[str]:
    """Return what was wrong, in the order in which it happened; nothing for a clean run."""
    return list(dict.fromkeys(_Trial(plan, ledger).violations()))


def tally(plan: SagaPlan, ledger: Ledger) -> Counter[str]:
    """Return how often what a campaign must have met was met."""
    trial = _Trial(plan, ledger)
    for _ in trial.violations():
        pass
    return trial.met


class _Trial:
    def __init__(self, plan: SagaPlan, ledger: Ledger) -> None:
        self.plan = plan
        self.ledger = ledger
        self.row = Row()
        self.lends = ledger.rows is not None
        self.course: Course | Fleet = Fleet(plan) if plan.parallel else Course(plan)
        self.bells = Bells(plan)
        self.met: Counter[str] = Counter()
        self.roused = False
        """Whether somebody is to look at the saga at once, and nobody has since."""
        self.executions: dict[int, Execution] = {}
        self.latest: dict[tuple[str, int, str | None], Execution] = {}
        """The latest execution of each worker under each fence; of each step that is parallel."""
        self.fences: dict[int, str] = {}
        self.keys: dict[tuple[object, ...], str] = {}
        self.refused: list[Replied] = []
        self.granted: set[str] = set()
        """Numbers of the requests that were answered without an error."""

    def violations(self) -> Iterator[str]:
        for happening in self.ledger.happenings:
            match happening:
                case Call():
                    yield from self._call(happening)
                case Began():
                    yield from self._begins(happening)
                case Rang(serial=serial):
                    told = self.row.told.get((happening.worker, happening.fence))
                    rightful = told == self.row.version
                    self.met["hooks begun"] += 1
                    yield from self.bells.rings(happening, self.row.state, rightful=rightful)
                case Ended(serial, outcome) if serial not in self.executions:
                    self.bells.outcomes[serial] = outcome
                case Ended(serial, outcome):
                    self.executions[serial].outcome = outcome
                    self.course.ends(serial)
                    self.met["executions cut short"] += outcome is None
                case Lost(worker, "transaction"):
                    self._loses(worker)
                case Aged(by):
                    self.row.now += by
                case Endless():
                    yield f"the saga never came to rest: it is {self.course.status}"
                case Replied():
                    yield from self._replied(happening)
                case Asked():
                    self.course.asked[happening.number] = happening.what
                    if happening.step is not None:
                        self.course.asked_for[happening.number] = happening.step
                case _:
                    self.met[type(happening).__name__.lower()] += 1
        yield from self._end()

    # --- calls ----------------------------------------------------------------------------------

    def _call(self, call: Call) -> Iterator[str]:
        version = self.row.version
        fence = self.row.fence
        inbox = self.row.came()
        heard = self.row.heard.get((call.worker, fence), 0)
        reclaims = self.row.reclaims
        holder = self.row.holder
        yield from self.row.apply(call)
        self._count(call)
        passed_over = self.row.version != version and holder not in (None, call.worker)
        if self.row.fence != fence or passed_over:
            self.course.changes_hands()
            self.roused = False
        if self.row.version == version:
            return
        request = call.request
        if isinstance(request, Transition):
            kinds = [
                signal.kind for signal in self.row.signals if signal.event_id in request.consumed
            ]
            yield from self.course.obeys(request, kinds)
        if isinstance(request, (NewSaga, Transition)):
            read = -1 if isinstance(request, NewSaga) else request.expected_version
            self.course.earliest = self.row.clock_of(call.worker, fence, read)
            self.course.latest = self.row.now
            known = {came.event_id for came in inbox}
            self.course.inbox = inbox + [c for c in self.row.came() if c.event_id not in known]
            self.course.heard = heard
            if isinstance(request, Transition):
                yield from self.course.uses(request)
            for entry in request.history:
                self.met[entry.kind.value] += 1
                if entry.error_code is not None:
                    self.met[entry.error_code] += 1
            for part in self.bells.parts(request, call.worker, fence):
                if isinstance(part, str):
                    yield part
                else:
                    yield from self._about(request, part, call.worker, fence)
        elif self.row.reclaims > reclaims:
            self.course.takeovers += 1

    def _about(
        self, request: NewSaga | Transition, part: Part, worker: str, fence: int
    ) -> Iterator[str]:
        """Judge what a commit says of the saga itself."""
        for entry in part.history:
            step = entry.step_id if self.plan.parallel else None
            yield from self.course.enters(entry, self.latest.get((worker, fence, step)))
        if part.state is None:
            return
        yield from self.course.fits(part.state)
        if self.row.holder is None and part.state is request.state:
            last = part.history[-1].kind if part.history else None
            # Whoever is to look has not yet, if it was so before.
            woken = bool(self.row.unheard) or last in _DUE_AT_ONCE or self.roused
            yield from self.course.rests(self.row.due, woken=woken)
            self.roused = woken

    def _count(self, call: Call) -> None:
        self.met["lost replies"] += not call.heard
        if call.method == "commit":
            self.met["fenced commits"] += call.error is not None
        elif call.method == "claim_due" and call.error is None:
            self.met["takeovers"] += any(each.reclaimed for each in call.answer.records)
        elif call.method == "renew" and call.error is None:
            self.met["renewals"] += bool(call.answer)
            self.met["refused renewals"] += not call.answer

    # --- executions -----------------------------------------------------------------------------

    def _begins(self, began: Began) -> Iterator[str]:
        execution = Execution(began)
        self.met[f"{began.act.name.lower()} begun"] += 1
        self.met["steps side by side"] += self.course.is_busy
        self.executions[began.serial] = execution
        fence = began.context.fence
        step = f"step_{began.step}" if self.plan.parallel else None
        self.latest[began.worker, fence, step] = execution
        owner = self.fences.setdefault(fence, began.worker)
        if owner != began.worker:
            yield f"{began.worker} and {owner} ran steps under one fence, {fence}"
        told = self.row.told.get((began.worker, fence))
        if (began.worker, fence) in self.row.lost:
            yield f"{began.worker} ran a step although it knew that it held the saga no more"
        elif told is None and fence != self.row.fence:
            # An older fence is right if it was granted: a task that lost its lease may run late.
            yield f"a step was shown fence {fence} instead of {self.row.fence}"
        if told != self.row.version:
            # Somebody else was faster, and it cannot know yet: what it does will be fenced off.
            self.met["stale executions"] += 1
            if fence == self.row.fence and self.row.holder not in (began.worker, None):
                yield f"{began.worker} ran a step under the fence of {self.row.holder}"
            return
        if self.row.holder != began.worker:
            yield f"{began.worker} ran a step, but the saga is held by {self.row.holder}"
        state = self.row.state
        if state is not None and began.context.token != self.course.token_of(began, state):
            yield "a step was shown another token than the one on record"
        yield from self._keyed(began)
        yield from self._unheard(began)
        self.course.earliest = self.row.clock_of(began.worker, fence)
        self.course.latest = self.row.now
        self.course.inbox = self.row.came()
        yield from self.course.begins(began)
        self.met["early events"] += self.course.is_early(began)

    def _loses(self, worker: str) -> None:
        """Take what was done in a transaction that was lost for a failed attempt."""
        self.met["lost"] += 1
        steps = self.plan.steps
        mine = [each for each in self.executions.values() if each.began.worker == worker]
        lent = [each for each in mine if steps[each.began.step].transaction and not each.used]
        if lent:  # else it was the time that ended a wait, and no code ran
            lent[-1].outcome = Outcome.FAIL
            self.met["lost transactions"] += 1

    def _keyed(self, began: Began) -> Iterator[str]:
        work = self.course.work_of(began)
        key = began.context.idempotency_key
        known = self.keys.setdefault(work, key)
        if known != key:
            yield f"one piece of work got two idempotency keys, {known} and {key}"
        if any(other != work and known == key for other, known in self.keys.items()):
            yield f"two pieces of work got one idempotency key, {key}"

    def _unheard(self, began: Began) -> Iterator[str]:
        heard = self.row.heard.get((began.worker, began.context.fence), 0)
        for signal in self.row.signals[:heard]:
            if signal.event_id not in self.row.consumed and signal.kind not in _EVENTS:
                yield f"a step ran although {signal.kind} was in the inbox and its driver knew"

    # --- requests -------------------------------------------------------------------------------

    def _replied(self, reply: Replied) -> Iterator[str]:
        error = reply.error
        if isinstance(error, SagaNotFoundError) and reply.what == "signal" and self.row.has_ended:
            return  # it no longer holds the aggregate by which it was looked for
        if error is not None and not isinstance(error, (SagaStateError, StoreUnavailableError)):
            yield f"{reply.what} raised {type(error).__name__}: {error}"
            return
        if error is None:
            self.granted.add(str(reply.number))
        if reply.what == "signal" and error is None:
            yield from self._signalled(reply)
        if reply.what not in _LEAVES:
            return
        refused = isinstance(error, SagaStateError) or reply.answer is False
        self.met[f"{reply.what} {'refused' if refused else 'granted'}"] += error is None or refused
        if refused:
            self.refused.append(reply)
        elif error is None and not self._recorded(reply) and not self._sent(reply):
            yield f"{reply.what} was granted, but is not on record"

    def _signalled(self, reply: Replied) -> Iterator[str]:
        word = "accepted" if reply.answer.accepted else "duplicate"
        self.met[f"signal {word}"] += 1
        kept = sum(signal.event_id == reply.answer.event_id for signal in self.row.signals)
        if kept != 1:
            yield f"signal {reply.number} is {word}, but {kept} times in the inbox"

    def _recorded(self, reply: Replied) -> int:
        return sum(
            entry.kind in (_LEAVES[reply.what], _HOOK_LEAVES.get(reply.what))
            and _number(entry) == reply.number
            for _, entry in self.row.entries
        )

    def _sent(self, reply: Replied) -> bool:
        if self.plan.parallel and reply.what == "notify":
            # It may lie in the inbox, for the step that waits for it.
            came = (Came.of(each, place=0, at=timedelta(0)) for each in self.row.signals)
            return any(each is not None and each.event.n == reply.number for each in came)
        return any(
            signal.kind not in _EVENTS and json.loads(signal.payload)["actor"] == str(reply.number)
            for signal in self.row.signals
        )

    # --- the end --------------------------------------------------------------------------------

    def _end(self) -> Iterator[str]:
        record = self.ledger.record
        if record is None:
            yield "the saga was never written"
            return
        yield from self.row.fits_record(record)
        yield from self.row.fits_history(self.ledger.history)
        yield from self.row.fits_inbox(self.ledger.inbox)
        yield from self._written()
        for reply in self.refused:
            if self._recorded(reply):
                yield f"{reply.what} was refused, but is on record"
        requests = Counter(
            (entry.kind, _number(entry))
            for _, entry in self.row.entries
            if entry.kind in _LEAVES.values()
        )
        for (kind, number), times in requests.items():
            if times > 1:
                yield f"request {number} is on record {times} times, as {kind}"
        if self.bells.inside and record.state.status is SagaStatus.RUNNING:
            yield "the saga was left in its hook"
        if self.course.status not in _RESTS:
            yield f"the saga was left {self.course.status}"
        status = self.course.status
        self.met[status.value] += 1
        if not status.is_terminal and any(map(self._must_be_heard, self.row.unheard)):
            yield "a command in the inbox was never heard"

    def _written(self) -> Iterator[str]:
        """Compare the rows of steps in transactions with the executions that are on record."""
        if self.ledger.rows is None:  # the store lends no transactions
            return
        kept = (Outcome.OK, Outcome.WAIT, Outcome.SLEEP)
        wanted = Counter(
            row_of(each.began.act, each.began.step, serial)
            for serial, each in self.executions.items()
            if self.plan.steps[each.began.step].transaction
            and each.began.act is not Act.PROBE
            and each.used
            and each.outcome in kept
        )
        found = Counter(self.ledger.rows)
        self.met["rows in transactions"] += found.total()
        for row in found - wanted:
            yield f"a row stands of an execution that is not on record: {row}"
        for row in wanted - found:
            yield f"no row stands of an execution that is on record: {row}"

    def _must_be_heard(self, signal: Signal) -> bool:
        """Tell whether its sender was told that it is on its way.

        One who died, or got no answer from the store, when the command was in the inbox has left
        it to whoever drives the saga next; if it is STUCK by then, nobody does.
        """
        if signal.kind is SignalKind.TYPED_EVENT:
            return False  # it is kept for a step that may come to wait for it
        if signal.kind is SignalKind.EVENT or self.course.status is not SagaStatus.STUCK:
            return True
        return json.loads(signal.payload)["actor"] in self.granted


_RESTS = (SagaStatus.STUCK, SagaStatus.COMPLETED, SagaStatus.COMPENSATED, SagaStatus.FAILED)

_EVENTS = (SignalKind.EVENT, SignalKind.TYPED_EVENT)

_DUE_AT_ONCE = (EntryKind.COMMAND_IGNORED, EntryKind.RESUMED, EntryKind.INPUT_EDITED)
"""After these a driver may look how long a wait still lasts, or whether a saga has to begin."""

_LEAVES = {
    "notify": EntryKind.EVENT,
    "retry_step": EntryKind.RETRY_REQUESTED,
    "skip_step": EntryKind.SKIPPED,
    "compensate_step": EntryKind.COMPENSATION_REQUESTED,
    "skip_compensation": EntryKind.COMPENSATION_SKIPPED,
    "cancel": EntryKind.COMPENSATION_REQUESTED,
    "edit_input": EntryKind.INPUT_EDITED,
    "retry_from": EntryKind.WENT_BACK,
    "pause": EntryKind.PAUSED,
    "resume": EntryKind.RESUMED,
    "abort": EntryKind.ABORTED,
}
"""What a request that is granted leaves in the history."""


_HOOK_LEAVES = {"skip_step": EntryKind.HOOK_SKIPPED}
"""What it leaves instead if it is about a hook."""


def _number(entry: NewEntry) -> int:
    if entry.kind is EntryKind.EVENT:
        number: int = json.loads(entry.input or "{}").get("n", 0)
        return number
    return int(entry.actor or 0)
