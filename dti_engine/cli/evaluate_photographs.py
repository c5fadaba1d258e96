"""`dti evaluate photographs`: the study of any model on photographs, by the paper's protocol."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.table import Table

from dti_engine.cli import config_options, options
from dti_engine.cli.console import output_folder
from dti_engine.cli.loading import open_backbone
from dti_engine.cli.photograph_study import (
    PhotographOptions,
    find_scorers,
    open_subjects,
    run_study,
    without_path,
)
from dti_engine.cli.study import (
    NumImageSeedsOption,
    NumTrainingSeedsOption,
    QuickOption,
    StepsOption,
    command_line,
    repeatable_name,
    write_results,
)
from dti_engine.config import DtypeName
from dti_engine.evaluation.rows import PHOTOGRAPH_METHODS
from dti_engine.files import require_separate
from dti_engine.scorers import DINOV2, SIGLIP

if TYPE_CHECKING:
    from dti_engine.evaluation.results import PhotographResults

PHOTOGRAPHS_EXAMPLES = (
    "dti evaluate photographs dreambooth --model sdxl --output sdxl-evaluation",
    "dti evaluate photographs dreambooth --model sdxl --methods dti --kappa 5e-5 --kappa 2e-4",
    "dti evaluate photographs dreambooth --model sdxl --quick",
)
_TRAINING = "Training"
_ALL_METHODS = ",".join(PHOTOGRAPH_METHODS)

_SubjectsArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of bundles of photographs; bundle.json of each describes its subject.",
        show_default=False,
    ),
]
_MethodsOption: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME,...", help="Methods to compare, each a row of the table.")
]
_KappasOption: TypeAlias = Annotated[
    list[float] | None,
    typer.Option(
        "--kappa",
        min=0.0,
        help="Value of kappa for DTI; may be repeated, for a row of each value.",
        show_default="recipe",
    ),
]
_PromptsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="auto|object|live|FILE",
        help="Prompts: 40 for objects or for living subjects (auto chooses by the class noun), or "
        "those of a file with one prompt per line, in which {} stands for the subject.",
    ),
]
_RecipeNameOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Name of the complete settings to train with.",
        rich_help_panel=_TRAINING,
        show_default="the model's",
    ),
]
_ResolutionOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="Side of the crops in pixels.", rich_help_panel=_TRAINING, show_default="recipe"
    ),
]
_SeedOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=0, help="Seed of the first training.", rich_help_panel=_TRAINING, show_default="42"
    ),
]
_SlotsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Tokens trained at a time; auto measures which number fits and is fastest.",
        rich_help_panel=_TRAINING,
    ),
]
_ImageStepsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Denoising steps of an image.",
        rich_help_panel=options.GENERATION_PANEL,
        show_default="50; 20 for flow models and with --quick",
    ),
]
_GuidanceOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="How strongly images follow the prompt.",
        rich_help_panel=options.GENERATION_PANEL,
        show_default="5; 4.5 for flow models",
    ),
]
_BatchSizeOption: TypeAlias = Annotated[
    int,
    typer.Option(min=1, help="Images generated at once.", rich_help_panel=options.GENERATION_PANEL),
]
_Dinov2Option: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="ID[@REVISION]|FOLDER",
        help="DINOv2 model that scores subjects; an id is downloaded.",
    ),
]
_SiglipOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="ID[@REVISION]|FOLDER",
        help="SigLIP model that scores prompts; an id is downloaded.",
    ),
]


def photographs(
    subjects: _SubjectsArgument,
    weights: options.ModelOption,
    output: options.OutputFolderOption = Path("evaluation"),
    quick: QuickOption = False,
    methods: _MethodsOption = _ALL_METHODS,
    kappas: _KappasOption = None,
    prompts: _PromptsOption = "auto",
    num_training_seeds: NumTrainingSeedsOption = None,
    num_image_seeds: NumImageSeedsOption = None,
    recipe_name: _RecipeNameOption = None,
    steps: StepsOption = None,
    resolution: _ResolutionOption = None,
    seed: _SeedOption = None,
    slots: _SlotsOption = "auto",
    recompute: options.RecomputeOption = False,
    image_steps: _ImageStepsOption = None,
    guidance: _GuidanceOption = None,
    batch_size: _BatchSizeOption = 4,
    dinov2: _Dinov2Option = DINOV2,
    siglip: _SiglipOption = SIGLIP,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Evaluate methods on photographs by the paper's protocol: DINOv2 and SigLIP scores.

    Every subject is generated in 40 prompts from 4 seeds by every method.

    Finished work is kept in DIR: after a stop, the same command continues, and methods may be added
    later. Writes DIR/report.md, DIR/sheet.png and DIR/results.json, and keeps all tokens, images
    and scores.
    """
    chosen = PhotographOptions(
        weights=weights,
        methods=[name.strip() for name in methods.split(",") if name.strip()],
        kappas=kappas or [],
        prompts=prompts,
        recipe=recipe_name,
        training={"steps": steps, "resolution": resolution},
        protocol={
            "num_training_seeds": num_training_seeds,
            "num_image_seeds": num_image_seeds,
            "first_training_seed": seed,
            "image_steps": image_steps,
            "guidance": guidance,
        },
        quick=quick,
        slots=slots,
        recompute=recompute,
        compiled=compiled,
        batch_size=batch_size,
        dinov2=dinov2,
        siglip=siglip,
    )
    _evaluate(chosen, subjects, output, device, dtype, as_json=as_json)


def _evaluate(
    chosen: PhotographOptions,
    subjects: Path,
    output: Path,
    device: str,
    dtype: DtypeName,
    *,
    as_json: bool,
) -> None:
    """Run the study of the options, and write and print its results."""
    # Everything that can be wrong with options and subjects is refused before the first download.
    chosen.check()
    opened = open_subjects(subjects, prompts=chosen.prompts, quick=chosen.quick)
    require_separate([output], [subjects])
    folder = output_folder(output)
    weights_of = find_scorers(chosen)
    model = open_backbone(chosen.weights, device=device, dtype=dtype)
    chosen = replace(chosen, recipe=chosen.recipe or config_options.own_recipe(chosen.weights))
    results, chosen = run_study(chosen, model, opened, weights_of, folder)

    from dti_engine.evaluation.photograph_report import report

    name = repeatable_name(chosen.weights, model.name)
    write_results(
        folder,
        report(results, command=_command(results, name, chosen, subjects, folder)),
        results.document(),
        None if as_json else _summary(results),
    )


def _command(
    results: "PhotographResults",
    model: str,
    chosen: PhotographOptions,
    subjects: Path,
    folder: Path,
) -> str:
    """Return the command line that repeats the study, without paths."""
    protocol, config = results.protocol, results.protocol["config"]
    values = {
        "--model": model,
        "--dtype": results.environment["dtype"],
        "--methods": ",".join(chosen.methods),
        "--prompts": Path(chosen.prompts).name,
        "--recipe": chosen.recipe,
        "--steps": config["steps"],
        "--resolution": config["resolution"],
        "--num-training-seeds": protocol["num_training_seeds"],
        "--seed": protocol["first_training_seed"],
        "--num-image-seeds": protocol["num_image_seeds"],
        "--image-steps": protocol["image_steps"],
        "--guidance": protocol["guidance"],
        "--slots": chosen.slots,
        "--batch-size": chosen.batch_size,
        "--dinov2": without_path(chosen.dinov2),
        "--siglip": without_path(chosen.siglip),
        "--output": folder.resolve().name,
    }
    switches = {
        "--quick": chosen.quick,
        "--recompute": chosen.recompute,
        "--compile": chosen.compiled,
    }
    kappas = [("--kappa", f"{kappa:g}") for kappa in chosen.kappas]
    line = command_line("photographs", switches, [*values.items(), *kappas])
    return f"{line} {shlex.quote(subjects.resolve().name)}"


def _summary(results: "PhotographResults") -> Table:
    kind = "masked" if results.is_masked else "unmasked"
    table = Table("method", f"image, {kind}", "text", "text, cosine")
    for row in results.rows:
        estimates = (row.main_subject_score, row.prompt_score, row.prompt_cosine)
        cells = (f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in estimates if e)
        table.add_row(row.title, *cells)
    return table
