"""The command line of a benchmark: the options that several share, and the file of its figures."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class BenchmarkParser(argparse.ArgumentParser):
    """A parser of options with `--json`, the file of the figures."""

    def __init__(self, documentation: str | None, *, whole: bool = False) -> None:
        """Describe the benchmark by its docstring: by the first line, or by the whole text."""
        text = documentation or ""
        super().__init__(
            description=text if whole else text.partition("\n")[0],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument(
            "--json", type=Path, metavar="FILE", help="write the figures there as well"
        )

    def add_dtype(self) -> None:
        self.add_argument("--dtype", default="auto", help="as of `dti train`")

    def add_model(self) -> None:
        self.add_argument("--model", default="miniature", help="a name, folder or hub id")
        self.add_dtype()

    def add_models(self, default: Sequence[str] | None = None, words: str = "") -> None:
        """Add `--models`: published ones alone if there is neither a default nor words for it."""
        from dti_engine.backbones.registry import catalogue

        names = [*catalogue()]
        choices = ["miniature", *names] if default or words else names
        self.add_argument(
            "--models",
            nargs="+",
            metavar="NAME",
            choices=choices,
            default=default if default or words else names,
            help=f"{'miniature, or ' * (choices != names)}of `dti models`; default: "
            f"{words or ' '.join(default or ['all'])}",
        )


def write_json(path: Path | None, figures: Any) -> None:
    """Write the figures to the file of `--json`, if it was given."""
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def seconds(call: Callable[[], object]) -> float:
    """Return the time of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
