"""`dti submit`: bundles of images to the service, as one job."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, results, say
from dti_engine.cli.subjects import plan
from dti_engine.errors import ConfigurationError, SubjectError
from services.cli import options
from services.cli.bars import counting
from services.cli.connect import opened
from services.cli.requests import (
    Checked,
    Order,
    another,
    check,
    consent,
    order,
    overrides,
    refuse_contradictions,
    tags,
)
from services.client.schemas import TrainingDraft
from services.contracts.jobs import MAX_ITEMS

if TYPE_CHECKING:
    from services.client.client import Client

EXAMPLES = (
    "dti submit photos --wait",
    "dti submit photos/rex --initializer dog --wait --output tokens",
    "dti submit photos rex.zip --set steps=300 --tag customer=7",
    "dti submit photos --dry-run",
    "dti submit photos --skip-refused --json",
)

_PERSONS = "Persons"


def submit(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE...", exists=True, help=shared.BUNDLE_HELP, show_default=False
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
    kind: Annotated[
        Literal["object", "style", "person"] | None,
        typer.Option(
            help="What the images show; a [cyan]person[/] has to consent, see below.",
            show_default="what each bundle.json says",
        ),
    ] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Submit the others, if some are refused.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="One of those that the service offers.",
            rich_help_panel=options.JOB_PANEL,
            show_default="its first",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Complete settings, as of [cyan]dti train[/].",
            rich_help_panel=options.JOB_PANEL,
            show_default="the model's",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change one setting of the recipe, such as steps=300; may be repeated.",
            rich_help_panel=options.JOB_PANEL,
        ),
    ] = None,
    tagged: options.TagsOption = None,
    webhook: options.WebhookOption = None,
    key: options.KeyOption = None,
    again: options.AgainOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check all of it, here and there, and make no job.",
            rich_help_panel=options.JOB_PANEL,
        ),
    ] = False,
    consent_by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Who attests that they consent.", rich_help_panel=_PERSONS
        ),
    ] = None,
    consent_basis: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help='Such as "signed form of 2 May".', rich_help_panel=_PERSONS
        ),
    ] = None,
    consent_until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            help="When it expires, in UTC.",
            rich_help_panel=_PERSONS,
            show_default="never",
        ),
    ] = None,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Have the service learn each bundle of images as one token, all of them as one job.

    Bundles are what [cyan]dti train[/] takes: folders, zips and tars, or folders of them. They are
    checked here, uploaded as far as the service does not have them, and submitted. Prints the
    job's id; with --wait, the paths of the tokens. The exit code is 1 if a subject has failed.

    The same command again finds the same job: after a lost connection, or to wait for it once more.
    Ctrl-C while waiting leaves the job running.
    """
    refuse_contradictions(
        key=key, again=again, wait=wait, output=output, dry_run=dry_run, made="tokens"
    )
    record = consent(consent_by, consent_basis, consent_until)
    with opened(server, api_key, outlast=wait) as client:
        checked = _checked(bundles, placeholder, initializers or [], skip_refused=skip_refused)
        asked = order(
            checked,
            kind=kind,
            consent=record,
            settings={
                "model": model,
                "recipe": recipe,
                "overrides": overrides(settings or []) or None,
                "tags": tags(tagged or []) or None,
                "webhook": {"url": webhook} if webhook else None,
            },
        )
        # Before thousands of uploads: what the service will not take is said at once.
        draft = _draft(client, asked)
        if dry_run:
            _tell_draft(client, draft, checked, as_json=as_json)
            return
        _upload(client, checked)
        job = client.submit(asked.body, another(key or asked.key) if again else key or asked.key)
        if not job.created:
            say("the same was submitted before, as this job; --again makes another")
        if wait:
            from services.cli.wait import wait as wait_for

            names = [each.plan.name for each in checked]
            wait_for(client, job, output=output, as_json=as_json, names=names)
        elif as_json:
            print_json(job.model_dump(mode="json"))
        else:
            typer.echo(job.job)
            say(f"{len(checked)} subjects submitted; `dti job {job.job} --wait` shows how it goes")


def _checked(
    paths: list[Path], placeholder: str | None, initializers: list[str], *, skip_refused: bool
) -> list[Checked]:
    """Raises: ConfigurationError if some are refused, and not to be skipped."""
    plans = plan(paths, placeholder, initializers)
    checked, refused = check(plans.subjects)
    refused = {**plans.refused, **refused}
    for name, error in refused.items():
        say(f"{name}: {error}", label="[bold red]refused:[/] ")
    if refused and not skip_refused:
        raise SubjectError(
            f"{len(refused)} of {len(plans.names)} bundles are refused, so nothing was submitted: "
            "mend them, or add --skip-refused to submit the others"
        )
    if not checked:
        raise SubjectError("all bundles are refused: nothing is left to submit")
    if len(checked) > MAX_ITEMS:
        raise ConfigurationError(
            f"{len(checked)} bundles, and a job has at most {MAX_ITEMS}: submit them in parts"
        )
    return checked


def _upload(client: "Client", checked: list[Checked]) -> None:
    with counting("uploading", len({each.parcel.sha256 for each in checked})) as advance:
        client.upload([each.parcel for each in checked], on_sent=lambda parcel: advance())


def _draft(client: "Client", asked: Order) -> TrainingDraft:
    if asked.manifest:
        client.upload([asked.manifest])
    return client.draft(asked.body)


def _tell_draft(
    client: "Client", draft: TrainingDraft, checked: list[Checked], *, as_json: bool
) -> None:
    missing = client.missing([each.parcel for each in checked])
    size = sum(parcel.size for parcel in missing)
    if as_json:
        print_json(draft.model_dump(mode="json") | {"upload_bytes": size})
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("subjects", f"{draft.count}"),
        ("model", draft.model),
        ("recipe", draft.recipe),
        ("steps", f"{draft.steps} in all, at most"),
        ("to upload", f"{len(missing)} bundles, {size / 1e6:.1f} MB"),
        ("config", ", ".join(f"{name} {value}" for name, value in draft.config.items())),
    ):
        table.add_row(f"[dim]{name}[/]", escape(value))
    results.print(table)
    say("nothing was submitted")
