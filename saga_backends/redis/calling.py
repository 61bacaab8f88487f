"""How a store runs a script, and what the refusals that all scripts share become."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from saga_backends.redis.answers import saga_id_of
from saga_backends.redis.faults import our_errors
from saga_backends.redis.scripts import SCRIPTS
from saga_core.errors import (
    ActiveSagaAlreadyExistsError,
    SagaNotFoundError,
    SagaStateError,
    SchemaError,
)

__all__ = ["ScriptCalls"]


class ScriptCalls:
    """Runs the scripts of one namespace."""

    namespace: str
    _calls: Any
    _where: str
    _prefix: str

    def __init__(self) -> None:
        self._handle = uuid4().hex[:12]
        self._writes = count()

    def _write_id(self) -> str:
        """Return an id for one call: if it is sent twice, the second finds what the first wrote."""
        return f"{self._handle}.{next(self._writes)}"

    async def _run(
        self, verb: str, arguments: Sequence[Any], saga_id: UUID | None = None
    ) -> list[Any]:
        """Return the script's answer; its first item says what kind of answer it is.

        Raises what every script may answer with: an unknown saga, an aggregate that is taken, a
        state that would never be looked at, a key that somebody else has put there.
        """
        with our_errors(self._where):
            answer: list[Any] = await SCRIPTS[verb].run(self._calls, self._prefix, *arguments)
        match answer[0]:
            case "unknown":
                raise SagaNotFoundError(
                    f"no saga {saga_id} in namespace '{self.namespace}' of {self._where}",
                    saga_id=saga_id,
                )
            case "taken":
                raise ActiveSagaAlreadyExistsError(
                    f"saga {answer[1]} is active with aggregation_id {answer[2]!r}: wait for its "
                    "end, or look why it does not end",
                    saga_id=saga_id_of(answer[1]),
                )
            case "behind":
                raise ActiveSagaAlreadyExistsError(
                    f"saga {answer[1]} is before this one in the queue for aggregation_id "
                    f"{answer[2]!r}",
                    saga_id=UUID(answer[1]),
                )
            case "undue":
                raise SagaStateError(
                    f"a saga that is {answer[1]} needs a time at which it is due, or something "
                    "that it waits for",
                    saga_id=saga_id,
                )
            case "foreign":
                _, key, found, expected = answer
                raise SchemaError(
                    f"{self._where}: the key {key!r} holds a {found} where a {expected} belongs: "
                    "something else writes to the keys of this namespace. Nothing was changed",
                    saga_id=saga_id,
                )
        return answer
