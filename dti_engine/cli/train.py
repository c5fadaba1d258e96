"""`dti train`: bundles of images in, token files out."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dti_engine.cli import config_options as settings
from dti_engine.cli import options
from dti_engine.cli.console import output_folder, warn
from dti_engine.cli.loading import open_backbone
from dti_engine.cli.resume import refuse_unfinished, set_aside
from dti_engine.cli.run_log import EventLog
from dti_engine.cli.slots import choose_slots, parse_slots, room
from dti_engine.cli.subjects import plan
from dti_engine.cli.summary import Endings
from dti_engine.cli.train_run import run
from dti_engine.config import MAX_VALIDATION_IMAGES
from dti_engine.errors import ConfigurationError
from dti_engine.training.checkpoint_manager import CHECKPOINT_EVERY, CheckpointManager

if TYPE_CHECKING:
    from dti_engine.backbones.interface import Backbone
    from dti_engine.quality.token_scorers import TokenScorer

EXAMPLES = (
    "dti train photos/rex --initializer dog --output tokens",
    "dti train photos/rex photos/tom --initializer dog --initializer cat -o tokens",
    "dti train photos rex.zip -o tokens",
    "dti train photos rex.zip -o tokens --resume",
    "dti train photos/rex --initializer dog --model ./stable-diffusion-v1-5 -o tokens",
)


_TRIALS = "Trials"


def train(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...",
            exists=True,
            help=options.BUNDLE_HELP,
            show_default=False,
        ),
    ],
    initializers: Annotated[
        list[str] | None,
        typer.Option(
            "--initializer",
            "-i",
            metavar="WORD",
            help="The nearest common word: once for all bundles, or once per bundle.",
            show_default="what each bundle.json says",
        ),
    ] = None,
    placeholder: Annotated[
        str | None,
        typer.Option(
            metavar="<NAME>",
            help="The token's name in prompts, if there is one bundle.",
            show_default="what bundle.json says, or the bundle's name",
        ),
    ] = None,
    output: options.OutputFolderOption = Path("tokens"),
    backbone: options.ModelOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    recipe_name: settings.RecipeOption = None,
    method: settings.MethodOption = "dti",
    steps: settings.StepsOption = None,
    batch_size: settings.BatchSizeOption = None,
    resolution: settings.ResolutionOption = None,
    lr: settings.RateOption = None,
    kappa: settings.KappaOption = None,
    magnitude: settings.MagnitudeOption = None,
    captions: settings.CaptionsOption = None,
    num_vectors: settings.VectorsOption = None,
    schedule: settings.ScheduleOption = None,
    averaging: settings.AveragingOption = None,
    patience: settings.PatienceOption = None,
    pooling: settings.PoolingOption = None,
    instruction: settings.InstructionOption = None,
    shift: settings.ShiftOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of every subject.",
            rich_help_panel=settings.PANEL,
            show_default="the bundle's, or 0",
        ),
    ] = None,
    slots: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Subjects trained at a time; auto tries out how many are fastest, and fit.",
            rich_help_panel=settings.PANEL,
        ),
    ] = "auto",
    recompute: options.RecomputeOption = False,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Keep unfinished subjects every N of their steps, in DIR/checkpoints.",
            rich_help_panel=settings.PANEL,
        ),
    ] = CHECKPOINT_EVERY,
    num_probes: Annotated[
        int,
        typer.Option(
            "--validation-images",
            min=0,
            max=MAX_VALIDATION_IMAGES,
            metavar="N",
            help="Try each token out in N images, and flag those that are odd; 0: do not.",
            rich_help_panel=_TRIALS,
        ),
    ] = MAX_VALIDATION_IMAGES,
    judge_name: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            metavar="paper|FOLDER",
            help="Who scores trials: [cyan]paper[/] downloads DINOv2 and SigLIP; a folder holds "
            "dinov2-base and siglip-base-patch16-512.",
            rich_help_panel=_TRIALS,
            show_default="the miniature's own; else nobody",
        ),
    ] = None,
    keep_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Keep tokens every N steps too, in DIR/steps, and take the one that scores best.",
            rich_help_panel=_TRIALS,
            show_default="the last step's is taken",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on: skip what is finished in DIR, start the rest from its checkpoints.",
            rich_help_panel=settings.PANEL,
        ),
    ] = False,
    as_json: options.JsonLinesOption = False,
) -> None:
    """Learn each bundle of images as one token.

    A bundle is a folder, zip or tar; a folder of bundles stands for all of them; docs/bundles.md
    says what bundle.json may say. Writes one small file per subject, DIR/NAME.safetensors, and
    prints its path; DIR/run.jsonl logs all that happens. Several bundles are packed into one run
    over one model. A subject that fails is named and the others go on: the exit code is then 1.

    Ctrl-C and SIGTERM keep all unfinished subjects at the end of the step and exit with 130 and
    143; a second one ends at once. The same command with --resume goes on, after a crash too.
    """
    given = settings.given(
        steps=steps,
        batch_size=batch_size,
        resolution=resolution,
        lr=lr,
        kappa=kappa,
        magnitude=magnitude,
        captions=captions,
        schedule=schedule,
        ema_decay=averaging,
        patience=patience,
        pooling=pooling,
        instruction=instruction,
        shift=shift,
    )
    plans = plan(bundles, placeholder, initializers or [])
    num_slots = parse_slots(slots)
    # Opens the checkpoint, which may be a download, so all that is cheap is checked before.
    config = settings.settings(recipe_name, backbone, method, given)
    # What the command line says goes before a bundle. The miniature knows no captions but its own.
    fixed = given.keys() | ({"captions"} if config.captions == "miniature" else set[str]())
    max_vectors = room([num_vectors, *(each.num_vectors for each in plans.subjects)])
    output = output_folder(output)
    checkpoints = CheckpointManager(
        output / "checkpoints",
        every=checkpoint_every,
        on_save_error=lambda name, error: endings.warn(
            name, f"goes on without a checkpoint: {error}"
        ),
    )
    if resume:
        # Each to the slot that it had, before subjects that had none yet.
        subjects = sorted(plans.subjects, key=lambda each: not checkpoints.path(each.name).exists())
        plans = replace(plans, subjects=subjects)
    else:
        refuse_unfinished(checkpoints, plans.names)
    with EventLog(output, on_lost=warn, echo=as_json) as log:
        model = open_backbone(backbone, device=device, dtype=dtype)
        judge = _find_judge(
            backbone, judge_name, model, must_choose=keep_every is not None and num_probes > 0
        )
        model.recompute = recompute
        num_slots = choose_slots(
            model,
            config,
            wanted=num_slots,
            num_subjects=len(plans.subjects),
            max_vectors=max_vectors,
            earlier_log=log.path if resume else None,
        )
        if compiled:  # not before: every size that is tried would be compiled
            model.compile()
        if not resume:
            set_aside(output, [each.name for each in plans.subjects])
        endings = Endings(output, plans.names, checkpoints, log)
        try:
            run(
                model,
                plans,
                config,
                endings,
                seed=seed,
                num_slots=num_slots,
                num_vectors=num_vectors,
                max_vectors=max_vectors,
                fixed=fixed,
                resume=resume,
                judge=judge,
                num_probes=num_probes,
                keep_every=keep_every,
            )
        finally:  # whatever broke, such as memory that ran out, what is done is told
            endings.tell(as_json=as_json)
    raise typer.Exit(endings.exit_code())


def _find_judge(
    backbone: str, name: str | None, model: "Backbone", *, must_choose: bool
) -> "TokenScorer | None":
    """Who scores tokens. Raises: ConfigurationError if nobody does, and the best is to be taken."""
    from dti_engine.quality.token_scorers import find_scorer  # loads torch

    judge = find_scorer(backbone, name, device=model.device)
    if must_choose and judge is None:
        raise ConfigurationError(
            f"nothing can score images of {backbone!r}, so the best of the steps of --keep-every "
            "cannot be taken; give --scorer, or add --validation-images 0 to keep them and choose "
            "by eye"
        )
    return judge
