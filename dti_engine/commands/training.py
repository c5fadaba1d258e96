"""`dti train`: bundles of pictures in, token files out."""

import signal
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from dti_engine.commands import options
from dti_engine.commands.endings import Endings
from dti_engine.commands.inputs import open_backbone
from dti_engine.commands.progress import TrainingProgress
from dti_engine.commands.stopping import is_finished, refuse_unfinished, signals_to
from dti_engine.commands.subjects import load, plan
from dti_engine.commands.terminal import output_folder, warn
from dti_engine.config import CaptionFamily, Method, TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.keepers import Keeper
from dti_engine.recipes import RECIPES, recipe, standard_ti

EXAMPLES = (
    "dti train photos/rex --initializer dog --output tokens",
    "dti train photos/rex photos/tom --initializer dog --initializer cat -o tokens",
    "dti train photos/* rex.zip -o tokens",
    "dti train photos/* rex.zip -o tokens --resume",
    "dti train photos/rex --initializer dog --backbone ./stable-diffusion-v1-5 -o tokens",
)

_TRAINING = "Training"
_ROOM = 8  # vectors: no initializer has more pieces
_MAX_AUTO_SLOTS = 4  # what one GPU of 24 GB holds of Stable Diffusion at 4 samples each
_Captions = Annotated[
    CaptionFamily | None,
    typer.Option(
        metavar="FAMILY",
        help=f"What the pictures show: {', '.join(get_args(CaptionFamily))}.",
        rich_help_panel=_TRAINING,
        show_default="the bundle's kind, or recipe",
    ),
]


def _number(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=_TRAINING, show_default="recipe")


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
    backbone: options.BackboneOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help=f"Complete settings: {', '.join(RECIPES)}. Options below change single ones.",
            rich_help_panel=_TRAINING,
            show_default="miniature for the miniature, else sd",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="[cyan]dti[/] learns directions, [cyan]ti[/] free vectors (the baseline).",
            rich_help_panel=_TRAINING,
        ),
    ] = "dti",
    steps: Annotated[int | None, _number("--steps", "Optimizer steps per subject.")] = None,
    batch_size: Annotated[int | None, _number("--batch-size", "Samples per step.")] = None,
    resolution: Annotated[int | None, _number("--resolution", "Side of the crops in px.")] = None,
    lr: Annotated[float | None, _number("--lr", "Learning rate.")] = None,
    kappa: Annotated[float | None, _number("--kappa", "Strength of the prior.")] = None,
    magnitude: Annotated[
        str | None, _number("--magnitude", "vocabulary, initializer, or a length.")
    ] = None,
    captions: _Captions = None,
    num_vectors: Annotated[
        int | None,
        typer.Option(
            "--vectors",
            min=1,
            metavar="N",
            help="Of each token; the initializer's are repeated to make so many.",
            rich_help_panel=_TRAINING,
            show_default="one per piece of the initializer",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of every subject.", rich_help_panel=_TRAINING)
    ] = 0,
    slots: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help=f"Subjects trained at a time; auto is up to {_MAX_AUTO_SLOTS}.",
            rich_help_panel=_TRAINING,
        ),
    ] = "auto",
    checkpoint_every: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Keep unfinished subjects every N of their steps, in DIR/checkpoints.",
            rich_help_panel=_TRAINING,
        ),
    ] = 50,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on: skip what is finished in DIR, start the rest from its checkpoints.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Learn each bundle of pictures as one token.

    A bundle is a folder, zip or tar; docs/bundles.md says what bundle.json may say in it. Writes
    one small file per subject, DIR/NAME.safetensors, and prints its path. Several bundles are
    packed into one run over one model. A subject that fails is named and the others go on:
    the exit code is then 1.

    Ctrl-C and SIGTERM keep all unfinished subjects at the end of the step and exit with 130 and
    143; a second one ends at once. The same command with --resume goes on, after a crash too.
    """
    config = _config(
        recipe_name or ("miniature" if backbone == "miniature" else "sd"),
        method,
        steps=steps,
        batch_size=batch_size,
        resolution=resolution,
        lr=lr,
        kappa=kappa,
        magnitude=_parsed(magnitude),
        captions=captions,
    )
    plans = plan(bundles, placeholder, initializers or [])
    num_slots = _num_slots(slots, len(plans))
    output = output_folder(output)
    keeper = Keeper(
        output / "checkpoints",
        every=checkpoint_every,
        on_unsaved=lambda name, error: warn(f"{name} goes on without a checkpoint: {error}"),
    )
    if resume:
        # Each to the slot that it had, before subjects that had none yet.
        plans.sort(key=lambda each: not keeper.path(each.name).exists())
    else:
        refuse_unfinished(keeper, [each.name for each in plans])
    model = open_backbone(backbone, device=device, dtype=dtype)
    endings = Endings(output, [each.name for each in plans], keeper)
    try:
        with TrainingProgress(config.steps) as progress, signals_to(keeper.stop) as signals:
            # Loaded here at last, as it loads torch.
            from dti_engine.trainer import train as train_all

            subjects = load(
                plans,
                endings,
                seed=seed,
                num_vectors=num_vectors,
                resolution=config.resolution,
                # Words on the command line go before those of a bundle. The miniature knows no
                # others.
                by_kind=captions is None and config.captions != "miniature",
                is_finished=lambda subject: (
                    resume and is_finished(subject, endings.path(subject.id), model, config)
                ),
            )
            for outcome in train_all(
                model,
                subjects,
                config,
                num_slots=num_slots,
                max_vectors=max(_ROOM, num_vectors or 0),
                on_step=progress.on_step,
                keeper=keeper,
            ):
                endings.add(outcome)
            endings.stopped_by = signals.received
    except KeyboardInterrupt:  # the second Ctrl-C
        endings.stopped_by = signal.SIGINT
    finally:  # whatever broke, such as memory that ran out, what is done is told
        endings.tell(as_json=as_json)
    raise typer.Exit(endings.exit_code())


def _config(recipe_name: str, method: Method, **changes: object) -> TrainConfig:
    config = recipe(recipe_name)
    if method == "ti":
        config = standard_ti(config)
    return config.changed(**{name: each for name, each in changes.items() if each is not None})


def _parsed(magnitude: str | None) -> str | float | None:
    try:
        return float(magnitude) if magnitude else None
    except ValueError:
        return magnitude


def _num_slots(slots: str, num_subjects: int) -> int:
    if slots == "auto":
        return min(num_subjects, _MAX_AUTO_SLOTS)
    if not slots.isdecimal() or int(slots) < 1:
        raise ConfigurationError(f"--slots must be auto or a number >= 1, got {slots!r}")
    return int(slots)
