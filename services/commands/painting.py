"""`dti generate` and `dti blend`, which have a service paint if one is named."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dti_engine.commands import blending
from dti_engine.commands import painting as engine
from dti_engine.commands.blends import shares_of_each
from dti_engine.commands.inputs import renamed
from dti_engine.commands.orders import file_name, filled, side_by_side
from dti_engine.commands.terminal import output_folder, print_json, print_paths, say
from dti_engine.config import PLACEHOLDER
from dti_engine.errors import TokenError
from services.commands.opening import opened
from services.commands.pictures import Picture, Wanted, paint
from services.commands.remotely import with_server

if TYPE_CHECKING:
    from services.client.client import Client

_SERVER = "--server http://127.0.0.1:8000"

GENERATE_EXAMPLES = (
    *engine.EXAMPLES,
    f'dti generate "a {{}} in the snow" --token rex -n 4 {_SERVER}',
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
    count: int = 1,
    output: Path = Path("pictures"),
    seed: int = 0,
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
        wanted = list[Wanted]()
        for number, prompt in enumerate(prompts, start=1):
            stem = file_name(prompt) if len(prompts) == 1 else f"{number:02d}-{file_name(prompt)}"
            paths = {each: folder / f"{stem}-seed{each}.png" for each in range(seed, seed + count)}
            wanted.append(Wanted({"prompt": prompt, "tokens": named, **_said(settings)}, paths))
        painted = paint(client, wanted, steps=settings.get("steps", _STEPS))
    if as_json:
        print_json({"pictures": [{"path": str(each.path), **each.settings} for each in painted]})
    else:
        print_paths([each.path for each in painted])
    _end(painted, wanted)


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
    count: int = 1,
    output: Path = Path("pictures"),
    seed: int = 0,
    as_json: bool = False,
    **settings: Any,
) -> None:
    names = [str(each) for each in files]
    shares = shares_of_each(len(names), t=t, weights=weights, strip=strip)
    if not PLACEHOLDER.fullmatch(placeholder):
        raise TokenError(f"placeholder {placeholder!r} is malformed: write <name>")
    prompt = filled(prompt, [placeholder])
    stem, seeds = output_folder(output) / file_name(prompt), range(seed, seed + count)
    wanted = list[Wanted]()
    for number, share in enumerate(shares, start=1):
        mix = f"strip{number:03d}" if strip else "-".join(f"{weight:.2f}" for weight in share)
        blends = {placeholder: _mixed(names, share)}
        paths = {each: stem.with_name(f"{stem.name}-seed{each}-{mix}.png") for each in seeds}
        wanted.append(Wanted({"prompt": prompt, "blends": blends, **_said(settings)}, paths))
    with opened(server, key) as client:
        painted = paint(client, wanted, steps=settings.get("steps", _STEPS))
    painted.sort(key=lambda each: (each.seed, each.path))  # as strips lie side by side
    paths = [each.path for each in painted]
    if strip:
        paths += _strips(painted, seeds, strip, stem)
    if as_json:
        pictures = [each.settings for each in painted]
        print_json({"files": [str(path) for path in paths], "pictures": pictures})
    else:
        print_paths(paths)
    _end(painted, wanted)


def _named(client: "Client", value: str) -> tuple[str, str]:
    """A placeholder, and which token it stands for: `<name>=TOKEN`, or TOKEN by the name that it
    was learned under.

    Raises: TokenError if there is no such token; ClientError.
    """
    from services.ledger.ids import is_token

    placeholder, name = renamed(value)
    if placeholder:
        return placeholder, name
    found = client.token(value) if is_token(value) else next(client.tokens(alias=value), None)
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
    painted: Sequence[Picture], seeds: Sequence[int], strip: int, stem: Path
) -> Iterator[Path]:
    """Those of which no picture failed, side by side."""
    from PIL import Image

    from dti_engine.generation import save_picture

    for seed in seeds:
        row = [each for each in painted if each.seed == seed]
        if len(row) < strip:
            continue
        path = stem.with_name(f"{stem.name}-seed{seed}-strip.png")
        images = [Image.open(each.path).convert("RGB") for each in row]
        save_picture(side_by_side(images), path, {"strip": [{**each.settings} for each in row]})
        yield path


def _end(painted: Sequence[Picture], wanted: Sequence[Wanted]) -> None:
    """Raises: typer.Exit if some have failed."""
    missing = sum(len(each.paths) for each in wanted) - len(painted)
    if missing:
        say(f"{missing} pictures failed; the same command paints them again")
        raise typer.Exit(1)


generate = with_server(
    engine.generate,
    _generate,
    not_there=("batch_size", "device", "dtype", "compiled"),
    about="With --server, a running service paints: nothing is loaded here. --token then takes the "
    "name of a subject that it has learned, for its newest token, or a token's id; --backbone a "
    "model that it offers. Where it has no room it is asked again for two minutes.",
)
blend = with_server(
    blending.blend,
    _blend,
    not_there=("save", "batch_size", "device", "dtype"),
    about="With --server, a running service blends and paints: in place of files, give names of "
    "subjects that it has learned, or ids of tokens, up to 8. It keeps no blends: for a file of "
    "one, fetch the tokens by [cyan]dti tokens --download[/], and use --save here.",
)
