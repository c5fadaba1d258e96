"""The training service against the engine alone, and its latencies.

    python -m benchmarks.service [throughput] [fairness] [submission] [start] [--json FILE]
    python -m benchmarks.service throughput --through-http --repeats 5
    python -m benchmarks.service submission --store s3://BUCKET/PREFIX
    python -m benchmarks.service start --through-ray

throughput  subjects an hour through a training worker on a folder's store, which claims, fetches,
            decodes, checkpoints and commits, against `train` on the same images in the same process
            --through-http: also through `dti serve`, with a warm worker, from submission to the
            last token
fairness    seconds of a small job of one tenant in a worker that another tenant has filled with ten
            times as many subjects, against the same job alone, from submission to its last commit
submission  milliseconds of submitting a job of 1,000 subjects over HTTP to a process of the API,
            against as many jobs of one subject
            --store: also on that store, under a new prefix, which is removed
start       seconds from the start of a worker's process to its first step, in parts
            --through-ray: also of an actor that `dti serve` starts for a job

Throughput and fairness are measured in n = 5 rounds (--repeats), submission with 50 jobs (--jobs),
start 3 times (--starts); medians are shown. All parts run unless some are named. Times are of this
machine; shares and ratios carry over. Run the benchmark on a machine without other load.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.command_line import BenchmarkParser, write_json
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
    parser = BenchmarkParser(__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    group = parser.add_argument_group("throughput and fairness")
    group.add_argument("--subjects", type=int, default=12)
    group.add_argument("--slots", type=int, default=4)
    group.add_argument("--steps", type=int, default=60, help="of each subject")
    group.add_argument("--repeats", type=int, default=5, help="rounds")
    group.add_argument(
        "--checkpoint",
        type=float,
        default=3,
        help="seconds between checkpoints of a subject; workers take 30, but a subject "
        "of the miniature takes only a few seconds",
    )
    group.add_argument("--through-http", action="store_true", help="throughput only")
    group.add_argument(
        "--small", type=int, default=2, metavar="N", help="fairness: subjects of the small job"
    )
    group = parser.add_argument_group("submission")
    group.add_argument("--jobs", type=int, default=50)
    group.add_argument("--job-subjects", type=int, default=1000, metavar="N", help="of each job")
    group.add_argument(
        "--at-once", type=int, default=8, help="concurrent requests of jobs of one subject"
    )
    group.add_argument("--store", metavar="URL", help="measured besides a folder")
    group = parser.add_argument_group("start")
    group.add_argument("--starts", type=int, default=3)
    group.add_argument("--through-ray", action="store_true")
    options = parser.parse_args()
    if options.jobs < 2:
        parser.error("give at least 2 jobs")
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes that are started
    console, load = Console(), os.getloadavg()[0]
    figures: dict[str, Any] = {"environment": environment(find_device("auto"), load=f"{load:.1f}")}
    for name in PARTS if "all" in options.parts else options.parts:
        # A short name, because the path of a socket that Ray creates in the folder has a limit.
        with tempfile.TemporaryDirectory(prefix="dti-") as folder:
            figures[name] = PARTS[name].measure(options, Path(folder))
        PARTS[name].show(console, figures[name])
    console.print(f"{os.cpu_count()} cores, {options.threads} threads, load {load:.1f} before it")
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
