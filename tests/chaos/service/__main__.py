"""python -m chaos.service URL [--rounds 50] [--seed 1] [--lease 6] [--json FILE]"""

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from chaos.processes.rounds import remove_store
from chaos.service.config import Course
from chaos.service.environment import OverdueError, Stage, staged
from chaos.service.nemesis import deal
from chaos.service.report import Report
from chaos.service.rounds import Round
from chaos.service.summary import table
from dti_engine.errors import DTIError
from services.storage.settings import DirectorySettings, store_settings

_ABOUT = """\
Run the whole service (API, supervisor, a Ray node, training workers) on a store, and kill its
processes in the middle of jobs. Each round submits a job over HTTP, hits somebody while its items
run, and waits until all is as before:

  worker      SIGKILL of a training actor's process
  stopped     SIGSTOP of one for 1.5 to 2.5 leases, then SIGCONT: a zombie
  supervisor  SIGKILL
  api         SIGKILL; clients ask again
  node        SIGKILL of the whole Ray node: head, daemons, workers

and at times two of them at once. Then it checks that every subject has ended once and succeeded,
that no result ever changed, that what was in hand was taken up again within a lease and a margin,
and that each token can be downloaded, is what was committed, and is like the one that was learned
undisturbed, to a tenth of what another seed makes of it.
"""

_EXAMPLES = """\
examples:
  python -m chaos.service /tmp/store --rounds 6       each kind once, and two at once
  python -m chaos.service s3://bucket/prefix --rounds 50 --seed 7 --json rounds.json

S3 is set up by DTI_S3_ENDPOINT and the like (docs/explanation/storage.md),
credentials by AWS_ACCESS_KEY_ID.
All of it lies under a name of its own below URL, and is removed at the end, unless something was
wrong or --keep is given. Exit codes: 0 all promises were kept, 1 one was broken, 2 bad input.
"""


def _arguments() -> argparse.Namespace:
    default = Course("")
    parser = argparse.ArgumentParser(
        prog="python -m chaos.service",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="a store: a folder, or s3://BUCKET/PREFIX")
    parser.add_argument("--rounds", type=int, default=50, help="(%(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        default=default.seed,
        help="decides who is hit, and after how much work (%(default)s)",
    )
    parser.add_argument("--lease", type=float, default=default.lease, help="seconds (%(default)s)")
    parser.add_argument(
        "--margin",
        type=float,
        default=default.margin,
        help="seconds beyond a lease in which work has to be taken up again (%(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=default.steps,
        help="of each subject: how long a round lasts (%(default)s)",
    )
    parser.add_argument("--items", type=int, default=default.items, help="a job (%(default)s)")
    parser.add_argument(
        "--limit",
        type=float,
        default=default.limit,
        help="seconds in which a round has to come to its end (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="for all rounds in figures")
    parser.add_argument("--folder", type=Path, help="for logs; kept in any case, if given")
    parser.add_argument("--keep", action="store_true", help="leave the store and the logs there")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}: give 1 or more")
    if not 1 <= given.items <= default.subjects:
        parser.error(f"--items is {given.items}: give 1 to {default.subjects}")
    return given


def main() -> int:
    # What `timeout` and `kill` send is to end as Ctrl-C does, which stops the service.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = _arguments()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        store = _own(given.url)
    except DTIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    course = Course(
        store=store,
        seed=given.seed,
        lease=given.lease,
        margin=given.margin,
        steps=given.steps,
        items=given.items,
        limit=given.limit,
    )
    report = Report(course, given.json)
    try:
        run(report, folder, given.rounds)
    except KeyboardInterrupt:
        report.note("it was stopped")
    if report.verdicts:
        print(table(report.verdicts))
    if report.violations:
        print(
            f"{len(report.violations)} violations. Logs are in {folder}: of each round "
            "violations.txt, journal.jsonl (what came to lie in the store, and when), round.jsonl "
            f"(who was hit); of the service's processes service/. The store is left at {store}",
            file=sys.stderr,
        )
        return 1
    if given.keep:
        print(f"the store is at {store}, logs are in {folder}")
    else:
        remove_store(store)
        if not given.folder:
            shutil.rmtree(folder)
    print("no violations")
    return 0


def run(report: Report, folder: Path, rounds: int) -> None:
    """All of it; what is broken is in the report, and is printed."""
    left: list[str] = []
    try:
        with staged(report.course, folder) as (stage, left):
            _rounds(stage, rounds, report)
    except (OverdueError, DTIError) as error:
        report.note(f"it broke off: {error}")
    for one in left:
        report.note(one)


def _rounds(stage: Stage, rounds: int, report: Report) -> None:
    print(f"learning {len(stage.subjects)} subjects undisturbed, with two seeds", flush=True)
    undisturbed = stage.learn_undisturbed()
    done: list[Round] = []
    for number, kinds in enumerate(deal(rounds, stage.course.seed)):
        done.append(Round(stage, undisturbed, f"{stage.course.seed}-{number:03d}"))
        verdict = done[-1].run(kinds)
        report.add(verdict)
        if verdict.is_overdue:
            raise OverdueError(f"after round {verdict.name} the service is not what it was")
    for one in done:
        for broken in one.look_again():
            report.note(broken)


def _own(url: str) -> str:
    """A folder or prefix of its own. Raises: SettingsError."""
    name = f"kills-{secrets.token_hex(4)}"
    settings = store_settings(url)
    if isinstance(settings, DirectorySettings):
        return str((settings.root / name).absolute())
    return f"{url.rstrip('/')}/{name}"


if __name__ == "__main__":
    sys.exit(main())
