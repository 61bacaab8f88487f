"""`compare`: contenders take turns, round by round, and the medians are set side by side."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import OLD_VERSIONS, python_with
from saga_testing.proxy import postgresql_proxy
from saga_testing.redis_proxy import redis_proxy
from saga_testing.servers import postgresql_server, redis_server

__all__ = ["Contender", "Settings", "compare", "missed_bounds", "table"]

ROOT = Path(__file__).parent.parent
COUNTED_SAGAS = 32


@dataclass(frozen=True)
class Settings:
    """How long and how wide to measure."""

    backend: str
    sagas: int
    lanes: int
    rounds: int
    with_old: bool


@dataclass
class Contender:
    """One row of the table."""

    name: str
    command: list[str]
    share: float = 1.0
    """Of the sagas of a round: slow ones get fewer, so that a round stays short."""
    rates: list[float] = field(default_factory=list)
    round_trips: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def ratio_to(self, other: Contender) -> float:
        """Return the median of the ratios round by round, which a drifting machine spares."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))


@dataclass(frozen=True)
class Bound:
    """A ratio that must be reached."""

    contender: str
    against: str
    least: float


BOUNDS = {
    "postgresql": (
        Bound("ours", "postgresql floor", 0.65),
        Bound("ours", "0.1.1", 10.0),
        Bound("ours on a model", "0.1.1", 4.0),
    ),
    "sqlite": (Bound("ours", "sqlite floor", 0.9),),
    "redis": (Bound("ours", "redis floor", 0.6),),
    "memory": (),
}


async def compare(settings: Settings) -> list[Contender]:
    """Measure all contenders of a backend; the first is ours."""
    contenders = _contenders(settings)
    async with _server(settings.backend) as url:
        if settings.backend in COUNTERS:
            for contender in contenders:
                _say(f"counting round trips: {contender.name}")
                contender.round_trips = await _count_round_trips(settings.backend, contender, url)
        for number in range(settings.rounds):
            # Who comes first changes, so that nobody always has the warmest or coldest machine.
            for contender in contenders[number % 2 :] + contenders[: number % 2]:
                _say(f"round {number + 1} of {settings.rounds}: {contender.name}")
                sagas = max(int(settings.sagas * contender.share), settings.lanes)
                contender.rates.append(await _rate(contender, url, sagas, settings.lanes))
    _say("")
    return contenders


def table(contenders: Sequence[Contender]) -> list[tuple[str, ...]]:
    """Return a header and one row for each contender."""
    ours = contenders[0]
    rows: list[tuple[str, ...]] = [
        ("contender", "sagas/s (median)", "min - max", "round trips/saga", "ours is")
    ]
    for each in contenders:
        trips = "-" if each.round_trips is None else f"{each.round_trips:.1f}"
        rows.append(
            (
                each.name,
                f"{each.median:,.0f}",
                f"{min(each.rates):,.0f} - {max(each.rates):,.0f}",
                trips,
                "" if each is ours else f"{ours.ratio_to(each):.2f} x",
            )
        )
    return rows


def missed_bounds(backend: str, contenders: Sequence[Contender]) -> list[str]:
    """Say which promised ratios were not reached, and by how much."""
    by_name = {contender.name: contender for contender in contenders}
    missed = []
    for bound in BOUNDS[backend]:
        if bound.contender not in by_name or bound.against not in by_name:
            continue
        ratio = by_name[bound.contender].ratio_to(by_name[bound.against])
        if ratio < bound.least:
            missed.append(
                f"{bound.contender} is {ratio:.2f} x {bound.against}; the bound is {bound.least}"
            )
    return missed


def _contenders(settings: Settings) -> list[Contender]:
    def internal(name: str) -> Contender:
        return Contender(name, [sys.executable, "-m", "benchmarks.contenders", name])

    found = [internal("ours"), internal(f"{settings.backend} floor")]
    if settings.backend in ("postgresql", "sqlite"):
        found.append(internal("ours on a model"))
    if settings.backend == "postgresql" and settings.with_old:
        for version in OLD_VERSIONS:
            script = str(ROOT / "benchmarks" / "old_library.py")
            command = [str(python_with(version)), script]
            found.append(Contender(version, command, share=0.08))
    return found


@asynccontextmanager
async def _server(backend: str) -> AsyncIterator[str]:
    if backend == "postgresql":
        with postgresql_server(durable=True) as server:
            yield server.url
    elif backend == "sqlite":
        with tempfile.TemporaryDirectory(prefix="saga-bench-") as folder:
            yield f"sqlite:///{folder}/sagas.db"
    elif backend == "redis":
        with redis_server("--loglevel", "warning") as redis:
            yield redis.url
    else:
        yield "memory://"


async def _rate(contender: Contender, url: str, sagas: int, lanes: int) -> float:
    answer = await _run(contender, url, sagas, lanes)
    return float(answer["sagas"]) / float(answer["seconds"])


async def _count_postgresql(contender: Contender, url: str, sagas: int) -> int:
    async with postgresql_proxy(url) as proxy:
        await _run(contender, proxy.url, sagas, 1)
        return proxy.round_trips


async def _count_redis(contender: Contender, url: str, sagas: int) -> int:
    async with redis_proxy(url) as proxy:
        await _run(contender, proxy.url, sagas, 1)
        return proxy.replies


COUNTERS = {"postgresql": _count_postgresql, "redis": _count_redis}


async def _count_round_trips(backend: str, contender: Contender, url: str) -> float:
    """Run a few sagas through a proxy, twice: the difference leaves out what is done once."""
    few, many = [
        await COUNTERS[backend](contender, url, sagas)
        for sagas in (COUNTED_SAGAS, 3 * COUNTED_SAGAS)
    ]
    return (many - few) / (2 * COUNTED_SAGAS)


async def _run(contender: Contender, url: str, sagas: int, lanes: int) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        *contender.command,
        url,
        str(sagas),
        str(lanes),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{contender.name} failed:\n{errors.decode()[-3000:]}")
    answer: dict[str, float] = json.loads(output.decode().splitlines()[-1])
    return answer


def _say(text: str) -> None:
    """Show where a long run stands, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
