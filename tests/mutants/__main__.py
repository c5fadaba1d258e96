"""Run mutants: `python -m mutants [NAME ...]`. Exits with 1 if one survives.

Each runs in a copy of the project. Outcomes are kept in a file; a mutant that was killed is not run
again until it, its file or its tests change.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutants.mutant import ROOT, Mutant
from mutants.table import MUTANTS

_COPIED = ("dti_engine", "services", "tests", "helm", "benchmarks", "deploy", "docs")
_COPIED_FILES = ("pyproject.toml", "constraints.txt", "Makefile", "README.md", "Dockerfile")
_TIMEOUT_S = 600.0
_PASSED, _FAILED = 0, 1  # exit statuses of pytest; the others say that it could not run


def main() -> int:
    """Return 1 if a mutant survived or could not be run, and 2 if the tests fail without any."""
    options = _options()
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    chosen = [by_name[name] for name in options.names] or list(MUTANTS)
    known: dict[str, str] = {}
    if options.results.exists() and not options.again:
        known = json.loads(options.results.read_text())
    waiting = [each for each in chosen if known.get(each.name) != each.digest()]
    print(f"{len(chosen)} mutants, {len(chosen) - len(waiting)} of them killed before", flush=True)
    survivors = list[str]()
    with tempfile.TemporaryDirectory(prefix="dti-mutants-") as folder:
        copy = _copy(Path(folder))
        if waiting and (failure := _failure_without_mutants(copy, waiting)):
            print(f"the tests fail without any mutant: repair them first\n{failure}")
            return 2
        for mutant in waiting:
            began = time.monotonic()
            outcome, detail = _run(copy, mutant)
            seconds = time.monotonic() - began
            print(f"{outcome:9} {seconds:6.1f} s  {mutant.name:32} {detail}", flush=True)
            if outcome == "killed":
                known[mutant.name] = mutant.digest()
                options.results.parent.mkdir(parents=True, exist_ok=True)
                options.results.write_text(json.dumps(known, indent=1))
            else:
                survivors.append(mutant.name)
    print(f"{len(chosen) - len(survivors)} killed, {len(survivors)} not: {' '.join(survivors)}")
    return 1 if survivors else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--results", type=Path, default=Path("mutants-output/killed.json"))
    parser.add_argument("--again", action="store_true", help="also those that were killed before")
    options = parser.parse_args()
    if unknown := sorted({*options.names} - {*names}):
        parser.error(f"there is no mutant {', '.join(unknown)}")
    return options


def _copy(folder: Path) -> Path:
    """Return a copy of the project, whose source may be changed."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in _COPIED_FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def _failure_without_mutants(copy: Path, mutants: list[Mutant]) -> str:
    """Return what pytest says if the tests of these mutants fail on the unchanged source."""
    tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
    status, output = _test(copy, list(tests), timeout_s=_TIMEOUT_S * 3)
    return "" if status == _PASSED else output


def _run(copy: Path, mutant: Mutant) -> tuple[str, str]:
    """Return `killed`, `survived` or `broken`, and the test that failed."""
    path = copy / mutant.file
    source = path.read_text()
    path.write_text(mutant.mutated(source))
    try:
        status, output = _test(copy, list(mutant.tests), timeout_s=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "killed", f"by the timeout of {_TIMEOUT_S:g} s"
    finally:
        path.write_text(source)
    if status == _PASSED:
        return "survived", " ".join(mutant.tests)
    if status != _FAILED:
        return "broken", f"pytest ended with {status}: {output[-500:]}"
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "killed", failed[-1].partition(" - ")[0] if failed else ""


def _test(copy: Path, tests: list[str], *, timeout_s: float) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


if __name__ == "__main__":
    sys.exit(main())
