"""`dti erase` and `dti uploads`: what the service stores of subjects, and how to erase it."""

from itertools import islice
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, results, say
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.display import format_time
from services.cli.jobs import confirm_deletion
from services.cli.options import connect, find_job
from services.cli.requests import parse_tags

ERASE_EXAMPLES = (
    "dti erase --subject rex",
    "dti erase --tag customer=7 --yes",
    "dti erase --job x7k2mq",
)
UPLOADS_EXAMPLES = ("dti uploads", "dti uploads --limit 1000 --json")

_JOB_ID_LENGTH = 26


def erase(
    subject: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Erase a subject, by its id.", show_default=False),
    ] = None,
    tagged: Annotated[
        str | None,
        typer.Option(
            "--tag", metavar="NAME=VALUE", help="Erase the jobs with this tag.", show_default=False
        ),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="JOB", help="Erase a job, by its id or a part of it.", show_default=False
        ),
    ] = None,
    yes: options.YesOption = False,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Erase a subject, a job, or the jobs with a tag, and all that was made of them, for good.

    That is tokens, images, items, aliases, Idempotency-Keys, and uploads that no other subject
    needs. Running items are stopped first. Engines forget the tokens within a minute. The receipt
    that the service keeps does not say who was erased. After an interruption, the same command
    erases what is left.
    """
    if sum(each is not None for each in (subject, tagged, job)) != 1:
        raise ConfigurationError("give one of --subject, --tag and --job")
    with connect(server, api_key) as client:
        if subject is not None:
            what, name = "subject", subject
        elif tagged is not None:
            [(key, value)] = parse_tags([tagged]).items()
            what, name = "tag", f"{key}:{value}"
        else:
            assert job is not None
            # A whole id is not looked up: the job may have been deleted, and what is left may not.
            name = job if len(job) == _JOB_ID_LENGTH else find_job(client, job).job
            what = "job"
        confirm_deletion(f"{what} {name} with everything that was made of it", yes=yes)
        erasure = client.erase(what, name)
    if as_json:
        print_json(erasure.model_dump(mode="json"))
        return
    erased = [
        f"{count} {name.replace('_', ' ')}" for name, count in erasure.counts.items() if count
    ]
    say(f"erased: {', '.join(erased) or 'nothing, there was nothing left'}; receipt {erasure.id}")


def uploads(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Number of uploads.")] = 50,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """List the files that were uploaded, by their digests."""
    with connect(server, api_key) as client:
        found = list(islice(client.uploads(), limit + 1))
    if as_json:
        print_json({"uploads": [upload.model_dump(mode="json") for upload in found[:limit]]})
        return
    if not found:
        say("no uploads; `dti submit BUNDLE...` uploads files")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("sha256", style="cyan", overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("uploaded", no_wrap=True)
    for upload in found[:limit]:
        when = format_time(upload.uploaded) if upload.uploaded else "-"
        table.add_row(upload.sha256, f"{upload.size:,}", when)
    results.print(table)
    if len(found) > limit:
        say(f"there are more uploads: dti uploads --limit {10 * limit}")
