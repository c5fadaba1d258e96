"""`dti generate-bulk`: prompts to the service, with tokens and seeds, as one job of images."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, results, say
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.connect import opened
from services.cli.requests import Order, another, refuse_contradictions, tags
from services.client.schemas import GenerationDraft

if TYPE_CHECKING:
    from services.client.client import Client

EXAMPLES = (
    'dti generate-bulk "a photo of a <dog> on a beach" --token "<dog>=rex" --seeds 0-3 --wait',
    'dti generate-bulk --file prompts.txt --token "<dog>=rex" --token "<dog>=tom" --wait -o images',
    'dti generate-bulk "a red dog" --seeds 1,5,9 --steps 30 --dry-run',
)

_IMAGES = "Images"


def generate_bulk(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...",
            help="With placeholders of tokens; <tok_...>, a token's id, stands for itself.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            exists=True,
            dir_okay=False,
            help="With a prompt a line.",
            show_default="none",
        ),
    ] = None,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--token",
            "-t",
            metavar="<NAME>=TOKEN",
            help="What a placeholder stands for: a subject, or a token's id. Given more than once "
            "for one placeholder, all prompts are generated with each.",
            rich_help_panel=_IMAGES,
        ),
    ] = None,
    seeds: shared.SeedsOption = "0",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="One of those that the service offers.",
            rich_help_panel=_IMAGES,
            show_default="its first",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="In pixels.",
            rich_help_panel=_IMAGES,
            show_default="the model's own",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of denoising.", rich_help_panel=_IMAGES, show_default="the service's"
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=1, help="1: none.", rich_help_panel=_IMAGES, show_default="the service's"),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What not to show.",
            rich_help_panel=_IMAGES,
            show_default="nothing",
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Generate each alone, so that not even rounding depends on others: slower.",
            rich_help_panel=_IMAGES,
        ),
    ] = False,
    tagged: options.TagsOption = None,
    webhook: options.WebhookOption = None,
    key: options.KeyOption = None,
    again: options.AgainOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would be generated.", rich_help_panel=options.JOB_PANEL
        ),
    ] = False,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Generate every prompt with every token and seed, as one job of the service.

    Prints the job's id; with --wait, the paths of the images. The exit code is 1 if an image has
    failed. Those who ask for single images are served first.

    The same command again finds the same job: after a lost connection, or to wait for it once more;
    images that are there are not fetched again. Ctrl-C while waiting leaves the job running.
    """
    refuse_contradictions(
        key=key, again=again, wait=wait, output=output, dry_run=dry_run, made="images"
    )
    asked = Order(
        {
            name: value
            for name, value in {
                "prompts": _prompts(prompts or [], file),
                "variants": variants(tokens or []),
                "seeds": seeds_of(seeds),
                "model": model,
                "size": size,
                "steps": steps,
                "guidance": guidance,
                "negative_prompt": negative,
                "deterministic": deterministic or None,
                "tags": tags(tagged or []) or None,
                "webhook": {"url": webhook} if webhook else None,
            }.items()
            if value is not None
        }
    )
    with opened(server, api_key, outlast=wait) as client:
        if dry_run:
            _tell_draft(client.draft_images(asked.body), as_json=as_json)
            return
        _submit(
            client,
            asked,
            another(key or asked.key) if again else key or asked.key,
            wait=wait,
            output=output,
            as_json=as_json,
        )


def variants(pairs: Sequence[str]) -> list[dict[str, Any]] | None:
    """`<dog>=rex`, `<dog>=tom`, `<cat>=kit` -> rex with kit, and tom with kit. None: nobody.

    Raises: ConfigurationError.
    """
    found = dict[str, list[str]]()
    for pair in pairs:
        placeholder, is_pair, token = pair.partition("=")
        if not is_pair or not token or placeholder[:1] + placeholder[-1:] != "<>":
            raise ConfigurationError(
                f"--token takes <NAME>=TOKEN, such as <dog>=rex, got {pair!r:.80}"
            )
        found.setdefault(placeholder, []).append(token)
    if not found:
        return None
    return [{"tokens": dict(zip(found, each, strict=True))} for each in product(*found.values())]


def seeds_of(text: str) -> list[int] | dict[str, int]:
    """Return the seeds as the API takes them: a range as its start and length, else a list.

    Raises: ConfigurationError if the text is malformed.
    """
    seeds = shared.parse_seeds(text)
    if isinstance(seeds, range):
        return {"first": seeds.start, "count": len(seeds)}
    return list(seeds)


def _prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """Raises: ConfigurationError if there is none."""
    prompts = list(given)
    if file:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot read {str(file)!r}: {error}") from error
        prompts += [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ConfigurationError("nothing to generate: give a PROMPT, or --file with one a line")
    return prompts


def _submit(
    client: "Client", asked: Order, key: str, *, wait: bool, output: Path | None, as_json: bool
) -> None:
    job = client.submit_images(asked.body, key)
    if not job.created:
        say("the same was asked for before, as this job; --again makes another")
    if wait:
        from services.cli.wait import wait as wait_for

        wait_for(client, job, output=output, as_json=as_json)
    elif as_json:
        print_json(job.model_dump(mode="json"))
    else:
        typer.echo(job.job)
        say(f"{job.count} images are to be generated; `dti job {job.job} --wait` fetches them")


def _tell_draft(draft: GenerationDraft, *, as_json: bool) -> None:
    if as_json:
        print_json(draft.model_dump(mode="json"))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    factors = f"{draft.prompts} prompts x {draft.variants} variants x {draft.seeds} seeds"
    for name, value in (
        ("images", f"{draft.count}: {factors}"),
        ("model", draft.model),
        ("steps", f"{draft.steps} in all"),
        ("not there", ", ".join(draft.missing_tokens)),
    ):
        if value:
            table.add_row(f"[dim]{name}[/]", escape(value))
    results.print(table)
    say("nothing was asked for")
