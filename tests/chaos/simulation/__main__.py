"""Command line: run schedules by their seeds, or one again with its log.

    python -m chaos.simulation 200000             seeds 0 to 199999, on all cores
    python -m chaos.simulation --seed 318         one, and everything that happened in it
    python -m chaos.simulation --mutant "overwrite at commit" 500

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

from chaos.simulation.mutants import MUTANTS, simulate_mutant
from chaos.simulation.schedules import SimulationResult

_CHUNK = 20


def main() -> int:
    """Return 1 if an invariant was violated; with a mutant, if none was."""
    arguments = _arguments()
    console = Console(highlight=False, soft_wrap=True)
    if arguments.seed is not None:
        result = simulate_mutant((arguments.seed, arguments.mutant), log=True)
        console.print(result.log, markup=False)
        _print_violations(console, result, arguments.mutant)
        return bool(result.violations)
    seeds = range(arguments.first, arguments.first + arguments.count)
    begun, broken, totals = time.monotonic(), 0, [0, 0, 0, 0]
    for result in _with_progress(
        _simulate(seeds, arguments.mutant, arguments.processes), len(seeds)
    ):
        figures = (result.items, result.attempts, result.crashes, result.requests)
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        if result.violations:
            broken += 1
            if broken <= arguments.show:
                _print_violations(console, result, arguments.mutant)
    items, attempts, crashes, requests = totals
    console.print(
        f"{len(seeds):,} schedules, {broken:,} with violations: {items:,} items, "
        f"{attempts:,} attempts, {crashes:,} crashed processes, {requests:,} requests; "
        f"{time.monotonic() - begun:,.0f} s"
    )
    return bool(broken) != bool(arguments.mutant)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chaos.simulation",
        description="Simulate a service whose processes crash and whose store fails, by seeds.",
    )
    parser.add_argument("count", nargs="?", type=int, default=1000, help="schedules (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--seed", type=int, help="this one alone, and print all that happens")
    parser.add_argument(
        "--mutant", choices=list(MUTANTS), help="a ledger that is broken on purpose"
    )
    parser.add_argument("--show", type=int, default=5, help="schedules to describe (5)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="at a time (one a core)"
    )
    return parser.parse_args()


def _simulate(seeds: range, mutant: str | None, processes: int) -> Iterable[SimulationResult]:
    tasks = ((seed, mutant) for seed in seeds)
    if processes == 1:
        yield from map(simulate_mutant, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(simulate_mutant, tasks, chunksize=_CHUNK)


def _with_progress(results: Iterable[SimulationResult], count: int) -> Iterable[SimulationResult]:
    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(results, total=count)


def _print_violations(console: Console, result: SimulationResult, mutant: str | None) -> None:
    for line in result.violations:
        console.print(f"seed {result.seed}: {line}", markup=False)
    if result.violations:
        again = f"--seed {result.seed}" + (f' --mutant "{mutant}"' if mutant else "")
        console.print(f"    all of it: python -m chaos.simulation {again}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
