"""`dti evaluate`: how well the miniature is personalized, beside floor, ceiling and baselines."""

import hashlib
import json
import shlex
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dti_engine.commands import options
from dti_engine.commands.inputs import open_backbone
from dti_engine.commands.terminal import notes, output_folder, print_json, print_paths, results, say
from dti_engine.errors import BackboneLoadError
from dti_engine.evaluation.protocol import Protocol

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.evaluation.results import Results
    from dti_engine.evaluation.study import OnProgress

EXAMPLES = (
    "dti evaluate --output evaluation --quick",
    "nohup dti evaluate --output evaluation > evaluation.log 2>&1 &",
    "dti evaluate --output evaluation-4 --seeds 4 --image-seeds 4 --json",
)
_SECONDS_BETWEEN_LINES = 30


def evaluate(
    output: options.OutputFolderOption = Path("evaluation"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="4 of 12 subjects, 2 of 4 settings: does all work?"),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings of each subject.", show_default="2, or 1 with --quick"),
    ] = None,
    image_seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures of each prompt.", show_default="2, or 1 with --quick"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training steps of a token.", show_default="200, or 100 with --quick"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws, in training and painting.")] = 0,
    weights: Annotated[
        str,
        typer.Option(
            "--backbone",
            metavar="NAME",
            help="The miniature, or a folder made by its recipe.",
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Does DTI keep its promises? Scores on the miniature, beside floor, ceiling and standard TI.

    Takes most of an hour on two CPU cores, with --quick a few minutes. What is done is kept in DIR:
    after a stop, the same command goes on. Writes DIR/report.md, DIR/sheet.png and
    DIR/results.json, and keeps all tokens, pictures and scores.
    """
    folder = output_folder(output)
    model = open_backbone(weights, device=device, dtype=dtype)
    given = {"num_training_seeds": seeds, "num_image_seeds": image_seeds, "steps": steps}
    changes = {name: value for name, value in given.items() if value is not None}
    make = Protocol.quick if quick else Protocol.standard
    protocol = make(resolution=model.image_size, seed=seed, **changes)

    from dti_engine.evaluation.report import report
    from dti_engine.evaluation.study import Study
    from dti_engine.miniature.scorer import load_scorer

    source = _miniature_folder(weights)
    with _progress() as on_progress:
        study = Study(
            model,
            load_scorer(source / "scorer.safetensors"),
            protocol,
            folder,
            weights_sha256=_digest(source),
            on_progress=on_progress,
        )
        found = study.run()
    command = _command(protocol, model, quick=quick, folder=folder)
    (folder / "report.md").write_text(report(found, command=command), encoding="utf-8")
    document = found.document()
    (folder / "results.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        results.print(_summary(found))
        print_paths([folder / name for name in ("report.md", "sheet.png", "results.json")])


def _miniature_folder(weights: str) -> Path:
    """Folder of the weights and of the scorer that was trained with them."""
    from dti_engine.backbones.checkpoint import open_checkpoint

    folder = open_checkpoint(weights).folder
    if not (folder / "scorer.safetensors").is_file():
        raise BackboneLoadError(
            f"{weights!r} has no scorer.safetensors; evaluation needs the miniature's weights"
        )
    return folder


def _digest(folder: Path) -> str:
    """sha256 of all weights: scores of one model must not be continued with another."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _command(protocol: Protocol, model: "Backbone", *, quick: bool, folder: Path) -> str:
    """The command line that does the same again; without paths, as the report may be published."""
    given = {
        "--seeds": protocol.num_training_seeds,
        "--image-seeds": protocol.num_image_seeds,
        "--steps": protocol.steps,
        "--seed": protocol.seed,
        "--backbone": model.name,
        "--dtype": str(model.dtype).removeprefix("torch."),
        "--output": folder.name,
    }
    words = [str(word) for option in given.items() for word in option]
    return shlex.join(["dti", "evaluate", *(["--quick"] if quick else []), *words])


@contextmanager
def _progress() -> Generator["OnProgress"]:
    """A bar for each thing that is done; where nobody watches, a line now and then."""
    columns = (
        TextColumn("[cyan]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    tasks = {}
    said_at = -float(_SECONDS_BETWEEN_LINES)
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bars:

        def on_progress(doing: str, done: int, total: int) -> None:
            nonlocal said_at
            if notes.is_terminal:
                if doing not in tasks:
                    tasks[doing] = bars.add_task(doing, total=total)
                bars.update(tasks[doing], completed=done)
            elif done == total or time.monotonic() - said_at >= _SECONDS_BETWEEN_LINES:
                said_at = time.monotonic()
                say(f"{time.strftime('%H:%M:%S')}  {doing}: {done} of {total}")

        yield on_progress


def _summary(found: "Results") -> Table:
    table = Table("aim", "reached", "needed", "verdict")
    for aim in found.aims:
        table.add_row(aim.text, f"{aim.reached:.3f}", f"{aim.needed:.3f}", aim.verdict)
    return table
