"""Command line: python -m chaos.service URL [--rounds 50] [--seed 1] [--json FILE]."""

import signal
import sys
from dataclasses import asdict
from pathlib import Path

from chaos.report import Report, make_parser, own_store, parse_arguments
from chaos.service.config import ServiceConfig
from chaos.service.environment import OverdueError, open_environment
from chaos.service.nemesis import draw_faults
from chaos.service.report import summary, table
from chaos.service.rounds import Round, RoundResult
from dti_engine.errors import DTIError

_DESCRIPTION = """\
Run the whole service (API, supervisor, a Ray node, training workers) on a store, and kill its
processes in the middle of jobs. Each round submits a job over HTTP, injects a fault while its items
run, and waits until the job has ended and the service is whole again. The faults are:

  worker      SIGKILL of a training actor's process
  paused      SIGSTOP of one for 1.5 to 2.5 leases, then SIGCONT: a zombie
  supervisor  SIGKILL
  api         SIGKILL; clients repeat their requests
  node        SIGKILL of the whole Ray node: head, daemons, workers

and at times two of them at once. The checks are that every subject has one result and succeeded,
that no result ever changed, that interrupted items were claimed again within a lease and a margin,
and that each token can be downloaded, is what was committed, and is like the reference that was
trained without faults, to a tenth of the angle that another seed makes.
"""

_EPILOG = """\
examples:
  python -m chaos.service /tmp/store --rounds 6       each kind once, and two at once
  python -m chaos.service s3://bucket/prefix --rounds 50 --seed 7 --json rounds.json

S3 is set up by DTI_S3_ENDPOINT and the like (docs/explanation/storage.md), its credentials by
AWS_ACCESS_KEY_ID. Everything is below a new name below URL, and is removed at the end, unless there
was a violation or --keep is given. Exit codes: 0 no violations, 1 violations, 2 bad input.
"""

_OPTIONS = {
    "lease_s": "how long a worker's lease lasts",
    "recovery_margin_s": "time beyond a lease in which interrupted items must be claimed again",
    "steps": "training steps of each subject, which decide how long a round lasts",
    "items": "items of a job",
    "completion_timeout_s": "time in which a round must come to its end",
}


def main() -> int:
    """Run all rounds; return the exit code."""
    # SIGTERM ends the run as Ctrl-C does, which stops the service.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    defaults = ServiceConfig("")
    parser = make_parser(
        "python -m chaos.service", _DESCRIPTION, _OPTIONS, defaults, epilog=_EPILOG
    )
    arguments = parse_arguments(parser)
    if not 1 <= arguments.items <= defaults.subjects:
        parser.error(f"--items is {arguments.items}: give 1 to {defaults.subjects}")
    try:
        store = own_store(arguments.url)
    except DTIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    report = Report(ServiceConfig(store, arguments.seed, **options), arguments.json)
    results: list[RoundResult] = []
    try:
        run(report, results, arguments.folder, arguments.rounds)
    except KeyboardInterrupt:
        report.add_violation("the run was interrupted")
    if results:
        print(table(results))
    return report.finish(store, arguments)


def run(report: Report, results: list[RoundResult], folder: Path, rounds: int) -> None:
    """Run rounds against one service, and add them to the report and the results."""
    left: list[str] = []
    try:
        with open_environment(report.config, folder) as (environment, left):
            count, seed = len(environment.subjects), report.config.seed
            print(f"training {count} subjects without faults, with two seeds", flush=True)
            reference = environment.train_reference()
            done: list[Round] = []
            for number, kinds in enumerate(draw_faults(rounds, seed)):
                done.append(Round(environment, reference, f"{seed}-{number:03d}"))
                result = done[-1].run(kinds)
                results.append(result)
                _add(report, result)
                if result.is_overdue:
                    raise OverdueError(f"the service has not recovered from round {result.name}")
            for finished in done:
                for violation in finished.check_results():
                    report.add_violation(violation)
    except (OverdueError, DTIError) as error:
        report.add_violation(f"the run broke off: {error}")
    for process in left:
        report.add_violation(process)


def _add(report: Report, result: RoundResult) -> None:
    figures = asdict(result)
    figures["ledger_s"] = result.recovery.ledger_s if result.recovery else None
    del figures["name"], figures["violations"]
    report.add(result.name, summary(result), result.violations, **figures)


if __name__ == "__main__":
    sys.exit(main())
