"""Command line, progress output and JSON report of the harnesses with real processes."""

import argparse
import dataclasses
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.config import RoundConfig
from services.storage.settings import DirectorySettings, store_settings

_MAX_LINE_LENGTH = 1000


def make_parser(
    prog: str, description: str, options: Mapping[str, str], defaults: Any, *, epilog: str = ""
) -> argparse.ArgumentParser:
    """Return a parser with the common options, and one for each field of `defaults` in `options`.

    The values of `options` are the help texts.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", metavar="URL", help="a store: a folder, or s3://BUCKET/PREFIX")
    parser.add_argument("--rounds", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="decides the faults (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds to this file")
    parser.add_argument("--folder", type=Path, help="for logs, which are kept then")
    parser.add_argument("--keep", action="store_true", help="keep the store and the logs")
    for name, text in options.items():
        default = getattr(defaults, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{text} (%(default)s)")
    return parser


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, and create the folder of the logs."""
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}: give 1 or more")
    arguments.keep_logs = arguments.keep or arguments.folder is not None
    arguments.folder = arguments.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return arguments


def own_store(url: str) -> str:
    """Return the URL of a new folder or prefix below `url`. Raise SettingsError if it is wrong."""
    name = f"chaos-{secrets.token_hex(4)}"
    settings = store_settings(url)
    if isinstance(settings, DirectorySettings):
        return str((settings.root / name).absolute())
    return f"{url.rstrip('/')}/{name}"


def remove_store(url: str) -> None:
    """Delete everything in the store of a round or run."""
    settings = store_settings(url)
    if isinstance(settings, DirectorySettings):
        shutil.rmtree(settings.root, ignore_errors=True)
        return
    ledger = RoundConfig(url, "").open()
    for page in list(ledger.pages("")):
        ledger.gather(ledger.store.delete, [head.key for head in page.objects])


class Report:
    """The rounds and violations so far, printed as they come and saved after each."""

    def __init__(self, config: Any, path: Path | None) -> None:
        """Report a run with the dataclass `config`, to a JSON file at `path` if there is one."""
        self.config = config
        self.violations: list[str] = []
        self._rounds: list[dict[str, Any]] = []
        self._path = path

    def add(self, name: str, summary: str, violations: Sequence[str], **figures: Any) -> None:
        """Add a round."""
        self._rounds.append({"name": name, "violations": violations} | figures)
        print(f"round {name}: {summary}", flush=True)
        for violation in violations:
            self.add_violation(f"round {name}: {violation}")
        self._save()

    def add_violation(self, violation: str) -> None:
        """Add a violation, of a round or of the run as a whole."""
        self.violations.append(violation)
        print(f"  VIOLATION {violation[:_MAX_LINE_LENGTH]}", flush=True)
        self._save()

    def finish(self, store: str, arguments: argparse.Namespace) -> int:
        """Print the outcome, remove what is not kept, and return the exit code."""
        if self.violations:
            print(
                f"{len(self.violations)} violations. The logs are in {arguments.folder}, the store "
                f"is left at {store}",
                file=sys.stderr,
            )
            return 1
        if not arguments.keep:
            remove_store(store)
        if not arguments.keep_logs:
            shutil.rmtree(arguments.folder)
        print("no violations")
        return 0

    def _save(self) -> None:
        if self._path is None:
            return
        host = {
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        }
        report = {
            "config": dataclasses.asdict(self.config),
            "host": host,
            "violations": self.violations,
            "rounds": self._rounds,
        }
        self._path.write_text(json.dumps(report, indent=1))
