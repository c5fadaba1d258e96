"""`dti generate-bulk`: prompts, tokens and seeds go to the service as one generation job."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from dti_engine.cli import options as shared
from dti_engine.cli.console import warn
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.generate import bind_token
from services.cli.options import connect
from services.cli.requests import JobOptions, finish_submission, print_draft, request_of
from services.client.schemas import GenerationDraft

EXAMPLES = (
    'dti generate-bulk "a photo of a <dog> on a beach" --token "<dog>=rex" --seeds 0-3 --wait',
    'dti generate-bulk --file prompts.txt -t "<dog>=rex" -t "<dog>=tom" --wait -o images',
    'dti generate-bulk "a photo of a <rex>" --token rex --seeds 1,5,9 --steps 30 --dry-run',
)

_PromptsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPT...",
        help="Prompts with placeholders; a token's id, <tok_...>, is a placeholder of its own.",
        show_default=False,
    ),
]
_FileOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        exists=True,
        dir_okay=False,
        help="File with one prompt per line.",
        show_default="none",
    ),
]
_TokensOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--token",
        "-t",
        metavar="[<x>=]NAME",
        help='The id of a subject or token; [cyan]"<dog>=NAME"[/] gives it another placeholder. '
        "Several tokens of one placeholder generate all prompts with each of them.",
        show_default=False,
    ),
]
_SizeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WIDTHxHEIGHT",
        help="Size of the images in pixels.",
        rich_help_panel=shared.GENERATION_PANEL,
        show_default="the model's own",
    ),
]
_DeterministicOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="Generate each image alone, so that rounding cannot depend on others; slower.",
        rich_help_panel=shared.GENERATION_PANEL,
    ),
]


def generate_bulk(
    prompts: _PromptsArgument = None,
    file: _FileOption = None,
    tokens: _TokensOption = None,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    seeds: shared.SeedsOption = "0",
    steps: shared.GenerationStepsOption = None,
    guidance: shared.GuidanceOption = None,
    negative_prompt: shared.NegativePromptOption = None,
    size: _SizeOption = None,
    deterministic: _DeterministicOption = False,
    model: options.ModelOption = None,
    tags: options.TagsOption = None,
    webhook: options.WebhookOption = None,
    idempotency_key: options.IdempotencyKeyOption = None,
    again: options.AgainOption = False,
    dry_run: options.DryRunOption = False,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Generate every prompt with every token and seed, as one job of the service.

    Prints the job's id; with --wait, the paths of the images. The exit code is 1 if an image has
    failed. The service generates single images of [cyan]dti generate[/] first.

    The same command again finds the same job: after a lost connection, or to wait for it once
    more; images that are here are not downloaded again. Ctrl-C while waiting leaves the job
    running.
    """
    job_options = JobOptions(tags or [], webhook, idempotency_key, again, dry_run, wait, output)
    fields = {
        "prompts": _read_prompts(prompts or [], file),
        "seeds": seeds_body(seeds),
        "model": model,
        "size": size,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative_prompt,
        "deterministic": deterministic or None,
        **job_options.body(),
    }
    with connect(server, api_key, forever=wait) as client:
        bindings = [bind_token(client, token) for token in tokens or []]
        request = request_of({**fields, "variants": variants(bindings)})
        if dry_run:
            _print_draft(client.draft_images(request.body), as_json=as_json)
        else:
            job = client.submit_images(request.body, request.key(job_options))
            finish_submission(client, job, job_options, as_json=as_json)


def variants(bindings: Sequence[tuple[str, str]]) -> list[dict[str, Any]] | None:
    """Return all combinations of tokens, as the API takes them; None without tokens.

    Two tokens for `<dog>` and one for `<cat>` give two variants, each with a dog and the cat.
    """
    names = dict[str, list[str]]()
    for placeholder, name in bindings:
        names.setdefault(placeholder, []).append(name)
    if not names:
        return None
    return [{"tokens": dict(zip(names, each, strict=True))} for each in product(*names.values())]


def seeds_body(text: str) -> list[int] | dict[str, int]:
    """Return the seeds as the API takes them: a range as its start and length, else a list.

    Raises: ConfigurationError if the text is malformed.
    """
    seeds = shared.parse_seeds(text)
    if isinstance(seeds, range):
        return {"first": seeds.start, "count": len(seeds)}
    return list(seeds)


def _read_prompts(arguments: Sequence[str], file: Path | None) -> list[str]:
    """Return the prompts of the command line and the file. Raises: ConfigurationError if none."""
    prompts = list(arguments)
    if file:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot read {str(file)!r}: {error}") from error
        prompts += [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ConfigurationError("nothing to generate: give a PROMPT, or --file with one per line")
    return prompts


def _print_draft(draft: GenerationDraft, *, as_json: bool) -> None:
    for warning in draft.warnings:
        warn(warning)
    factors = f"{draft.prompts} prompts x {draft.variants} variants x {draft.seeds} seeds"
    facts = {
        "images": f"{draft.count}: {factors}",
        "model": draft.model,
        "steps": f"{draft.steps} in all",
        "missing": ", ".join(draft.missing_tokens),
    }
    print_draft(draft.model_dump(mode="json"), facts, as_json=as_json)
