"""`dti evaluate miniature`: the study of the miniature, whose own scorer reads its images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.table import Table

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, say
from dti_engine.cli.loading import open_backbone
from dti_engine.cli.study import (
    SCORER,
    NumImageSeedsOption,
    NumTrainingSeedsOption,
    QuickOption,
    StepsOption,
    command_line,
    is_miniature,
    study_progress,
    weights_digest,
    write_results,
)
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.protocol import MiniatureProtocol

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.evaluation.results import MiniatureResults

MINIATURE_EXAMPLES = (
    "dti evaluate miniature --output evaluation --quick",
    "nohup dti evaluate miniature --output evaluation > evaluation.log 2>&1 &",
    "dti evaluate miniature --output evaluation-4 --num-training-seeds 4 --json",
)

_SeedOption: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Seed from which the seeds of training and generation derive.")
]


def miniature(
    output: options.OutputFolderOption = Path("evaluation"),
    quick: QuickOption = False,
    num_training_seeds: NumTrainingSeedsOption = None,
    num_image_seeds: NumImageSeedsOption = None,
    steps: StepsOption = None,
    seed: _SeedOption = 0,
    weights: options.MiniatureOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Evaluate DTI on unseen subjects of the miniature's world, beside floor, ceiling and TI.

    The command takes most of an hour on two CPU cores, or a few minutes with --quick. The settings
    of each method are chosen on other subjects than those reported.

    Finished work is kept in DIR: after a stop, the same command continues. Writes DIR/report.md,
    DIR/sheet.png and DIR/results.json, and keeps all tokens, images and scores.
    """
    if not is_miniature(weights):
        raise ConfigurationError(
            f"{weights!r} has no {SCORER}, so nothing can score its images here; evaluate it on "
            "photographs with `dti evaluate photographs`"
        )
    folder = output_folder(output)
    model = open_backbone(weights, device=device, dtype=dtype, compiled=compiled)
    given = {
        "num_training_seeds": num_training_seeds,
        "num_image_seeds": num_image_seeds,
        "steps": steps,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    make = MiniatureProtocol.quick if quick else MiniatureProtocol.standard
    protocol = make(resolution=model.image_size, seed=seed, **changes)
    results = _run(weights, model, protocol, folder)

    from dti_engine.evaluation.miniature_report import report

    command = _command(protocol, model, {"--quick": quick, "--compile": compiled}, folder)
    write_results(
        folder,
        report(results, command=command),
        results.document(),
        None if as_json else _summary(results),
    )


def _run(
    weights: str, model: "Backbone", protocol: MiniatureProtocol, folder: Path
) -> "MiniatureResults":
    from dti_engine.backbones.checkpoint import open_checkpoint
    from dti_engine.evaluation.miniature import MiniatureStudy
    from dti_engine.miniature.scorer import load_scorer

    source = open_checkpoint(weights).folder
    with study_progress() as on_progress:
        study = MiniatureStudy(
            model,
            load_scorer(source / SCORER),
            protocol,
            folder,
            weights_sha256=weights_digest(source),
            on_progress=on_progress,
        )
        num_tokens, num_images = study.count_work()
        say(
            f"{num_tokens:,} tokens to train and {num_images:,} images to generate, minus finished "
            "ones"
        )
        return study.run()


def _command(
    protocol: MiniatureProtocol, model: "Backbone", switches: Mapping[str, bool], folder: Path
) -> str:
    """Return the command line that repeats the study, without paths."""
    values = {
        "--num-training-seeds": protocol.num_training_seeds,
        "--num-image-seeds": protocol.num_image_seeds,
        "--steps": protocol.steps,
        "--seed": protocol.seed,
        "--model": model.name,
        "--dtype": str(model.dtype).removeprefix("torch."),
        "--output": folder.name,
    }
    return command_line("miniature", switches, values.items())


def _summary(results: "MiniatureResults") -> Table:
    table = Table("aim", "reached", "needed", "verdict")
    for aim in results.aims:
        table.add_row(aim.text, f"{aim.reached:.3f}", f"{aim.needed:.3f}", aim.verdict)
    return table
