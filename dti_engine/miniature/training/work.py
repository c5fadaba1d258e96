"""The work folder: what has been made so far and how long it took, so that a cut run goes on.

Files are written whole or not at all.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Note = dict[str, float]  # "step": how far a stage has come; "seconds": the time it took


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Put what `write` writes at `path`, once it is complete."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    write(unfinished)
    unfinished.replace(path)


def kept(path: Path, length: int, make: Callable[[], Tensor]) -> Tensor:
    """The tensor at `path` if it is there and that long; else the one that `make` returns, kept."""
    if path.exists():
        found: Tensor = torch.load(path, weights_only=True, mmap=True)
        if len(found) == length:
            return found
    began = time.monotonic()
    made = make()
    write_whole(path, lambda unfinished: torch.save(made, unfinished))
    note(path.parent, path.stem, step=length, seconds=time.monotonic() - began)
    return made


def note(work: Path, stage: str, *, step: int, seconds: float) -> None:
    """Write down how far a stage has come, and the time that it took in all its runs."""
    text = json.dumps({"step": step, "seconds": round(seconds, 1)})
    write_whole(work / f"{stage}.json", lambda unfinished: unfinished.write_text(text))


def noted(work: Path, stage: str) -> Note | None:
    """What was written down about a stage; None if it has not begun."""
    path = work / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else None
