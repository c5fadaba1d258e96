"""What both studies of `dti evaluate` share: bars, what weights are known by, what is written."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dti_engine.commands.board import span
from dti_engine.commands.terminal import notes, print_json, print_paths, results, say

OnProgress: TypeAlias = Callable[[str, int, int], None]

SCORER = "scorer.safetensors"  # of the miniature, lies beside its weights

_SECONDS_BETWEEN_LINES = 30
# Folders of weights that the engine reads. The hub's cache holds what other programs have fetched
# of the same model as well: other precisions, other parts, all of it in one file.
_PARTS = ("text_encoder", "text_encoder_2", "transformer", "unet", "vae")
_VARIANT = re.compile(r"[.](fp16|bf16)[.-]|non_ema")


@contextmanager
def study_progress() -> Generator[OnProgress]:
    """A bar for each thing that is done; where nobody watches, a line when its first part is done,
    and now and then.

    It is told of each thing before its first part is done: how much was done by earlier starts
    says nothing of the time that the rest takes.
    """
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    tasks = {}
    begun: dict[str, tuple[int, float]] = {}  # what -> how much was done at first, and when
    first: set[str] = set()  # of which the first part is still to come
    said_at = -float(_SECONDS_BETWEEN_LINES)
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bars:

        def on_progress(doing: str, done: int, total: int) -> None:
            nonlocal said_at
            now = time.monotonic()
            if doing not in begun:
                begun[doing] = done, now
                first.add(doing)
            left = _left(done, total, *begun[doing], now)
            if notes.is_terminal:
                if doing not in tasks:
                    tasks[doing] = bars.add_task(doing, total=total, left="")
                bars.update(tasks[doing], completed=done, left=left)
                return
            is_first_part = doing in first and done > begun[doing][0]
            if is_first_part or done == total or now - said_at >= _SECONDS_BETWEEN_LINES:
                said_at = now
                text = f"{time.strftime('%H:%M:%S')}  {doing}: {done} of {total}"
                say(f"{text}, {left}" if left else text)
            if is_first_part:
                first.discard(doing)

        yield on_progress


def _left(done: int, total: int, done_before: int, begun_at: float, now: float) -> str:
    """`0:45:12 left`, by how long this start took so far; empty if nothing tells."""
    if not done_before < done < total:
        return ""
    return f"{span((now - begun_at) / (done - done_before) * (total - done))} left"


def weights_digest(folder: Path) -> str:
    """sha256 of a model's weights: scores of one model must not be continued with another.

    Only of what is read: folders of weights may get other files.
    """
    patterns = [SCORER, *(f"{part}/*.safetensors" for part in _PARTS)]
    return _digest(folder, patterns)


def scorer_digest(folder: Path) -> str:
    """The same of a scorer's weights, in the layout of transformers."""
    return _digest(folder, ["model*.safetensors"])


def _digest(folder: Path, patterns: list[str]) -> str:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    digest = hashlib.sha256()
    for path in sorted(found):
        if _VARIANT.search(path.name):
            continue
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def repeatable_name(weights: str, name: str) -> str:
    """What to give as --backbone for the same model: the name or hub id, with its revision, as it
    was given; of a folder its own `name` alone, as a report may be published.
    """
    from dti_engine.backbones.catalogue import catalogue

    # A short name goes before a folder of the same name.
    is_known = weights.partition("@")[0] in catalogue()
    return name if Path(weights).expanduser().exists() and not is_known else weights


def tell(
    folder: Path, report: str, document: Mapping[str, Any], summary: RenderableType | None
) -> None:
    """Write what came of a study beside its sheet.png; print a summary and where all is, or the
    document as JSON if there is no summary.
    """
    (folder / "report.md").write_text(report, encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    if summary is None:
        print_json(document)
    else:
        results.print(summary)
        print_paths([folder / name for name in ("report.md", "sheet.png", "results.json")])
