"""What became of a family -> what was wrong with it. Knows no rule of the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import UUID

from saga_core import SagaStatus
from saga_core.status import EntryKind
from tests.campaign.kin.household import CHILD_STEPS, Act
from tests.campaign.kin.life import Fate, Member

__all__ = ["judge"]

_DONE = (SagaStatus.COMPLETED, SagaStatus.COMPENSATED)


def judge(fate: Fate) -> list[str]:
    """Return what was wrong; nothing for a clean life."""
    return [line for saga_id in fate.members for line in _judged(fate, saga_id)]


def _judged(fate: Fate, saga_id: UUID) -> Iterator[str]:
    member = fate.members[saga_id]
    who = f"'{member.snapshot.saga_name.rpartition(':')[2]}'"
    children = [fate.members[link.saga_id] for link in member.snapshot.children]
    fate.met[f"{who[1:-1]} {member.status.value}"] += 1
    if member.status not in _DONE:
        yield f"{who} is left {member.status}"
        return
    if fate.plan.hooks and (str(saga_id), member.status.value) not in fate.diary.told:
        yield f"{who} is {member.status}, and nobody was told"
    begun = member.status is SagaStatus.COMPLETED
    if fate.plan.hooks and begun and (str(saga_id), "RUNNING") not in fate.diary.told:
        yield f"{who} was done, and nobody was told that it began"
    yield from _links(who, member, children)
    yield from _ends(who, member, children)
    yield from _effects(who, fate, member)
    if member.status is SagaStatus.COMPENSATED and not (fate.plan.parallel and who == "'parent'"):
        yield from _in_order(who, fate, member, children)


def _links(who: str, member: Member, children: list[Member]) -> Iterator[str]:
    for link, child in zip(member.snapshot.children, children, strict=True):
        parent = child.snapshot.parent
        back = None if parent is None else (parent.saga_id, parent.step_id)
        if back != (member.snapshot.saga_id, link.step_id):
            yield f"a child of {who} takes {back} for its parent"


def _ends(who: str, member: Member, children: list[Member]) -> Iterator[str]:
    """Compare how a saga ended with how its children did."""
    for step_id in CHILD_STEPS:
        mine = [
            child
            for link, child in zip(member.snapshot.children, children, strict=True)
            if link.step_id == step_id
        ]
        ends = [str(child.status) for child in mine]
        done = ends.count(SagaStatus.COMPLETED)
        if member.status is SagaStatus.COMPENSATED:
            if done:
                yield f"{who} is COMPENSATED with the children {ends} at '{step_id}'"
            continue
        if mine and (done != 1 or mine[-1].status is not SagaStatus.COMPLETED):
            yield f"{who} is COMPLETED with the children {ends} at '{step_id}'"
        if mine and step_id in member.snapshot.outputs:
            result, last = member.snapshot.outputs[step_id], mine[-1].snapshot
            if (result["saga_id"], result["outputs"]) != (str(last.saga_id), last.outputs):
                yield f"{who} was given {result}, its child came to {last.outputs}"


def _effects(who: str, fate: Fate, member: Member) -> Iterator[str]:
    """Compare what was done and undone outside with the end on record."""
    acts = [act for act in fate.diary.acts if act.saga_id == member.snapshot.saga_id]
    undone = {act.step_id for act in acts if act.undo}
    if member.status is SagaStatus.COMPLETED:
        if undone:
            yield f"{who} is COMPLETED, and {sorted(undone)} was undone"
        return
    recorded = {each.step_id for each in member.history if each.kind is EntryKind.COMPLETED}
    if kept := sorted(str(each) for each in recorded - undone - set(CHILD_STEPS)):
        yield f"{who} is COMPENSATED, and {kept} was not undone"


def _in_order(who: str, fate: Fate, member: Member, children: list[Member]) -> Iterator[str]:
    """Look at the order of a rollback, the children's included."""
    kinds = (EntryKind.COMPLETED, EntryKind.MAYBE_DONE)
    done = [each.step_id for each in member.history if each.kind in kinds]
    back = [each.step_id for each in member.history if each.kind is EntryKind.COMPENSATED]
    if back != done[::-1]:
        yield f"{who} did {done} and undid {back}"
    acts = fate.diary.acts
    for link, child in zip(member.snapshot.children, children, strict=True):
        if link.step_id not in done or link.saga_id != _result_of(member, link.step_id):
            continue
        fate.met["recalled"] += 1
        inside = _family_of(fate, child)
        at = [number for number, act in enumerate(acts) if act.undo and act.saga_id in inside]
        place = done.index(link.step_id)
        later = [
            number for number, act in _undoing(acts, member) if act.step_id in done[place + 1 :]
        ]
        before = [number for number, act in _undoing(acts, member) if act.step_id in done[:place]]
        if at and later and min(at) < max(later):
            yield f"{who}: a child was undone before what came after it"
        if at and before and max(at) > min(before):
            yield f"{who}: a child was undone after what came before it"


def _result_of(member: Member, step_id: str) -> UUID | None:
    for entry in reversed(member.history):
        if entry.kind is EntryKind.COMPLETED and entry.step_id == step_id:
            return UUID(json.loads(entry.output or "")["saga_id"])
    return None


def _family_of(fate: Fate, member: Member) -> set[UUID]:
    """Return a saga with all below it."""
    found = {member.snapshot.saga_id}
    for link in member.snapshot.children:
        found |= _family_of(fate, fate.members[link.saga_id])
    return found


def _undoing(acts: list[Act], member: Member) -> list[tuple[int, Act]]:
    mine = member.snapshot.saga_id
    return [(number, act) for number, act in enumerate(acts) if act.undo and act.saga_id == mine]
