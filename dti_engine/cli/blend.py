"""`dti blend`: several tokens become one, to generate with or to keep.

Blends of token files: the shares that options ask for, the token, and its own file.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, print_json, print_paths
from dti_engine.cli.generate import Order, file_name, filled, generate_images, side_by_side
from dti_engine.cli.loading import open_backbone, warn_of_other_weights
from dti_engine.errors import ArtifactMismatchError, ConfigurationError

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.text.tokens import LearnedToken


def shares_of_each(
    count: int, *, t: float | None, weights: str | None, strip: int | None
) -> list[list[float]]:
    """Per blend to be made, the share of each of `count` tokens; shares sum to 1.

    Raises: ConfigurationError if the options contradict each other or the number of tokens.
    """
    if count < 2:
        raise ConfigurationError("a blend needs two tokens or more")
    if sum(option is not None for option in (t, weights, strip)) > 1:
        raise ConfigurationError("--t, --weights and --strip exclude each other; give one of them")
    if count > 2 and (t is not None or strip is not None):
        raise ConfigurationError(f"--t and --strip are for two tokens, not {count}; use --weights")
    if strip is not None:
        return [[1 - i / (strip - 1), i / (strip - 1)] for i in range(strip)]
    if t is not None:
        return [[1 - t, t]]
    numbers = _numbers(weights) if weights else [1.0] * count
    if len(numbers) != count or min(numbers) <= 0:
        raise ConfigurationError(
            f"--weights must be {count} numbers above 0, one per token, got {weights!r}"
        )
    return [[number / sum(numbers) for number in numbers]]


def _numbers(weights: str) -> list[float]:
    try:
        numbers = [float(each) for each in weights.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ConfigurationError(f"--weights must be finite numbers like 2,1,1, got {weights!r}")
    return numbers


def blended(
    parents: Sequence["Artifact"], shares: Sequence[float], placeholder: str
) -> "LearnedToken":
    """The blend with these shares. Raises: as `blends.slerp_tokens` and `blends.mean_tokens`."""
    from dti_engine.text.tokens import mean_tokens, slerp_tokens

    tokens = [parent.token for parent in parents]
    if len(tokens) == 2:
        return slerp_tokens(tokens[0], tokens[1], shares[1], placeholder=placeholder)
    return mean_tokens(list(zip(tokens, shares, strict=True)), placeholder=placeholder)


def kept(
    parents: Sequence["Artifact"], shares: Sequence[float], token: "LearnedToken"
) -> "Artifact":
    """The blend as an artifact of its own.

    Raises: ArtifactMismatchError if the parents were made with different weights.
    """
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.artifacts.manifest import BlendedOrigin, Parent

    made_with = {each.manifest.model_fingerprint: each.manifest.model for each in parents}
    if len(made_with) > 1:
        raise ArtifactMismatchError(
            f"the tokens were made with different weights, {', '.join(made_with.values())}, so "
            "their blend belongs to none; train them again with one backbone"
        )
    ((fingerprint, backbone),) = made_with.items()
    used = (
        Parent(placeholder=each.manifest.placeholder, sha256=each.sha256(), share=share)
        for share, each in zip(shares, parents, strict=True)
        if share
    )
    is_pooled = any(each.manifest.origin.pooling for each in parents)
    origin = BlendedOrigin(parents=tuple(used), pooling=token.pooling if is_pooled else None)
    return Artifact.of(token, model=backbone, fingerprint=fingerprint, origin=origin)


EXAMPLES = (
    "dti blend rex.safetensors tom.safetensors --strip 7",
    'dti blend a.safetensors b.safetensors --t 0.3 --prompt "a {} in the snow" --seeds 0-3',
    "dti blend a.safetensors b.safetensors c.safetensors --weights 2,1,1 --save mix.safetensors",
)

PROMPT = "a photo of a {}"
_BLEND_PANEL = "Blend (one of these)"


def blend(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="TOKEN.safetensors...", help="Two or more tokens.", show_default=False
        ),
    ],
    t: Annotated[
        float | None,
        typer.Option(
            "--t",
            min=0,
            max=1,
            help="How far from the first of two to the second, along the sphere.",
            rich_help_panel=_BLEND_PANEL,
            show_default="0.5",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,...",
            help="One per token, above 0: their mean on the sphere.",
            rich_help_panel=_BLEND_PANEL,
            show_default="equal",
        ),
    ] = None,
    strip: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="N equal steps from the first of two to the second, generated side by side.",
            rich_help_panel=_BLEND_PANEL,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What to generate; {} stands for the blend.",
            show_default=f"{PROMPT}, or nothing with --save",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the blend as a token of its own.")
    ] = None,
    placeholder: Annotated[str, typer.Option(metavar="<NAME>", help="Its name.")] = "<blend>",
    output: options.OutputFolderOption = Path("images"),
    seeds: options.SeedsOption = "0",
    steps: options.GenerationStepsOption = 25,
    guidance: options.GuidanceOption = 5.0,
    negative: options.NegativeOption = "",
    batch_size: options.BatchSizeOption = 8,
    backbone: options.ModelOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Blend tokens into one: generate it, generate the way from one to the other, or keep it.

    Directions are blended on the sphere and lengths linearly, so a blend stays as much a word as
    what it is made of.
    """
    shares = shares_of_each(len(files), t=t, weights=weights, strip=strip)
    if prompt is None and save is None:
        prompt = PROMPT
    if save and len(shares) > 1:
        raise ConfigurationError("a strip is many blends, so --save cannot keep it; use --t")

    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.generation.pipeline import ImageRequest, save_image

    parents = [Artifact.load(path) for path in files]
    blends = [blended(parents, each, placeholder) for each in shares]
    paths: list[Path] = []
    if save:
        kept(parents, shares[0], blends[0]).save(save)
        paths.append(save)
    if prompt is None:
        _tell(paths, [], as_json=as_json)
        return
    prompt = filled(prompt, [placeholder])
    model = open_backbone(backbone, device=device, dtype=dtype)
    warn_of_other_weights(parents, model)
    stem, orders = output_folder(output) / file_name(prompt), list[Order]()
    for each_seed in options.parse_seeds(seeds):
        for number, (token, share) in enumerate(zip(blends, shares, strict=True), start=1):
            mix = "-".join(f"{weight:.2f}" for weight in share)
            mix = f"strip{number:03d}" if strip else mix
            request = ImageRequest(prompt, each_seed, {placeholder: token}, negative, guidance)
            origins = [p.origin() | {"share": s} for p, s in zip(parents, share, strict=True)]
            path = stem.with_name(f"{stem.name}-seed{each_seed}-{mix}.png")
            orders.append(Order(path, request, {placeholder: {"blend_of": origins}}))
    images, settings = generate_images(model, orders, steps=steps, batch_size=batch_size)
    paths += [order.path for order in orders]
    if strip:
        for i, each_seed in enumerate(options.parse_seeds(seeds)):
            part = slice(i * strip, (i + 1) * strip)
            paths.append(stem.with_name(f"{stem.name}-seed{each_seed}-strip.png"))
            save_image(side_by_side(images[part]), paths[-1], {"strip": settings[part]})
    _tell(paths, settings, as_json=as_json)


def _tell(paths: Sequence[Path], settings: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"files": [str(path) for path in paths], "images": settings})
    else:
        print_paths(paths)
