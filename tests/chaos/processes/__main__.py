"""Kill and stop the ledger's processes for many rounds, and check what is left.

    python -m chaos.processes URL [--rounds 100] [--seed 1] [--folder LOGS] \
        [--crash COMMAND --up COMMAND]
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from chaos.processes.generator import Plan
from chaos.processes.rounds import Crash, Verdict, remove_store, run_round
from chaos.processes.summary import table

_CONTROL = "DTI_TEST_S3_CTL"
"""Environment variable: a tool which kills the store by `crash`, and starts it again by `up`."""


def _arguments() -> argparse.Namespace:
    tool = os.environ.get(_CONTROL)
    parser = argparse.ArgumentParser(prog="python -m chaos.processes", description=__doc__)
    parser.add_argument("url", help="a store: each round has a folder or prefix of its own in it")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=12, help="with faults, in each round")
    parser.add_argument("--lease", type=float, default=3)
    parser.add_argument("--look", type=float, default=0.2)
    parser.add_argument("--gap", type=float, default=0.4, help="between requests of a client")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--limit", type=float, default=120, help="seconds until all has ended")
    parser.add_argument("--folder", type=Path, help="for logs; kept in any case, if given")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument(
        "--crash",
        default=f"{tool} crash" if tool else None,
        help=f"kills the store; by default from {_CONTROL}",
    )
    parser.add_argument("--up", default=f"{tool} up" if tool else None, help="starts it again")
    parser.add_argument("--every", type=int, default=3, help="which rounds have a crash; 0: none")
    given = parser.parse_args()
    if bool(given.crash) != bool(given.up):
        parser.error("--crash and --up are given together, or neither is")
    return given


def main() -> int:
    given = _arguments()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    crash = Crash(given.crash, given.up) if given.crash and given.url.startswith("s3:") else None
    verdicts: list[Verdict] = []
    for number in range(given.rounds):
        name = f"{given.seed}-{number:03d}"
        plan = Plan(
            url=f"{given.url.rstrip('/')}/{folder.name}-{name}",
            seed=name,
            seconds=given.seconds,
            lease=given.lease,
            look=given.look,
            gap=given.gap,
            workers=given.workers,
            limit=given.limit,
        )
        crashes = crash if given.every and number % given.every == given.every - 1 else None
        verdict = run_round(plan, folder / name, crashes)
        verdicts.append(verdict)
        print(f"round {name}: {verdict.figures.line()}", flush=True)
        for found in verdict.violations:
            print(f"  VIOLATION {found[:1000]}", flush=True)
        if not verdict.violations:
            remove_store(plan.url)
            if not given.folder:
                shutil.rmtree(folder / name)
    broken = sum(bool(verdict.violations) for verdict in verdicts)
    print(table([verdict.figures for verdict in verdicts]))
    if given.json:
        said = [dataclasses.asdict(verdict) for verdict in verdicts]
        given.json.write_text(json.dumps(said, indent=1))
    if broken:
        print(f"{broken} of {len(verdicts)} rounds found violations: see {folder}", file=sys.stderr)
        return 1
    print("no violations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
