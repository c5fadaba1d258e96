"""`dti generate`: prompts and tokens in, images out; here, or by a service.

`GeneratedFile` pairs an image to be generated with its file; `dti blend` uses it too. A package
above this one may register a `RemoteGenerator`, which commands call if `--server` is given.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, print_json, print_paths, warn
from dti_engine.cli.loading import open_backbone, open_tokens, warn_of_other_weights
from dti_engine.cli.progress import ProgressBar
from dti_engine.config import DtypeName
from dti_engine.errors import ConfigurationError
from dti_engine.text.prompt_check import require_plain, unmentioned

if TYPE_CHECKING:
    from PIL import Image

    from dti_engine.backbones.interface import Backbone
    from dti_engine.generation.pipeline import ImageRequest

EXAMPLES = (
    'dti generate "a photo of a <rex> on a beach" --token tokens/rex.safetensors',
    'dti generate "a {} in the snow" "a {} in a city" --token rex.safetensors --seeds 0-3',
    'dti generate "a <rex> and a <tom>" --token rex.safetensors --token tom.safetensors',
    'dti generate "a {} in the snow" --token rex --server http://127.0.0.1:8000',
)

_BATCH_SIZE = 8
_MAX_NAME = 60  # characters of a prompt in a file name


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of every image of a command; None leaves a setting to the model or the service."""

    model: str | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    instruction: bool | None = None
    size: str | None = None


@dataclass(frozen=True)
class LocalOptions:
    """Options that only this machine can follow, with `None` or "auto" for its own choice."""

    batch_size: int | None = None
    device: str = "auto"
    dtype: DtypeName = "auto"
    compiled: bool = False
    save: Path | None = None
    force: bool = False

    def refuse_with_server(self) -> None:
        """Refuse options that a service cannot follow. Raises: ConfigurationError."""
        given = {
            "--batch-size": self.batch_size,
            "--device": self.device != "auto",
            "--dtype": self.dtype != "auto",
            "--compile": self.compiled,
            "--save": self.save,
            "--force": self.force,
        }
        if names := [name for name, value in given.items() if value]:
            raise ConfigurationError(
                f"{', '.join(names)} cannot be used with --server: the service decides that"
            )


@dataclass(frozen=True)
class GenerateRequest:
    """The arguments of `dti generate`, checked."""

    prompts: Sequence[str]
    tokens: Sequence[str]
    seeds: Sequence[int]
    output: Path
    settings: GenerationOptions
    as_json: bool


@dataclass(frozen=True)
class BlendRequest:
    """The arguments of `dti blend`, checked."""

    tokens: Sequence[str]
    shares: Sequence[Sequence[float]]
    """The share of each token, per blend."""
    strip: int | None
    """The number of blends, if they form a strip."""
    prompt: str | None
    """None: generate nothing."""
    placeholder: str
    seeds: Sequence[int]
    output: Path
    settings: GenerationOptions
    as_json: bool


class RemoteGenerator(Protocol):
    """Generation by a service, for `dti generate` and `dti blend`."""

    def generate(self, server: str, api_key: str | None, request: GenerateRequest) -> None:
        """Generate prompts with tokens of the service."""
        ...

    def blend(self, server: str, api_key: str | None, request: BlendRequest) -> None:
        """Generate a prompt with blends of tokens of the service."""
        ...


_remote: RemoteGenerator | None = None


def register_remote_generator(generator: RemoteGenerator) -> None:
    """Set the generator for `--server`, since this package cannot import a service's client."""
    global _remote
    _remote = generator


def remote_generator(local: LocalOptions) -> RemoteGenerator:
    """Return the registered generator.

    Raises: ConfigurationError if there is none, or if options are given that it cannot follow.
    """
    local.refuse_with_server()
    if _remote is None:
        raise ConfigurationError("--server is for programs that include the client of a service")
    return _remote


def refuse_size_without_server(size: str | None) -> None:
    """Raise ConfigurationError if a size is given: a model generates in its own size here."""
    if size is not None:
        raise ConfigurationError("--size is for images that a service generates: add --server")


def generate(
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT...",
            help="Text with placeholders such as <rex>; {} stands for the token if there is one.",
            show_default=False,
        ),
    ],
    tokens: options.TokensOption = None,
    output: options.OutputFolderOption = Path("images"),
    seeds: options.SeedsOption = "0",
    steps: options.GenerationStepsOption = None,
    guidance: options.GuidanceOption = None,
    negative_prompt: options.NegativePromptOption = None,
    instruction: options.InstructionOption = None,
    batch_size: options.BatchSizeOption = None,
    model: options.RemoteModelOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    compiled: options.CompileOption = False,
    server: options.RemoteServerOption = None,
    api_key: options.ApiKeyOption = None,
    size: options.SizeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Generate images of prompts with learned tokens in them.

    Writes PNG files that contain their settings, and prints their paths. All prompts and seeds
    share batches.

    With --server, a running service generates, and no model is loaded here. --token then takes the
    id of a subject, for its newest token, or of a token; --model takes a model of the service. A
    service without room is asked again for two minutes.
    """
    request = GenerateRequest(
        prompts,
        tokens or [],
        options.parse_seeds(seeds),
        output,
        GenerationOptions(model, steps, guidance, negative_prompt, instruction, size),
        as_json,
    )
    local = LocalOptions(batch_size, device, dtype, compiled)
    if server is not None:
        remote_generator(local).generate(server, api_key, request)
    else:
        refuse_size_without_server(size)
        _generate_here(request, local)


def _generate_here(request: GenerateRequest, local: LocalOptions) -> None:
    settings = request.settings
    # Tokens and prompts come before the model, which takes longest to load.
    artifacts = open_tokens(request.tokens)
    prompts = [fill_prompt(prompt, list(artifacts)) for prompt in request.prompts]
    check_texts(prompts, settings, artifacts)
    backbone = open_for_generation(settings, local)
    warn_of_other_weights(artifacts.values(), backbone)
    output = output_folder(request.output)
    bound = {placeholder: artifact.token for placeholder, artifact in artifacts.items()}
    origins = {placeholder: artifact.origin() for placeholder, artifact in artifacts.items()}
    files = [
        GeneratedFile(
            output / f"{stem}-seed{seed}.png", image_request(prompt, seed, bound, settings), origins
        )
        for prompt, stem in zip(prompts, file_stems(prompts), strict=True)
        for seed in request.seeds
    ]
    saved = generate_files(backbone, files, settings, local)
    if request.as_json:
        print_json({"images": [{"path": str(each.path)} | each.settings for each in saved]})
    else:
        print_paths([each.path for each in saved])


@dataclass(frozen=True, eq=False)
class GeneratedFile:
    """An image to be generated, its file, and the origins of its tokens by placeholder."""

    path: Path
    """The file's name gets a number if it is that of another image already."""
    request: "ImageRequest"
    origins: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SavedImage:
    """An image that was generated and saved."""

    path: Path
    image: "Image.Image"
    settings: dict[str, Any]


def image_request(
    prompt: str, seed: int, tokens: Mapping[str, Any], settings: GenerationOptions
) -> "ImageRequest":
    """Return the request of one image, with this program's defaults."""
    from dti_engine.generation.pipeline import ImageRequest  # loads torch

    guidance = options.GUIDANCE if settings.guidance is None else settings.guidance
    instruction = True if settings.instruction is None else settings.instruction
    negative = settings.negative_prompt or ""
    return ImageRequest(prompt, seed, tokens, negative, guidance, instruction)


def check_texts(
    prompts: Sequence[str], settings: GenerationOptions, placeholders: Iterable[str]
) -> None:
    """Warn of tokens that no text mentions, before the model is loaded.

    Raises: TokenError if a text has syntax of another program.
    """
    texts = [*prompts, settings.negative_prompt or ""]
    require_plain(texts)
    for warning in unmentioned(texts, placeholders):
        warn(warning)


def open_for_generation(settings: GenerationOptions, local: LocalOptions) -> "Backbone":
    """Load the model. Raises: as `open_backbone`."""
    return open_backbone(
        settings.model or "miniature",
        device=local.device,
        dtype=local.dtype,
        compiled=local.compiled,
    )


def generate_files(
    backbone: "Backbone",
    files: Sequence[GeneratedFile],
    settings: GenerationOptions,
    local: LocalOptions,
) -> list[SavedImage]:
    """Generate all images, and save each as soon as its batch is done.

    Raises: as `generation.pipeline.generate`; OutputError if an image cannot be written.
    """
    from dti_engine.generation.pipeline import generate, image_settings, request_warnings
    from dti_engine.images.png import add_image

    steps = settings.steps or options.STEPS
    documents = [
        image_settings(file.request, backbone, steps=steps, tokens=file.origins) for file in files
    ]

    requests = [file.request for file in files]
    found = [request_warnings(request, backbone) for request in requests]
    for warning in dict.fromkeys(itertools.chain.from_iterable(found)):
        warn(warning)
    saved = list[SavedImage]()

    def save(index: int, image: "Image.Image") -> None:
        path = add_image(image, files[index].path, documents[index])
        saved.append(SavedImage(path, image, documents[index]))

    with ProgressBar("generating") as progress:
        generate(
            backbone,
            requests,
            steps=steps,
            batch_size=local.batch_size or _BATCH_SIZE,
            on_image=save,
            on_step=progress.update,
        )
    return saved


def fill_prompt(prompt: str, placeholders: Sequence[str]) -> str:
    """Replace `{}` by the placeholder of the one token.

    Raises: ConfigurationError if there is a `{}` but not exactly one token.
    """
    if "{}" in prompt and len(placeholders) != 1:
        raise ConfigurationError(
            f"prompt {prompt!r} contains {{}}, which stands for the one token, and there are "
            f"{len(placeholders)}; write the placeholders: {', '.join(placeholders) or 'none'}"
        )
    return prompt.replace("{}", placeholders[0]) if placeholders else prompt


def file_stem(prompt: str) -> str:
    """Return a prompt as the beginning of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_MAX_NAME] or "image"


def file_stems(prompts: Sequence[str]) -> list[str]:
    """Return one file stem per prompt, numbered if there are several."""
    if len(prompts) == 1:
        return [file_stem(prompts[0])]
    return [f"{number:02d}-{file_stem(prompt)}" for number, prompt in enumerate(prompts, start=1)]


def side_by_side(images: Sequence["Image.Image"]) -> "Image.Image":
    """Return images of one size in one row."""
    from PIL import Image

    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        row.paste(image, (i * width, 0))
    return row
