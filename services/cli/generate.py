"""`dti generate --server` and `dti blend --server`: a service generates, and files are saved."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dti_engine.cli import options
from dti_engine.cli.blend import blend_path, save_strip
from dti_engine.cli.console import output_folder, print_json, print_paths, say, warn
from dti_engine.cli.generate import (
    BlendRequest,
    GenerateRequest,
    GenerationOptions,
    check_texts,
    file_stem,
    file_stems,
    fill_prompt,
)
from dti_engine.cli.loading import duplicate_placeholder, split_binding
from dti_engine.cli.progress import ProgressBar
from dti_engine.config import PLACEHOLDER
from dti_engine.errors import TokenError
from dti_engine.files import atomic_write
from dti_engine.text.prompt_check import require_plain
from services.cli.options import connect

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.images import GeneratedImage

_MAX_REQUESTS = 4  # at a time; fewer images than an engine has room for


@dataclass(frozen=True)
class PromptImages:
    """The images of one prompt, and the file of each."""

    body: Mapping[str, Any]
    """The request to /v1/images/generations, without seeds."""
    paths: Mapping[int, Path]
    """The path of each image by its seed."""


@dataclass(frozen=True)
class SavedImage:
    """An image that was generated and saved."""

    path: Path
    seed: int
    settings: Mapping[str, Any]


class ServiceGenerator:
    """Generates with a service; implements `dti_engine.cli.generate.RemoteGenerator`."""

    def generate(self, server: str, api_key: str | None, request: GenerateRequest) -> None:
        """Generate every prompt with every seed.

        Raises: TokenError if there is no such token; ClientError; typer.Exit if images failed.
        """
        with connect(server, api_key) as client:
            tokens = bind_tokens(client, request.tokens)
            prompts = [fill_prompt(prompt, list(tokens)) for prompt in request.prompts]
            check_texts(prompts, request.settings, tokens)
            folder = output_folder(request.output)
            groups = [
                PromptImages(
                    {
                        "prompt": prompt,
                        "tokens": _mentioned(tokens, prompt, request.settings),
                        **_body(request.settings),
                    },
                    {seed: folder / f"{stem}-seed{seed}.png" for seed in request.seeds},
                )
                for prompt, stem in zip(prompts, file_stems(prompts), strict=True)
            ]
            images = generate_images(client, groups, steps=_steps(request.settings))
        document = {"images": [{"path": str(each.path), **each.settings} for each in images]}
        _report(document, [image.path for image in images], as_json=request.as_json)
        _exit_if_incomplete(images, groups)

    def blend(self, server: str, api_key: str | None, request: BlendRequest) -> None:
        """Generate the prompt with every blend and every seed.

        Raises: TokenError if the placeholder is malformed; ClientError; typer.Exit if images
            failed.
        """
        if not PLACEHOLDER.fullmatch(request.placeholder):
            raise TokenError(f"placeholder {request.placeholder!r} is malformed: write <name>")
        prompt = fill_prompt(request.prompt or "", [request.placeholder])
        require_plain([prompt, request.settings.negative_prompt or ""])
        stem, is_strip = output_folder(request.output) / file_stem(prompt), bool(request.strip)
        groups = [
            PromptImages(
                {
                    "prompt": prompt,
                    "blends": {request.placeholder: _blend_body(request.tokens, shares)},
                    **_body(request.settings),
                },
                {
                    seed: blend_path(stem, seed, number, shares, is_strip=is_strip)
                    for seed in request.seeds
                },
            )
            for number, shares in enumerate(request.shares, start=1)
        ]
        with connect(server, api_key) as client:
            images = generate_images(client, groups, steps=_steps(request.settings))
        images.sort(key=lambda image: (image.seed, image.path))  # the order within a strip
        paths = [image.path for image in images]
        if is_strip:
            paths += _save_strips(images, request, stem)
        settings = [image.settings for image in images]
        document = {"files": [str(path) for path in paths], "images": settings}
        _report(document, paths, as_json=request.as_json)
        _exit_if_incomplete(images, groups)


def bind_tokens(client: "Client", values: Sequence[str]) -> dict[str, str]:
    """Return the subject or token id that each placeholder stands for, by the values of `--token`.

    Raises: TokenError if there is no such token, or two have one placeholder; ClientError.
    """
    tokens = dict[str, str]()
    for value in values:
        placeholder, name = bind_token(client, value)
        if placeholder in tokens:
            raise duplicate_placeholder(placeholder, name)
        tokens[placeholder] = name
    return tokens


def bind_token(client: "Client", value: str) -> tuple[str, str]:
    """Return placeholder and id of `<x>=NAME`, or of NAME with the placeholder of its training.

    Raises: TokenError if there is no such token; ClientError.
    """
    from services.ledger.ids import is_token_id

    placeholder, name = split_binding(value)
    if placeholder:
        return placeholder, name
    found = client.token(name) if is_token_id(name) else next(client.tokens(alias=name), None)
    if found is None:
        raise TokenError(
            f"the service has no token of a subject {name!r}: `dti tokens` lists its tokens"
        )
    return str((found.report or {}).get("placeholder") or f"<{name}>"), name


def generate_images(
    client: "Client",
    groups: Sequence[PromptImages],
    *,
    steps: int,
    on_image: Callable[[SavedImage], None] = lambda image: None,
    replace: bool = False,
) -> list[SavedImage]:
    """Generate all images, and save each as soon as it is done.

    An image whose file is there already, with another one in it, gets a number in its name, unless
    `replace` is set, for folders that a program has for itself. Images that fail are reported and
    left out. `on_image` is called in any thread.

    Raises: ClientError if a request is refused as a whole; OutputError.
    """
    total = steps * sum(len(group.paths) for group in groups)
    with ProgressBar("generating", total) as progress:
        work = _Generation(
            client, lambda done: progress.update(done, total), on_image, steps, replace
        )
        pool = ThreadPoolExecutor(_MAX_REQUESTS)
        try:
            return [image for images in pool.map(work.run, groups) for image in images]
        finally:
            # After an error or Ctrl-C, the other requests end at their next event.
            work.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Generation:
    """The requests of one command. Thread-safe."""

    client: "Client"
    on_step: Callable[[int], None]
    on_image: Callable[[SavedImage], None]
    steps: int
    replace: bool
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._steps_done = dict[Path, int]()
        self._warnings = set[str]()

    def run(self, group: PromptImages) -> list[SavedImage]:
        """Generate and save the images of one prompt; return those that did not fail."""
        from services.client.images import GeneratedImage, ImageFailure, ImageProgress

        saved = dict[int, SavedImage]()
        for update in self.client.generate(group.body, list(group.paths)):
            if self.stopped.is_set():
                break
            path = group.paths[update.seed]
            match update:
                case ImageProgress():
                    self._step(path, update.step)
                case GeneratedImage():
                    self._warn(update.warnings)
                    self._step(path, self.steps)
                    saved[update.seed] = self._save(path, update)
                    self.on_image(saved[update.seed])
                case ImageFailure():
                    say(f"{path.name}: {update.error}", label="[bold red]failed:[/] ")
        return [saved[seed] for seed in group.paths if seed in saved]

    def _save(self, path: Path, image: "GeneratedImage") -> SavedImage:
        if self.replace:
            atomic_write(path, image.png)
        else:
            from dti_engine.images.png import add_png

            with self._lock:  # of two images of one name, the second has to see the first
                path = add_png(image.png, path, image.settings)
        return SavedImage(path, image.seed, image.settings)

    def _step(self, path: Path, step: int) -> None:
        with self._lock:
            # An image that is requested again begins anew; the bar does not go back.
            if self._steps_done.get(path, 0) < step:
                self._steps_done[path] = step
                self.on_step(sum(self._steps_done.values()))

    def _warn(self, warnings: Sequence[str]) -> None:
        """Say each warning once, however many images have it."""
        with self._lock:
            new = [warning for warning in warnings if warning not in self._warnings]
            self._warnings.update(new)
        for warning in new:
            warn(warning)


def _body(settings: GenerationOptions) -> dict[str, Any]:
    """Return the settings under the names of the API, without those left to the service."""
    return {name: value for name, value in asdict(settings).items() if value is not None}


def _mentioned(
    tokens: Mapping[str, str], prompt: str, settings: GenerationOptions
) -> dict[str, str]:
    """Return the tokens that the texts of one prompt mention; the service warns of others."""
    texts = f"{prompt} {settings.negative_prompt or ''}"
    return {placeholder: name for placeholder, name in tokens.items() if placeholder in texts}


def _steps(settings: GenerationOptions) -> int:
    return settings.steps or options.STEPS


def _blend_body(names: Sequence[str], shares: Sequence[float]) -> Any:
    """Return a blend in the form of the API."""
    if len(names) == 2:
        return {"a": names[0], "b": names[1], "t": shares[1]}
    return [{"token": name, "weight": each} for name, each in zip(names, shares, strict=True)]


def _save_strips(images: Sequence[SavedImage], request: BlendRequest, stem: Path) -> Iterator[Path]:
    """Save the strips in which no image failed."""
    from PIL import Image

    for seed in request.seeds:
        row = [image for image in images if image.seed == seed]
        # A strip with a gap would show a wrong path between the tokens.
        if len(row) == request.strip:
            opened = [Image.open(image.path).convert("RGB") for image in row]
            yield save_strip(stem, seed, opened, [image.settings for image in row])


def _report(document: Mapping[str, Any], paths: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print_paths(paths)


def _exit_if_incomplete(images: Sequence[SavedImage], groups: Sequence[PromptImages]) -> None:
    """Raise typer.Exit if images failed."""
    missing = sum(len(group.paths) for group in groups) - len(images)
    if missing:
        say(f"{missing} images failed; the same command generates them again")
        raise typer.Exit(1)
