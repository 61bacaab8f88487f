"""Commands that reach a saga through its inbox while somebody else drives it."""

from __future__ import annotations

from dataclasses import dataclass

from saga_core.codec import decode_json, encode_json
from saga_core.happening import Operator

__all__ = ["Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """Who asked for it, and why; what is asked for is the signal's kind."""

    by: Operator
    step_id: str | None = None
    """The step that it is about, if it is about one."""
    input: str | None = None
    """That step's new input, JSON."""
    number: int = 0
    """In a rollback, which of the times that the step was done."""

    def encode(self) -> str:
        """Return the signal's payload."""
        parts: dict[str, str | int | None] = {"actor": self.by.actor, "reason": self.by.reason}
        if self.step_id is not None:
            parts["step_id"] = self.step_id
        if self.input is not None:
            parts["input"] = self.input
        if self.number:
            parts["number"] = self.number
        return encode_json(parts, what="command")

    @classmethod
    def decode(cls, payload: str) -> Command:
        """Read a payload that `encode` has made."""
        value = decode_json(payload, what="command")
        by = Operator(actor=value["actor"], reason=value["reason"])
        return cls(by, value.get("step_id"), value.get("input"), value.get("number", 0))
