"""`dti submit`: bundles of images go to the service as one training job."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from dti_engine.cli import config_options as training
from dti_engine.cli import options as shared
from dti_engine.cli.console import say, warn
from dti_engine.cli.progress import ProgressBar
from dti_engine.cli.subjects import plan_subjects
from dti_engine.domains import photograph_problem
from dti_engine.errors import ConfigurationError, SubjectError
from dti_engine.files import require_separate
from services.cli import options
from services.cli.display import job_words
from services.cli.options import connect
from services.cli.requests import (
    CheckedBundle,
    JobOptions,
    SubmitRequest,
    check_bundles,
    consent_record,
    finish_submission,
    print_draft,
    training_request,
)
from services.client.schemas import TrainingDraft
from services.contracts.jobs import MAX_ITEMS

if TYPE_CHECKING:
    from services.client.client import Client

EXAMPLES = (
    "dti submit photos --wait",
    "dti submit photos/rex --initializer dog --wait --output tokens",
    "dti submit photos rex.zip --steps 300 --set schedule=cosine --tag customer=7",
    "dti submit photos --dry-run",
    "dti submit photos --skip-refused --json",
)

_PERSONS = "Persons"

_KindOption: TypeAlias = Annotated[
    Literal["object", "style", "person"] | None,
    typer.Option(
        "--kind",
        help="What the images show; a [cyan]person[/] has to consent, see below.",
        show_default="the kind in each bundle.json",
    ),
]
_SkipOption: TypeAlias = Annotated[
    bool,
    typer.Option("--skip-refused", help="Submit the other bundles if some are refused."),
]
_ConsentByOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--consent-by",
        metavar="NAME",
        help="Who attests that the persons consent.",
        rich_help_panel=_PERSONS,
    ),
]
_ConsentBasisOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--consent-basis",
        metavar="TEXT",
        help='What the consent rests on, such as "signed form of 2 May".',
        rich_help_panel=_PERSONS,
    ),
]
_ConsentUntilOption: TypeAlias = Annotated[
    datetime | None,
    typer.Option(
        "--consent-until",
        formats=["%Y-%m-%d"],
        metavar="YYYY-MM-DD",
        help="When the consent expires, in UTC.",
        rich_help_panel=_PERSONS,
        show_default="never",
    ),
]


def submit(
    bundles: shared.BundlesArgument,
    initializers: shared.InitializersOption = None,
    placeholder: shared.PlaceholderOption = None,
    kind: _KindOption = None,
    skip_refused: _SkipOption = False,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    model: options.ModelOption = None,
    recipe: training.RecipeOption = None,
    steps: training.StepsOption = None,
    lr: training.LearningRateOption = None,
    kappa: training.KappaOption = None,
    settings: training.SetOption = None,
    tags: options.TagsOption = None,
    webhook: options.WebhookOption = None,
    idempotency_key: options.IdempotencyKeyOption = None,
    again: options.AgainOption = False,
    dry_run: options.DryRunOption = False,
    force: shared.TrainAnywayOption = False,
    consent_by: _ConsentByOption = None,
    consent_basis: _ConsentBasisOption = None,
    consent_until: _ConsentUntilOption = None,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Have the service learn each bundle of images as one token, all of them as one job.

    Bundles are those of [cyan]dti train[/]: folders, zips and tars, or folders of them. They are
    checked here, uploaded unless the service stores them already, and submitted. Prints the job's
    id; with --wait, the paths of the tokens. The exit code is 1 if a subject has failed.

    The same command again finds the same job: after a lost connection, or to wait for it once
    more. Ctrl-C while waiting leaves the job running.
    """
    job_options = JobOptions(tags or [], webhook, idempotency_key, again, dry_run, wait, output)
    consent = consent_record(consent_by, consent_basis, consent_until)
    if wait:
        _require_separate_tokens(output, bundles)
    changes = training.changed_fields(settings or [], steps=steps, lr=lr, kappa=kappa)
    fields = {
        "model": model,
        "recipe": recipe,
        "overrides": changes or None,
        "force": force or None,
    }
    with connect(server, api_key, forever=wait) as client:
        checked = _check(bundles, placeholder, initializers or [], skip_refused=skip_refused)
        request = training_request(
            checked, kind=kind, consent=consent, fields=fields | job_options.body()
        )
        draft = _draft(client, request)
        _require_domain(draft, checked, force=force)
        if dry_run:
            _print_draft(client, draft, checked, as_json=as_json)
            return
        _upload(client, checked)
        job = client.submit(request.body, request.key(job_options))
        names = [bundle.plan.name for bundle in checked]
        finish_submission(client, job, job_options, as_json=as_json, names=names)


def _check(
    paths: Sequence[Path],
    placeholder: str | None,
    initializers: Sequence[str],
    *,
    skip_refused: bool,
) -> list[CheckedBundle]:
    """Return the good bundles. Raises: SubjectError if some are refused, and not to be skipped."""
    plans = plan_subjects(paths, placeholder, initializers)
    checked, refused = check_bundles(plans.subjects)
    refused = {**plans.refused, **refused}
    for name, error in refused.items():
        say(f"{name}: {error}", label="[bold red]refused:[/] ")
    if refused and not skip_refused:
        raise SubjectError(
            f"{len(refused)} of {len(plans.names)} bundles are refused, so nothing was submitted: "
            "fix them, or add --skip-refused to submit the others"
        )
    if not checked:
        raise SubjectError("all bundles are refused: nothing is left to submit")
    if len(checked) > MAX_ITEMS:
        raise ConfigurationError(
            f"{len(checked)} bundles, and a job has at most {MAX_ITEMS}: submit them in parts"
        )
    return checked


def _require_separate_tokens(output: Path | None, bundles: Sequence[Path]) -> None:
    """Refuse to write tokens over a bundle; within one, the reader of bundles passes them over."""
    folder = output or Path(job_words("training").folder)
    require_separate([folder], bundles, may_be_within=True)


def _draft(client: "Client", request: SubmitRequest) -> TrainingDraft:
    """Have the service check the request, so that it refuses before thousands of uploads."""
    if request.manifest:
        client.upload([request.manifest])
    return client.draft(request.body)


def _require_domain(draft: TrainingDraft, checked: Sequence[CheckedBundle], *, force: bool) -> None:
    """Raise SubjectError if a bundle has photographs that the model cannot learn."""
    names = [bundle.plan.name for bundle in checked if bundle.has_photographs]
    if draft.learns_photographs or not names:
        return
    problem = photograph_problem(draft.model)
    if not force:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise SubjectError(f"{names[0]}{more}: {problem}")
    warn(f"forced: {problem}")


def _upload(client: "Client", checked: Sequence[CheckedBundle]) -> None:
    contents = [bundle.content for bundle in checked]
    with ProgressBar("uploading", len({content.sha256 for content in contents})) as progress:
        client.upload(contents, on_sent=lambda content: progress.advance())


def _print_draft(
    client: "Client", draft: TrainingDraft, checked: Sequence[CheckedBundle], *, as_json: bool
) -> None:
    missing = client.missing([bundle.content for bundle in checked])
    size_bytes = sum(content.size for content in missing)
    facts = {
        "subjects": f"{draft.count}",
        "model": draft.model,
        "recipe": draft.recipe,
        "steps": f"{draft.steps} in all, at most",
        "to upload": f"{len(missing)} bundles, {size_bytes / 1e6:.1f} MB",
        "config": ", ".join(f"{name} {value}" for name, value in draft.config.items()),
    }
    document = draft.model_dump(mode="json") | {"upload_bytes": size_bytes}
    print_draft(document, facts, as_json=as_json)
