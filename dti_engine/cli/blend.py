"""`dti blend`: several tokens become one, to generate with or to save."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, print_json, print_paths
from dti_engine.cli.generate import (
    BlendRequest,
    GeneratedFile,
    GenerationOptions,
    LocalOptions,
    check_texts,
    file_stem,
    fill_prompt,
    generate_files,
    image_request,
    open_for_generation,
    refuse_size_without_server,
    remote_generator,
    side_by_side,
)
from dti_engine.cli.loading import warn_of_other_weights
from dti_engine.errors import ArtifactMismatchError, ConfigurationError
from dti_engine.files import require_replaceable, require_separate

if TYPE_CHECKING:
    from PIL import Image

    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.text.tokens import LearnedToken

EXAMPLES = (
    "dti blend rex.safetensors tom.safetensors --strip 7",
    'dti blend a.safetensors b.safetensors --t 0.3 --prompt "a {} in the snow" --seeds 0-3',
    "dti blend a.safetensors b.safetensors c.safetensors --weights 2,1,1 --save mix.safetensors",
    "dti blend rex tom --strip 7 --server http://127.0.0.1:8000",
)

_PROMPT = "a photo of a {}"
_BLEND_PANEL = "Blend (one of these)"

_PositionOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--t",
        min=0,
        max=1,
        help="Position between the first token (0) and the second (1), along the sphere.",
        rich_help_panel=_BLEND_PANEL,
        show_default="0.5",
    ),
]
_WeightsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="W,W,...",
        help="One weight above 0 per token, for their mean on the sphere.",
        rich_help_panel=_BLEND_PANEL,
        show_default="equal",
    ),
]
_StripOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--strip",
        min=2,
        metavar="N",
        help="N blends in equal steps from the first token to the second, side by side.",
        rich_help_panel=_BLEND_PANEL,
    ),
]


_TokensArgument: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="TOKEN...",
        help="Two or more token files; with --server, ids of subjects or tokens.",
        show_default=False,
    ),
]
_PromptOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="What to generate; {} stands for the blend.",
        show_default=f"{_PROMPT}, or nothing with --save",
    ),
]
_SaveOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--save", metavar="FILE", help="Write the blend to this file, as a token of its own."
    ),
]
_PlaceholderOption: TypeAlias = Annotated[
    str, typer.Option("--placeholder", metavar="<NAME>", help="The blend's name in prompts.")
]


def blend(
    tokens: _TokensArgument,
    t: _PositionOption = None,
    weights: _WeightsOption = None,
    strip: _StripOption = None,
    prompt: _PromptOption = None,
    save: _SaveOption = None,
    force: options.ForceOption = False,
    placeholder: _PlaceholderOption = "<blend>",
    output: options.OutputFolderOption = Path("images"),
    seeds: options.SeedsOption = "0",
    steps: options.GenerationStepsOption = None,
    guidance: options.GuidanceOption = None,
    negative_prompt: options.NegativePromptOption = None,
    batch_size: options.BatchSizeOption = None,
    model: options.RemoteModelOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    server: options.RemoteServerOption = None,
    api_key: options.ApiKeyOption = None,
    size: options.SizeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Blend tokens into one, and generate or save it.

    Directions are blended on the sphere and lengths linearly, so that a blend is as much a word as
    the tokens that it comes from. --strip generates the way from one token to another.

    With --server, a running service blends up to 8 of its tokens and generates. It stores no
    blends: to save one, fetch the tokens by [cyan]dti tokens --download[/] and blend the files.
    """
    request = BlendRequest(
        tokens,
        shares_of_blends(len(tokens), t=t, weights=weights, strip=strip),
        strip,
        None if prompt is None and save else prompt or _PROMPT,
        placeholder,
        options.parse_seeds(seeds),
        output,
        GenerationOptions(model, steps, guidance, negative_prompt, size=size),
        as_json,
    )
    local = LocalOptions(batch_size, device, dtype, save=save, force=force)
    if server is not None:
        remote_generator(local).blend(server, api_key, request)
    else:
        refuse_size_without_server(size)
        _blend_here(request, local)


def _blend_here(request: BlendRequest, local: LocalOptions) -> None:
    if local.save and request.strip:
        raise ConfigurationError("a strip is many blends, so --save cannot save it; use --t")
    from dti_engine.artifacts.artifact import Artifact

    parents = [Artifact.load(Path(token)) for token in request.tokens]
    blends = [blend_tokens(parents, shares, request.placeholder) for shares in request.shares]
    paths, documents = list[Path](), list[dict[str, Any]]()
    if local.save:
        require_separate([local.save], map(Path, request.tokens))
        blend = blend_artifact(parents, request.shares[0], blends[0])
        require_replaceable(local.save, blend.is_same_token, force=local.force)
        blend.save(local.save)
        paths.append(local.save)
    if request.prompt is not None:
        generated, documents = _generate_blends(request, parents, blends, local)
        paths += generated
    if request.as_json:
        print_json({"files": [str(path) for path in paths], "images": documents})
    else:
        print_paths(paths)


def _generate_blends(
    request: BlendRequest,
    parents: Sequence["Artifact"],
    blends: Sequence["LearnedToken"],
    local: LocalOptions,
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Generate every blend with every seed; return the files, and the settings of each image."""
    prompt = fill_prompt(request.prompt or "", [request.placeholder])
    check_texts([prompt], request.settings, [request.placeholder])
    backbone = open_for_generation(request.settings, local)
    warn_of_other_weights(parents, backbone)
    stem, files = output_folder(request.output) / file_stem(prompt), list[GeneratedFile]()
    # Seeds in the outer loop: the images of one strip must be neighbours, see the slices below.
    for seed in request.seeds:
        for number, (token, shares) in enumerate(zip(blends, request.shares, strict=True), start=1):
            tokens = {request.placeholder: token}
            origins = [
                parent.origin() | {"share": share}
                for parent, share in zip(parents, shares, strict=True)
            ]
            files.append(
                GeneratedFile(
                    blend_path(stem, seed, number, shares, is_strip=bool(request.strip)),
                    image_request(prompt, seed, tokens, request.settings),
                    {request.placeholder: {"blend_of": origins}},
                )
            )
    saved = generate_files(backbone, files, request.settings, local)
    paths = [each.path for each in saved]
    if request.strip:
        for i, seed in enumerate(request.seeds):
            row = saved[i * request.strip : (i + 1) * request.strip]
            images, settings = [each.image for each in row], [each.settings for each in row]
            paths.append(save_strip(stem, seed, images, settings))
    return paths, [each.settings for each in saved]


def blend_path(
    stem: Path, seed: int, number: int, shares: Sequence[float], *, is_strip: bool
) -> Path:
    """Return the file of one blend's image; `number` is its place in the strip, from 1."""
    mix = f"strip{number:03d}" if is_strip else "-".join(f"{share:.2f}" for share in shares)
    return stem.with_name(f"{stem.name}-seed{seed}-{mix}.png")


def save_strip(
    stem: Path, seed: int, images: Sequence["Image.Image"], documents: Sequence[Mapping[str, Any]]
) -> Path:
    """Save the images of a strip side by side, with the settings of each; return the path."""
    from dti_engine.images.png import add_image

    path = stem.with_name(f"{stem.name}-seed{seed}-strip.png")
    settings = {"strip": [dict(document) for document in documents]}
    return add_image(side_by_side(images), path, settings)


def shares_of_blends(
    count: int, *, t: float | None, weights: str | None, strip: int | None
) -> list[list[float]]:
    """Return the share of each of `count` tokens in each blend; the shares of a blend sum to 1.

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
    numbers = _parse_weights(weights) if weights else [1.0] * count
    if len(numbers) != count or min(numbers) <= 0:
        raise ConfigurationError(
            f"--weights must be {count} numbers above 0, one per token, got {weights!r}"
        )
    return [[number / sum(numbers) for number in numbers]]


def _parse_weights(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ConfigurationError(f"--weights must be finite numbers like 2,1,1, got {text!r}")
    return numbers


def blend_tokens(
    parents: Sequence["Artifact"], shares: Sequence[float], placeholder: str
) -> "LearnedToken":
    """Return the blend with these shares. Raises: as `slerp_tokens` and `mean_tokens`."""
    from dti_engine.text.tokens import mean_tokens, slerp_tokens

    tokens = [parent.token for parent in parents]
    # Not the mean of two, which equals this to rounding: at the ends, slerp is exactly a token.
    if len(tokens) == 2:
        return slerp_tokens(tokens[0], tokens[1], shares[1], placeholder=placeholder)
    return mean_tokens(list(zip(tokens, shares, strict=True)), placeholder=placeholder)


def blend_artifact(
    parents: Sequence["Artifact"], shares: Sequence[float], token: "LearnedToken"
) -> "Artifact":
    """Return the blend as an artifact of its own.

    Raises: ArtifactMismatchError if the parents were trained with different weights.
    """
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.artifacts.manifest import BlendedOrigin, Parent

    models = {parent.manifest.model_fingerprint: parent.manifest.model for parent in parents}
    if len(models) > 1:
        raise ArtifactMismatchError(
            f"the tokens were trained with different weights, {', '.join(models.values())}, so "
            "their blend fits none of them; train them again with one model"
        )
    ((fingerprint, model),) = models.items()
    used = (
        Parent(placeholder=parent.manifest.placeholder, sha256=parent.sha256(), share=share)
        for share, parent in zip(shares, parents, strict=True)
        # A share of 0 leaves nothing of a token, so it is no parent of the blend.
        if share
    )
    is_pooled = any(parent.manifest.origin.pooling for parent in parents)
    origin = BlendedOrigin(parents=tuple(used), pooling=token.pooling if is_pooled else None)
    return Artifact.of(token, model=model, fingerprint=fingerprint, origin=origin)
