"""Command line: inject faults into processes of the ledger for many rounds, and check each.

python -m chaos.processes URL [--rounds 100] [--seed 1] [--crash COMMAND --restart COMMAND]
"""

import argparse
import os
import sys
from dataclasses import asdict, replace

from chaos.config import RoundConfig
from chaos.processes.report import RoundStatistics, table
from chaos.processes.rounds import StoreCommands, run_round
from chaos.report import Report, make_parser, own_store, parse_arguments, remove_store
from dti_engine.errors import DTIError

_CONTROL = "DTI_TEST_S3_CTL"
"""Environment variable: a tool that kills the store by `crash`, and starts it again by `up`."""
_OPTIONS = {
    "fault_duration_s": "how long faults are injected in each round",
    "lease_s": "how long a worker's lease lasts",
    "poll_interval_s": "how often workers look for work",
    "request_interval_s": "mean time between operations of a client",
    "workers": "number of workers",
    "completion_timeout_s": "time in which all jobs must end after the faults",
}


def _arguments() -> argparse.Namespace:
    tool = os.environ.get(_CONTROL)
    parser = make_parser("python -m chaos.processes", __doc__ or "", _OPTIONS, RoundConfig("", ""))
    parser.add_argument(
        "--crash",
        default=f"{tool} crash" if tool else None,
        help=f"command that kills the store; by default from {_CONTROL}",
    )
    parser.add_argument(
        "--restart", default=f"{tool} up" if tool else None, help="command that starts it again"
    )
    parser.add_argument(
        "--crash-every", type=int, default=3, help="crash the store in every n-th round; 0: never"
    )
    arguments = parse_arguments(parser)
    if bool(arguments.crash) != bool(arguments.restart):
        parser.error("--crash and --restart are given together, or neither is")
    return arguments


def main() -> int:
    """Run all rounds; return 0 without violations, 1 with some, 2 for a wrong URL."""
    arguments = _arguments()
    try:
        store = own_store(arguments.url)
    except DTIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config = RoundConfig(store, "", **{name: getattr(arguments, name) for name in _OPTIONS})
    commands = None
    if arguments.crash and store.startswith("s3:"):
        commands = StoreCommands(arguments.crash, arguments.restart)
    report = Report(config, arguments.json)
    statistics: list[RoundStatistics] = []
    every = arguments.crash_every
    for number in range(arguments.rounds):
        name = f"{arguments.seed}-{number:03d}"
        url = f"{store}/{name}"
        crashes = commands if every and number % every == every - 1 else None
        result = run_round(replace(config, url=url, seed=name), arguments.folder / name, crashes)
        statistics.append(result.statistics)
        report.add(
            name,
            result.statistics.summary(),
            result.violations,
            statistics=asdict(result.statistics),
        )
        if not (result.violations or arguments.keep):
            remove_store(url)
    print(table(statistics))
    return report.finish(store, arguments)


if __name__ == "__main__":
    sys.exit(main())
