"""`dti generate` and `dti blend`, which have a service generate if one is named.

Commands of the engine that a service can do as well: with --server, nothing is computed here.

Images that a service generates, and the files that they become.
"""

import inspect
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from dti_engine.cli import blend as blending
from dti_engine.cli import generate as engine
from dti_engine.cli.blend import shares_of_each
from dti_engine.cli.console import output_folder, print_json, print_paths, say, warn
from dti_engine.cli.generate import file_name, filled, side_by_side
from dti_engine.cli.loading import renamed
from dti_engine.cli.options import parse_seeds
from dti_engine.cli.progress import generation_progress
from dti_engine.config import PLACEHOLDER
from dti_engine.errors import ConfigurationError, TokenError
from dti_engine.files import atomic_write
from services.cli import options
from services.cli.connect import opened

_Server: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Have this service generate; see above.",
        rich_help_panel=options.PANEL,
        show_default="this machine generates",
    ),
]
_Size: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="With --server: width and height in pixels.",
        rich_help_panel=options.PANEL,
        show_default="the model's own",
    ),
]
_ADDED = {"server": _Server, "api_key": options.ApiKeyOption, "size": _Size}


def with_server(
    local: Callable[..., None],
    remote: Callable[..., None],
    *,
    not_there: Collection[str],
    about: str,
) -> Callable[..., None]:
    """`local`, and with --server, `remote`: it is given the server, the key, and what was said on
    the command line, by the names of `local`'s parameters; the service knows the rest best.

    not_there: parameters that say nothing to a service, and are refused. about: a paragraph for the
    help. Raises: ConfigurationError when it is called, if options contradict each other.
    """
    given = list(inspect.signature(local).parameters.values())

    def command(ctx: typer.Context, **values: Any) -> None:
        server, key, size = (values.pop(name) for name in _ADDED)
        if server is None:
            if size is not None:
                raise ConfigurationError("--size is for images that a service generates: --server")
            local(**values)
            return
        said = {name: value for name, value in values.items() if _is_said(ctx, name)}
        if wrong := [_option(ctx, name) for name in not_there if name in said]:
            raise ConfigurationError(
                f"{', '.join(wrong)} cannot be said to a service: leave it out with --server"
            )
        remote(server, key, **said, **({"size": size} if size else {}))

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _ADDED.items()
    ]
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    parameters = [context, *given, *added]
    # What Typer reads of a function, which has no parameters of its own.
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__ = local.__name__
    command.__doc__ = f"{inspect.cleandoc(local.__doc__ or '')}\n\n{about}"
    return command


def _is_said(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _option(ctx: typer.Context, name: str) -> str:
    """As it is written."""
    return next(each.opts[0] for each in ctx.command.params if each.name == name)


if TYPE_CHECKING:
    from services.client.client import Client

_AT_ONCE = 4  # requests; fewer images than an engine has room for


@dataclass(frozen=True)
class PromptImages:
    """Images of one prompt, and where each goes."""

    order: Mapping[str, Any]
    """As /v1/images/generations has it."""
    paths: Mapping[int, Path]
    """By seed."""


@dataclass(frozen=True)
class SavedImage:
    """One that was generated and saved."""

    path: Path
    seed: int
    settings: Mapping[str, Any]


def generate_images(
    client: "Client",
    wanted: Sequence[PromptImages],
    *,
    steps: int,
    on_image: Callable[[SavedImage], None] = lambda saved_image: None,
) -> list[SavedImage]:
    """Have all of them generated, and save each as soon as it is done. Those that fail are told of
    and left out. `on_image` is called in any thread.

    Raises: ClientError if anything is refused as a whole; OutputError.
    """
    total = steps * sum(len(each.paths) for each in wanted)
    with generation_progress() as on_step:
        work = _Work(client, lambda done: on_step(done, total), on_image, steps)
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            return [one for part in pool.map(work.do, wanted) for one in part]
        finally:
            # Whoever leaves early has nothing more generated.
            work.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Work:
    client: "Client"
    on_step: Callable[[int], None]
    on_image: Callable[[SavedImage], None]
    steps: int
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._done = dict[Path, int]()
        self._said = set[str]()

    def do(self, wanted: PromptImages) -> list[SavedImage]:
        from services.client.images import GeneratedImage, ImageFailure, ImageProgress

        saved_images = dict[int, SavedImage]()
        for update in self.client.generate(wanted.order, list(wanted.paths)):
            if self.stopped.is_set():
                break
            path = wanted.paths[update.seed]
            match update:
                case ImageProgress():
                    self._step(path, update.step)
                case GeneratedImage():
                    atomic_write(path, update.png)
                    self._warn(update.warnings)
                    self._step(path, self.steps)
                    saved_images[update.seed] = SavedImage(path, update.seed, update.settings)
                    self.on_image(saved_images[update.seed])
                case ImageFailure():
                    say(f"{path.name}: {update.error}", label="[bold red]failed:[/] ")
        return [saved_images[seed] for seed in wanted.paths if seed in saved_images]

    def _step(self, path: Path, step: int) -> None:
        with self._lock:
            if self._done.get(path, 0) < step:
                self._done[path] = step
                self.on_step(sum(self._done.values()))

    def _warn(self, warnings: Sequence[str]) -> None:
        """Of many images, each thing once."""
        with self._lock:
            new = [each for each in warnings if each not in self._said]
            self._said.update(new)
        for each in new:
            warn(each)


if TYPE_CHECKING:
    from services.client.client import Client

_SERVER = "--server http://127.0.0.1:8000"

GENERATE_EXAMPLES = (
    *engine.EXAMPLES,
    f'dti generate "a {{}} in the snow" --token rex --seeds 0-3 {_SERVER}',
)
BLEND_EXAMPLES = (*blending.EXAMPLES, f"dti blend rex tom --strip 7 {_SERVER}")

_STEPS = 25  # where nothing else is said, as the service has it
_FIELDS = {
    "steps": "steps",
    "guidance": "guidance",
    "negative": "negative_prompt",
    "instruction": "instruction",
    "backbone": "model",
    "size": "size",
}
"""What the service calls it."""


def _generate(
    server: str,
    key: str | None,
    *,
    prompts: Sequence[str],
    tokens: Sequence[str] = (),
    output: Path = Path("images"),
    seeds: str = "0",
    as_json: bool = False,
    **settings: Any,
) -> None:
    with opened(server, key) as client:
        named = dict[str, str]()
        for value in tokens:
            placeholder, name = _named(client, value)
            if placeholder in named:
                raise TokenError(
                    f"two tokens would be {placeholder}; give one of them another name in these "
                    f"prompts: --token '<other>={name}'"
                )
            named[placeholder] = name
        prompts = [filled(prompt, list(named)) for prompt in prompts]
        folder = output_folder(output)
        wanted = list[PromptImages]()
        for number, prompt in enumerate(prompts, start=1):
            stem = file_name(prompt) if len(prompts) == 1 else f"{number:02d}-{file_name(prompt)}"
            paths = {each: folder / f"{stem}-seed{each}.png" for each in parse_seeds(seeds)}
            wanted.append(
                PromptImages({"prompt": prompt, "tokens": named, **_said(settings)}, paths)
            )
        generated = generate_images(client, wanted, steps=settings.get("steps", _STEPS))
    if as_json:
        print_json({"images": [{"path": str(each.path), **each.settings} for each in generated]})
    else:
        print_paths([each.path for each in generated])
    _end(generated, wanted)


def _blend(
    server: str,
    key: str | None,
    *,
    files: Sequence[Path],
    t: float | None = None,
    weights: str | None = None,
    strip: int | None = None,
    prompt: str = blending.PROMPT,
    placeholder: str = "<blend>",
    output: Path = Path("images"),
    seeds: str = "0",
    as_json: bool = False,
    **settings: Any,
) -> None:
    names = [str(each) for each in files]
    shares = shares_of_each(len(names), t=t, weights=weights, strip=strip)
    if not PLACEHOLDER.fullmatch(placeholder):
        raise TokenError(f"placeholder {placeholder!r} is malformed: write <name>")
    prompt = filled(prompt, [placeholder])
    stem, numbers = output_folder(output) / file_name(prompt), parse_seeds(seeds)
    wanted = list[PromptImages]()
    for number, share in enumerate(shares, start=1):
        mix = f"strip{number:03d}" if strip else "-".join(f"{weight:.2f}" for weight in share)
        blends = {placeholder: _mixed(names, share)}
        paths = {each: stem.with_name(f"{stem.name}-seed{each}-{mix}.png") for each in numbers}
        wanted.append(PromptImages({"prompt": prompt, "blends": blends, **_said(settings)}, paths))
    with opened(server, key) as client:
        generated = generate_images(client, wanted, steps=settings.get("steps", _STEPS))
    generated.sort(key=lambda each: (each.seed, each.path))  # as strips lie side by side
    paths = [each.path for each in generated]
    if strip:
        paths += _strips(generated, numbers, strip, stem)
    if as_json:
        saved_images = [each.settings for each in generated]
        print_json({"files": [str(path) for path in paths], "images": saved_images})
    else:
        print_paths(paths)
    _end(generated, wanted)


def _named(client: "Client", value: str) -> tuple[str, str]:
    """A placeholder, and which token it stands for: `<name>=TOKEN`, or TOKEN by the name that it
    was learned under.

    Raises: TokenError if there is no such token; ClientError.
    """
    from services.ledger.ids import is_token_id

    placeholder, name = renamed(value)
    if placeholder:
        return placeholder, name
    found = client.token(value) if is_token_id(value) else next(client.tokens(alias=value), None)
    if found is None:
        raise TokenError(
            f"the service has no token of a subject {value!r}: `dti tokens` lists what it has"
        )
    return str((found.report or {}).get("placeholder") or f"<{value}>"), value


def _mixed(names: Sequence[str], share: Sequence[float]) -> Any:
    """A blend as the service has it."""
    if len(names) == 2:
        return {"a": names[0], "b": names[1], "t": share[1]}
    return [{"token": name, "weight": each} for name, each in zip(names, share, strict=True)]


def _said(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {_FIELDS[name]: value for name, value in settings.items()}


def _strips(
    generated: Sequence[SavedImage], seeds: Sequence[int], strip: int, stem: Path
) -> Iterator[Path]:
    """Those of which no image failed, side by side."""
    from PIL import Image

    from dti_engine.generation.pipeline import save_image

    for seed in seeds:
        row = [each for each in generated if each.seed == seed]
        if len(row) < strip:
            continue
        path = stem.with_name(f"{stem.name}-seed{seed}-strip.png")
        images = [Image.open(each.path).convert("RGB") for each in row]
        save_image(side_by_side(images), path, {"strip": [{**each.settings} for each in row]})
        yield path


def _end(generated: Sequence[SavedImage], wanted: Sequence[PromptImages]) -> None:
    """Raises: typer.Exit if some have failed."""
    missing = sum(len(each.paths) for each in wanted) - len(generated)
    if missing:
        say(f"{missing} images failed; the same command generates them again")
        raise typer.Exit(1)


generate = with_server(
    engine.generate,
    _generate,
    not_there=("batch_size", "device", "dtype", "compiled"),
    about="With --server, a running service generates: nothing is loaded here. --token then takes "
    "the name of a subject that it has learned, for its newest token, or a token's id; --model a "
    "model that it offers. Where it has no room it is asked again for two minutes.",
)
blend = with_server(
    blending.blend,
    _blend,
    not_there=("save", "batch_size", "device", "dtype"),
    about="With --server, a running service blends and generates: in place of files, give names of "
    "subjects that it has learned, or ids of tokens, up to 8. It keeps no blends: for a file of "
    "one, fetch the tokens by [cyan]dti tokens --download[/], and use --save here.",
)
