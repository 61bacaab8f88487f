"""What `check_saga` has tried and found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from saga_testing.cases import Case

__all__ = ["CheckReport", "Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One case in which the saga has not ended as it must."""

    case: Case
    what: str
    left: tuple[str, ...] = ()
    """How the world differs from what it must be."""
    suspects: tuple[str, ...] = ()
    """Steps that have changed the world and whose compensation has not changed it back."""
    calls: tuple[str, ...] = ()
    """The calls of the steps' methods, in order."""
    reproduce: tuple[str, ...] = ()
    """The lines of a test that shows the same."""

    @property
    def step_id(self) -> str:
        """The step at which something went wrong; the fault may be in another."""
        return self.case.step_id

    def __str__(self) -> str:
        lines = [f"{self.case}: {self.what}"]
        lines += [f"  {line}" for line in (*self.left, *self.suspects)]
        if self.calls:
            lines.append(f"  calls: {'; '.join(self.calls)}")
        if self.reproduce:
            lines += ["  to reproduce:", *(f"    {line}" for line in self.reproduce)]
        return "\n".join(lines)


@dataclass(slots=True)
class CheckReport:
    """All that `check_saga` has done. Its text is for people."""

    cases: list[Case] = field(default_factory=list)
    """Those that were run."""
    unreached: list[Case] = field(default_factory=list)
    """Those whose faults did not happen, because the saga never came there."""
    findings: list[Finding] = field(default_factory=list)
    unguarded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What is left where a step has done its work and failed all the same, by step.

    A rollback passes such a step over unless it has `compensate_when="maybe_done"`.
    """
    notes: list[str] = field(default_factory=list)
    """What was not looked at, and why."""

    @property
    def ok(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        counts = Counter(str(case.boundary) for case in self.cases)
        tried = ", ".join(f"{number} {boundary}" for boundary, number in sorted(counts.items()))
        lines = [
            f"{len(self.cases)} cases ({tried or 'none'}): "
            + ("all as it must be" if self.ok else f"{len(self.findings)} not as it must be")
        ]
        shown: set[tuple[str, tuple[str, ...]]] = set()
        for finding in self.findings:
            # One example of each fault in full; the others would only hide it.
            kind = (finding.what, finding.suspects)
            lines.append(f"{finding.case}: the same" if kind in shown else str(finding))
            shown.add(kind)
        for step_id, left in self.unguarded.items():
            lines.append(
                f"note: if step '{step_id}' does its work and then fails for good, nothing undoes "
                f"it: {'; '.join(left)}"
            )
        if self.unreached:
            lines.append(f"note: the saga never came there: {'; '.join(map(str, self.unreached))}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
