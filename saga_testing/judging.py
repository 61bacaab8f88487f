"""Whether a rehearsed saga has undone what it did, and who has not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from saga_core.definition import SagaDefinition
from saga_core.snapshot import SagaAdminSnapshot
from saga_core.status import EntryKind
from saga_testing.differing import differences
from saga_testing.family import Family
from saga_testing.ledger import CallOutcome, Ledger
from saga_testing.places import Action

__all__ = ["Suspect", "not_undone", "repeated", "suspects"]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A step that has changed the world and not changed it back."""

    step_id: str
    words: str

    def __str__(self) -> str:
        return self.words


def not_undone(
    definition: SagaDefinition, ended: SagaAdminSnapshot, ledger: Ledger
) -> tuple[str, ...]:
    """Return the steps that are on record as done, and whose compensation has not returned."""
    done = {item.step_id for item in ended.step_history if item.kind is EntryKind.COMPLETED}
    return tuple(
        spec.step_id
        for spec in definition.steps
        if spec.step_id in done
        and spec.can_compensate
        and spec.child is None
        and not ledger.made(Action.COMPENSATE, spec.step_id, CallOutcome.RETURNED)
    )


def suspects(family: Family, ledger: Ledger) -> tuple[Suspect, ...]:
    """Return the steps that have changed the world and that nothing has changed back."""
    return tuple(_suspects(family, ledger))


def _suspects(family: Family, ledger: Ledger) -> Iterator[Suspect]:
    known = False
    for spec in reversed(family.steps):
        name = spec.step_id
        if not any(call.changed for call in ledger.made(Action.EXECUTE, name)):
            continue
        undoing = ledger.made(Action.COMPENSATE, name)
        if any(call.changed is None for call in undoing):
            continue  # another step of a parallel saga ran meanwhile
        if not spec.can_compensate:
            words = f"step '{name}' has changed the world and has no compensate"
        elif not undoing:
            words = f"step '{name}' has changed the world and was not compensated"
        elif not any(call.changed for call in undoing):
            words = f"compensate of step '{name}' ran and has changed nothing"
        elif (
            known
            or family.parallel
            or not differences(*ledger.span(Action.EXECUTE, Action.COMPENSATE, name))
        ):
            # Behind a step that has left something the world cannot be what it was before.
            continue
        else:
            words = f"compensate of step '{name}' has undone a part of it only"
            words += _repeated(name, ledger)
        known = True
        yield Suspect(name, words)


def repeated(family: Family, ledger: Ledger) -> tuple[str, ...]:
    """Return what to say of the steps that have done their work more than once."""
    return tuple(
        f"step '{spec.step_id}'{_repeated(spec.step_id, ledger)}"
        for spec in family.steps
        if _repeated(spec.step_id, ledger)
    )


def _repeated(step_id: str, ledger: Ledger) -> str:
    for action in Action:
        times = len(ledger.made(action, step_id, CallOutcome.RETURNED))
        if times > 1 and action is not Action.PROBE:
            return (
                f"; its {action} ran {times} times, which has to come to the same as once "
                "(see ctx.idempotency_key)"
            )
    return ""
