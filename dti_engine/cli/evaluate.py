"""`dti evaluate`: how well a model is personalized, beside floor and baselines.

The miniature has a study of its own, as its images can be read; see `miniature_study`. All other
models are studied on photographs by the paper's protocol; see `photograph_study`.
"""

from pathlib import Path
from typing import Annotated

import typer

from dti_engine.cli import options
from dti_engine.cli.evaluate_miniature import SCORER, evaluate_miniature, is_miniature
from dti_engine.cli.evaluate_photographs import Choices, evaluate_photographs
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs.subjects import METHODS
from dti_engine.scorers import DINOV2, SIGLIP

EXAMPLES = (
    "dti evaluate --output evaluation --quick",
    "nohup dti evaluate --output evaluation > evaluation.log 2>&1 &",
    "dti evaluate --output evaluation-4 --seeds 4 --image-seeds 4 --json",
    "dti evaluate --model sdxl --subjects dreambooth --output sdxl-evaluation",
    "dti evaluate --model sdxl --subjects dreambooth --methods dti --kappa 5e-5 --kappa 2e-4",
)
_PHOTOGRAPHS = "Photographs (other backbones than the miniature)"


def evaluate(
    output: options.OutputFolderOption = Path("evaluation"),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Few subjects, settings or prompts, and steps: does all work?"
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trainings of each subject.",
            show_default="2 on the miniature, 1 with --quick and on photographs",
        ),
    ] = None,
    image_seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images of each prompt.",
            show_default="2 on the miniature, 4 on photographs, 1 with --quick",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training steps of a token.",
            show_default="200 on the miniature, else recipe; 100 with --quick",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of all draws on the miniature; of the first training on photographs.",
            show_default="0, and 42",
        ),
    ] = None,
    weights: options.ModelOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    subjects: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Bundles of photographs, each with its words in bundle.json.",
            rich_help_panel=_PHOTOGRAPHS,
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="Rows of the table.", rich_help_panel=_PHOTOGRAPHS),
    ] = ",".join(METHODS),
    kappas: Annotated[
        list[float] | None,
        typer.Option(
            "--kappa",
            min=0.0,
            help="A row of DTI for each that is given.",
            rich_help_panel=_PHOTOGRAPHS,
            show_default="recipe",
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="auto|object|live|FILE",
            help="40 for objects or for what lives, by the class noun; or one a line, with {}.",
            rich_help_panel=_PHOTOGRAPHS,
        ),
    ] = "auto",
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Complete settings of training.",
            rich_help_panel=_PHOTOGRAPHS,
            show_default="the backbone's",
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            help="Side of the crops in px.", rich_help_panel=_PHOTOGRAPHS, show_default="recipe"
        ),
    ] = None,
    slots: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Tokens trained at a time; auto tries out how many are fastest, and fit.",
            rich_help_panel=_PHOTOGRAPHS,
        ),
    ] = "auto",
    recompute: options.RecomputeOption = False,
    image_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Denoising steps of an image.",
            rich_help_panel=_PHOTOGRAPHS,
            show_default="50; 20 of flow models and with --quick",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="How strongly prompts are followed.",
            rich_help_panel=_PHOTOGRAPHS,
            show_default="5; 4.5 of flow models",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images generated at once.", rich_help_panel=_PHOTOGRAPHS)
    ] = 4,
    dinov2: Annotated[
        str,
        typer.Option(
            metavar="ID[@REVISION]|FOLDER",
            help="Scores subjects. An id is downloaded.",
            rich_help_panel=_PHOTOGRAPHS,
        ),
    ] = DINOV2,
    siglip: Annotated[
        str,
        typer.Option(
            metavar="ID[@REVISION]|FOLDER",
            help="Scores prompts. An id is downloaded.",
            rich_help_panel=_PHOTOGRAPHS,
        ),
    ] = SIGLIP,
    as_json: options.JsonOption = False,
) -> None:
    """Does DTI keep its promises? Scores beside floor, baselines and, on the miniature, a ceiling.

    The miniature is studied on subjects of its world, which takes most of an hour on two CPU cores,
    with --quick a few minutes. Any other model needs --subjects, and is studied by the paper's
    protocol: DINOv2 and SigLIP score images of each subject in 40 prompts from 4 seeds.

    What is done is kept in DIR: after a stop, the same command goes on. Writes DIR/report.md,
    DIR/sheet.png and DIR/results.json, and keeps all tokens, images and scores.
    """
    given = {"num_training_seeds": seeds, "num_image_seeds": image_seeds}
    changes = {name: value for name, value in given.items() if value is not None}
    if is_miniature(weights):
        if subjects:
            raise ConfigurationError(
                "--subjects is for other backbones: the miniature knows no photographs, and is "
                "studied on subjects of its own world"
            )
        evaluate_miniature(
            weights,
            output,
            quick=quick,
            seed=seed or 0,
            changes=changes | ({} if steps is None else {"steps": steps}),
            device=device,
            dtype=dtype,
            compiled=compiled,
            as_json=as_json,
        )
        return
    if subjects is None:
        raise ConfigurationError(
            f"{weights!r} is not the miniature (it has no {SCORER}), so it is studied on "
            "photographs: give --subjects and a folder of bundles, each with its images and a "
            'bundle.json such as {"initializer": "dog"}; docs/evaluation.md says more'
        )
    evaluate_photographs(
        weights,
        output,
        subjects,
        Choices(
            methods=[name.strip() for name in methods.split(",") if name.strip()],
            kappas=kappas or [],
            prompts=prompts,
            recipe=recipe_name,
            training={"steps": steps, "resolution": resolution},
            protocol=changes
            | {"first_training_seed": seed, "image_steps": image_steps, "guidance": guidance},
            quick=quick,
            slots=slots,
            recompute=recompute,
            compiled=compiled,
            batch_size=batch_size,
            dinov2=dinov2,
            siglip=siglip,
        ),
        device=device,
        dtype=dtype,
        as_json=as_json,
    )
