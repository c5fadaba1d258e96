"""What both studies of `dti evaluate` share: bars, what weights are known by, what is written.

The study of `dti evaluate` on the miniature, whose own scorer reads its images.
"""

import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from dti_engine.cli.console import notes, output_folder, print_json, print_paths, results, say
from dti_engine.cli.loading import open_backbone
from dti_engine.cli.progress import span
from dti_engine.config import DtypeName
from dti_engine.evaluation.protocol import Protocol

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
    """What to give as --model for the same model: the name or hub id, with its revision, as it
    was given; of a folder its own `name` alone, as a report may be published.
    """
    from dti_engine.backbones.registry import catalogue

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


if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.evaluation.results import Results


def is_miniature(weights: str) -> bool:
    """Whether these weights have a scorer of their own."""
    return weights == "miniature" or (Path(weights).expanduser() / SCORER).is_file()


def evaluate_miniature(
    weights: str,
    output: Path,
    *,
    quick: bool,
    seed: int,
    changes: Mapping[str, int],
    device: str,
    dtype: DtypeName,
    compiled: bool,
    as_json: bool,
) -> None:
    """changes: of the protocol. Raises: what `Study` does, and `open_backbone`."""
    folder = output_folder(output)
    model = open_backbone(weights, device=device, dtype=dtype, compiled=compiled)
    make = Protocol.quick if quick else Protocol.standard
    protocol = make(resolution=model.image_size, seed=seed, **changes)

    from dti_engine.backbones.checkpoint import open_checkpoint
    from dti_engine.evaluation.report import report
    from dti_engine.evaluation.study import Study
    from dti_engine.miniature.scorer import load_scorer

    source = open_checkpoint(weights).folder
    with study_progress() as on_progress:
        study = Study(
            model,
            load_scorer(source / SCORER),
            protocol,
            folder,
            weights_sha256=weights_digest(source),
            on_progress=on_progress,
        )
        num_tokens, num_images = study.amount()
        say(
            f"{num_tokens:,} tokens to train and {num_images:,} images to generate, less what is "
            "done already"
        )
        found = study.run()
    command = _command(protocol, model, quick=quick, compiled=compiled, folder=folder)
    tell(
        folder,
        report(found, command=command),
        found.document(),
        None if as_json else _summary(found),
    )


def _command(
    protocol: Protocol, model: "Backbone", *, quick: bool, compiled: bool, folder: Path
) -> str:
    """The command line that does the same again; without paths, as the report may be published."""
    given = {
        "--seeds": protocol.num_training_seeds,
        "--image-seeds": protocol.num_image_seeds,
        "--steps": protocol.steps,
        "--seed": protocol.seed,
        "--model": model.name,
        "--dtype": str(model.dtype).removeprefix("torch."),
        "--output": folder.name,
    }
    words = [str(word) for option in given.items() for word in option]
    switches = {"--quick": quick, "--compile": compiled}
    return shlex.join(["dti", "evaluate", *(name for name, on in switches.items() if on), *words])


def _summary(found: "Results") -> Table:
    table = Table("aim", "reached", "needed", "verdict")
    for aim in found.aims:
        table.add_row(aim.text, f"{aim.reached:.3f}", f"{aim.needed:.3f}", aim.verdict)
    return table
