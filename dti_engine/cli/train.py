"""`dti train`: bundles of images in, token files out."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from dti_engine.cli import config_options as training
from dti_engine.cli import options
from dti_engine.cli.console import require_extra
from dti_engine.cli.slots import parse_slots
from dti_engine.cli.subjects import plan_subjects, require_domain
from dti_engine.cli.train_run import TrainOptions, train_bundles
from dti_engine.config import MAX_VALIDATION_IMAGES
from dti_engine.files import require_separate
from dti_engine.training.checkpoint_manager import CHECKPOINT_EVERY

EXAMPLES = (
    "dti train photos/rex --initializer dog --output tokens",
    "dti train photos/rex photos/tom --initializer dog --initializer cat -o tokens",
    "dti train photos rex.zip -o tokens --resume",
    "dti train photos --steps 300 --set batch_size=2 --set schedule=cosine -o tokens",
    "dti train photos/rex --initializer dog --model ./stable-diffusion-v1-5 -o tokens",
)

_VALIDATION = "Validation"

_SlotsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--slots",
        metavar="auto|N",
        help="Subjects trained at a time; auto measures which number fits and is fastest.",
        rich_help_panel=training.PANEL,
    ),
]
_CheckpointOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--checkpoint-every",
        min=1,
        metavar="N",
        help="Write a checkpoint of each unfinished subject every N of its steps, to "
        "DIR/checkpoints.",
        rich_help_panel=training.PANEL,
    ),
]
_ResumeOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Skip subjects that are finished in DIR, and continue the rest from checkpoints.",
        rich_help_panel=training.PANEL,
    ),
]
_ValidationOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--validation-images",
        min=0,
        max=MAX_VALIDATION_IMAGES,
        metavar="N",
        help="Generate N images with each token, score them, and flag outliers; 0 skips this.",
        rich_help_panel=_VALIDATION,
    ),
]
_ScorerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        metavar="paper|FOLDER",
        help="Scorer of validation images: [cyan]paper[/] downloads DINOv2 and SigLIP; a folder "
        "holds dinov2-base and siglip-base-patch16-512.",
        rich_help_panel=_VALIDATION,
        show_default="the miniature's own; none for other models",
    ),
]
_KeepEveryOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--keep-every",
        min=1,
        metavar="N",
        help="Keep the token of every N steps too, in DIR/steps, and choose the best by score.",
        rich_help_panel=_VALIDATION,
        show_default="only the last step's is kept",
    ),
]


def train(
    bundles: options.BundlesArgument,
    initializers: options.InitializersOption = None,
    placeholder: options.PlaceholderOption = None,
    output: options.OutputFolderOption = Path("tokens"),
    model: options.ModelOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    recipe: training.RecipeOption = None,
    steps: training.StepsOption = None,
    lr: training.LearningRateOption = None,
    kappa: training.KappaOption = None,
    settings: training.SetOption = None,
    num_vectors: training.VectorsOption = None,
    seed: training.SeedOption = None,
    slots: _SlotsOption = "auto",
    recompute: options.RecomputeOption = False,
    checkpoint_every: _CheckpointOption = CHECKPOINT_EVERY,
    num_validation_images: _ValidationOption = MAX_VALIDATION_IMAGES,
    scorer: _ScorerOption = None,
    keep_every: _KeepEveryOption = None,
    resume: _ResumeOption = False,
    force: options.TrainAnywayOption = False,
    as_json: options.JsonLinesOption = False,
) -> None:
    """Learn each bundle of images as one token.

    A bundle is a folder, zip or tar of one subject's images, and a folder of bundles stands for all
    of them; docs/how-to/bundles.md describes bundle.json. Several bundles train in one batch on one
    model. The command writes one small file per subject, DIR/NAME.safetensors, and prints its path;
    DIR/run.jsonl logs every event. A subject that fails is reported and the others continue; the
    exit code is then 1.

    Ctrl-C and SIGTERM write checkpoints of all unfinished subjects at the end of the step, and
    exit with 130 and 143; a second signal ends at once. The same command with --resume continues,
    also after a crash.
    """
    require_extra("engine")
    # The reader of bundles knows a folder with the log of a run, and leaves it out.
    require_separate([output], bundles, may_be_within=True)
    changes = training.changed_fields(settings or [], steps=steps, lr=lr, kappa=kappa)
    plans = plan_subjects(bundles, placeholder, initializers or [])
    chosen = TrainOptions(
        output=output,
        model=model,
        device=device,
        dtype=dtype,
        compiled=compiled,
        recompute=recompute,
        num_slots=parse_slots(slots),
        num_vectors=num_vectors,
        seed=seed,
        checkpoint_every=checkpoint_every,
        num_validation_images=num_validation_images,
        scorer=scorer,
        keep_every=keep_every,
        resume=resume,
        force=force,
        as_json=as_json,
    )
    if not force:
        require_domain(plans, model)
    # Opening the model may download it, so everything cheap is checked before.
    config = training.training_config(recipe, model, changes)
    raise typer.Exit(train_bundles(plans, config, changes.keys(), chosen))
