"""The command line: `python -m benchmarks compare|growth|idle|retention`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import Contender, Settings, compare, missed_bounds, table
from benchmarks.environments import EnvironmentMissingError
from benchmarks.growth import growth, idle
from benchmarks.retention import percentile, retention
from saga_testing.servers import ServerError

BACKENDS = ("postgresql", "sqlite", "redis", "memory")
SAGAS = {"postgresql": 3200, "sqlite": 1600, "redis": 6400, "memory": 6400}
GROWTH_BOUND = 0.8
RETENTION_BOUND = 1.5


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser(
        "compare", help="sagas of three no-op steps: ours, the floor, and the old library"
    )
    one.add_argument("--backend", choices=BACKENDS, required=True)
    one.add_argument("--sagas", type=_positive, help="sagas in a round (default: by backend)")
    one.add_argument("--concurrency", type=_positive, default=16, help="default: %(default)s")
    one.add_argument("--rounds", type=_positive, default=5, help="default: %(default)s")
    one.add_argument("--without-old", action="store_true", help="leave out the old library")
    one.add_argument("--check", action="store_true", help="exit with 1 if a bound is missed")
    one.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    two = commands.add_parser("growth", help="steps/s of 200-step sagas against 5-step sagas")
    two.add_argument("--backend", choices=BACKENDS, required=True)
    two.add_argument("--rounds", type=_positive, default=5, help="default: %(default)s")
    two.add_argument("--check", action="store_true", help="exit with 1 if the bound is missed")
    three = commands.add_parser("idle", help="a poll that finds nothing among waiting sagas")
    three.add_argument("--waiting", type=_positive, default=100_000, help="default: %(default)s")
    four = commands.add_parser("retention", help="claims while a worker deletes what has ended")
    four.add_argument("--finished", type=_positive, default=100_000, help="default: %(default)s")
    four.add_argument(
        "--per-second", type=_positive, default=100, help="sagas started (default: %(default)s)"
    )
    four.add_argument(
        "--seconds", type=_positive, default=20, help="timed before and after (%(default)s)"
    )
    four.add_argument("--check", action="store_true", help="exit with 1 if the bound is missed")
    return parser


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _compare(options: argparse.Namespace) -> int:
    settings = Settings(
        backend=options.backend,
        sagas=options.sagas or SAGAS[options.backend],
        lanes=options.concurrency,
        rounds=options.rounds,
        with_old=not options.without_old,
    )
    contenders = asyncio.run(compare(settings))
    print(
        f"{settings.backend}: sagas of three no-op steps, {settings.lanes} at a time in one "
        f"process, {settings.rounds} rounds in turn"
    )
    _print_table(table(contenders))
    missed = missed_bounds(settings.backend, contenders)
    for line in missed:
        print(f"MISSED: {line}")
    if options.json is not None:
        options.json.write_text(json.dumps([_figures(each) for each in contenders], indent=2))
    return 1 if missed and options.check else 0


def _figures(contender: Contender) -> dict[str, object]:
    return {
        "name": contender.name,
        "sagas_per_second": contender.rates,
        "median": contender.median,
        "round_trips_per_saga": contender.round_trips,
    }


def _growth(options: argparse.Namespace) -> int:
    short, long, ratio = asyncio.run(growth(options.backend, options.rounds))
    print(f"{options.backend}: {short:,.0f} steps/s with 5 steps, {long:,.0f} with 200")
    print(f"ratio {ratio:.2f}; the bound is {GROWTH_BOUND}")
    return 1 if options.check and ratio < GROWTH_BOUND else 0


def _idle(options: argparse.Namespace) -> int:
    milliseconds, plan = asyncio.run(idle(options.waiting))
    print(f"a poll over {options.waiting:,} waiting sagas takes {milliseconds:.2f} ms (median)")
    print(plan)
    return 0


def _retention(options: argparse.Namespace) -> int:
    figures = asyncio.run(retention(options.finished, options.per_second, options.seconds))
    print(
        f"postgresql: {options.finished:,} ended sagas deleted in {figures.seconds:,.1f} s by a "
        f"worker, beside {figures.rate:,.0f} sagas/s of three steps"
    )
    for what, times in (("without", figures.without), ("beside", figures.beside)):
        print(
            f"claims {what}: {len(times):,}, p50 {percentile(times, 50):.2f} ms, "
            f"p99 {percentile(times, 99):.2f} ms"
        )
    print(f"ratio of p99 {figures.ratio:.2f}; the bound is {RETENTION_BOUND}")
    return 1 if options.check and figures.ratio > RETENTION_BOUND else 0


def main() -> int:
    options = _parser().parse_args()
    run = {"compare": _compare, "growth": _growth, "idle": _idle, "retention": _retention}[
        options.command
    ]
    try:
        return run(options)
    except (EnvironmentMissingError, ServerError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
