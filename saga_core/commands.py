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
    """Which step it is about, where it is about one."""

    def encode(self) -> str:
        """Return the signal's payload."""
        value = {"actor": self.by.actor, "reason": self.by.reason}
        if self.step_id is not None:
            value["step_id"] = self.step_id
        return encode_json(value, what="command")

    @classmethod
    def decode(cls, payload: str) -> Command:
        """Read a payload that `encode` has made."""
        value = decode_json(payload, what="command")
        by = Operator(actor=value["actor"], reason=value["reason"])
        return cls(by, value.get("step_id"))
