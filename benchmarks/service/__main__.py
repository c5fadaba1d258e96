"""What the service costs beside the engine alone, and how soon it answers and begins.

    python -m benchmarks.service [throughput] [fairness] [submission] [start] [--json FILE]
    python -m benchmarks.service throughput --through-http --repeats 5
    python -m benchmarks.service submission --store s3://BUCKET/PREFIX
    python -m benchmarks.service start --through-ray

throughput  subjects an hour through a training worker over a folder's store, with all that it
            claims, fetches, decodes, checkpoints and commits, against `train` on the same images,
            by turns in the same process; --through-http: through all of `dti serve`, too, from
            submission to the last token, with a worker that is warm
fairness    a small job of one tenant in a worker that another tenant has filled with ten times as
            many subjects, against the same job alone: from submission to its last commit
submission  jobs of 1,000 subjects over HTTP by the API's own process, against as many jobs of one
            subject; --store: there, too, under a prefix of its own, which is removed
start       of a worker's process, part by part until its first step; --through-ray: of an actor
            that `dti serve` starts because of a job, too

All in a row unless some are named. Times are of this machine; shares and ratios carry over. Run it
on a machine that does nothing else.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.service import fairness, start, submission, throughput
from dti_engine.devices import find_device
from dti_engine.files import environment

PARTS = {
    "throughput": throughput,
    "fairness": fairness,
    "submission": submission,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    group = parser.add_argument_group("throughput and fairness")
    group.add_argument("--subjects", type=int, default=12)
    group.add_argument("--slots", type=int, default=4)
    group.add_argument("--steps", type=int, default=60, help="of each subject")
    group.add_argument("--repeats", type=int, default=5, help="rounds")
    group.add_argument(
        "--checkpoint",
        type=float,
        default=3,
        help="seconds between two of a subject; workers take 30, but subjects of the miniature "
        "take seconds",
    )
    group.add_argument("--through-http", action="store_true", help="throughput")
    group.add_argument(
        "--small", type=int, default=2, metavar="N", help="fairness: subjects of the small job"
    )
    group = parser.add_argument_group("submission")
    group.add_argument("--jobs", type=int, default=50)
    group.add_argument("--job-subjects", type=int, default=1000, metavar="N", help="of each job")
    group.add_argument("--at-once", type=int, default=8, help="requests, for jobs of one subject")
    group.add_argument("--store", metavar="URL", help="besides a folder")
    group = parser.add_argument_group("start")
    group.add_argument("--starts", type=int, default=3)
    group.add_argument("--through-ray", action="store_true")
    options = parser.parse_args()
    if options.jobs < 2:
        parser.error("give at least 2 jobs")
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes that are started
    console, load = Console(), os.getloadavg()[0]
    figures: dict[str, Any] = {"environment": environment(find_device("auto"), load=f"{load:.1f}")}
    for name in PARTS if "all" in options.parts else options.parts:
        # Short, as Ray makes sockets in such folders.
        with tempfile.TemporaryDirectory(prefix="dti-") as folder:
            figures[name] = PARTS[name].measure(options, Path(folder))
        PARTS[name].show(console, figures[name])
    console.print(f"{os.cpu_count()} cores, {options.threads} threads, load {load:.1f} before it")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
