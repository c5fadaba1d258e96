"""Run schedules, or one again with its log.

    python -m chaos.simulation 200000             seeds 0 to 199999, on all cores
    python -m chaos.simulation --seed 318         one, and everything that happened in it
    python -m chaos.simulation --variant "overwrite at commit" 500

With tests/ on PYTHONPATH; `make simulate` does that.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chaos.simulation.mutants import VARIANTS, simulate_variant
from chaos.simulation.schedules import Outcome

_CHUNK = 20


def main() -> int:
    """Returns 1 if a promise was broken; with a variant, if none was."""
    arguments = _arguments()
    console = Console(highlight=False, soft_wrap=True)
    if arguments.seed is not None:
        outcome = simulate_variant((arguments.seed, arguments.variant), log=True)
        console.print(outcome.log, markup=False)
        _tell(console, outcome, arguments.variant)
        return bool(outcome.broken)
    seeds = range(arguments.first, arguments.first + arguments.count)
    begun, broken, totals = time.monotonic(), 0, [0, 0, 0, 0]
    for outcome in _watched(_outcomes(seeds, arguments.variant, arguments.processes), len(seeds)):
        figures = (outcome.items, outcome.attempts, outcome.crashes, outcome.requests)
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        if outcome.broken:
            broken += 1
            if broken <= arguments.show:
                _tell(console, outcome, arguments.variant)
    items, attempts, crashes, requests = totals
    console.print(
        f"{len(seeds):,} schedules, {broken:,} with a broken promise: {items:,} items, "
        f"{attempts:,} attempts, {crashes:,} crashed processes, {requests:,} requests; "
        f"{time.monotonic() - begun:,.0f} s"
    )
    return bool(broken) != bool(arguments.variant)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.simulation",
        description="Simulate a service whose processes crash and whose store fails, by seeds.",
    )
    parser.add_argument("count", nargs="?", type=int, default=1000, help="schedules (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seed", type=int, help="this one alone, and print all that happens")
    parser.add_argument("--variant", choices=list(VARIANTS), help="a ledger broken on purpose")
    parser.add_argument("--show", type=int, default=5, help="broken schedules to describe (5)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="at a time (one a core)"
    )
    return parser.parse_args()


def _outcomes(seeds: range, variant: str | None, processes: int) -> Iterable[Outcome]:
    tasks = ((seed, variant) for seed in seeds)
    if processes == 1:
        yield from map(simulate_variant, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(simulate_variant, tasks, chunksize=_CHUNK)


def _watched(outcomes: Iterable[Outcome], count: int) -> Iterable[Outcome]:
    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(outcomes, total=count)


def _tell(console: Console, outcome: Outcome, variant: str | None) -> None:
    for line in outcome.broken:
        console.print(f"seed {outcome.seed}: {line}", markup=False)
    if outcome.broken:
        again = f"--seed {outcome.seed}" + (f' --variant "{variant}"' if variant else "")
        console.print(f"    all of it: python -m chaos.simulation {again}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
