"""Parallel sagas for the rules: who depends on whom is said by names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from saga_core import BaseStep, SagaBuilder, SagaDefinition
from tests.behaviour.cast import Number, Uncertain

__all__ = ["Gate", "joined", "order_of", "parallel"]


def joined(*outs: Number) -> Number:
    """Return the sum of what came before."""
    return Number(n=sum(out.n for out in outs))


def parallel(
    steps: Mapping[str, BaseStep[Number, Number]],
    needs: Mapping[str, Iterable[str]] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> SagaDefinition:
    """Return a parallel saga; `options` are those of single steps, by id."""
    builder = SagaBuilder(
        parallel=True,
        compensate_on_failure=more.pop("compensate_on_failure", True),
        on_branch_failure=more.pop("on_branch_failure", "finish"),
    )
    for step_id, step in steps.items():
        wanted = list((needs or {}).get(step_id, ()))
        own = {**more, **(options or {}).get(step_id, {})}
        if isinstance(step, Uncertain):
            own["compensate_when"] = "maybe_done"
        builder.add_step(
            step=step,
            input_map=joined if wanted else lambda ctx: Number(n=ctx.initial_data["n"]),
            depends_on=wanted or None,
            step_id=step_id,
            **own,
        )
    return builder.build()


def order_of(log: list[str], *lines: str) -> bool:
    """Tell whether the lines stand in the log in this order."""
    places = [next(at for at, each in enumerate(log) if each.startswith(line)) for line in lines]
    return places == sorted(places)


class Gate:
    """Lets steps wait for each other: who passes needs all the others to have come."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._open = asyncio.Event()

    async def __call__(self, *_: Any) -> None:
        self._left -= 1
        if self._left <= 0:
            self._open.set()
        await self._open.wait()
