"""`dti jobs`, `dti job`, `dti cancel`, `dti retry`: what the service is at, and is to do."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, results, say
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.connect import opened
from services.cli.tables import find_job, items_table, job_table, jobs_table
from services.cli.words import words
from services.client.schemas import Item, Job

LIST_EXAMPLES = ("dti jobs", "dti jobs --limit 100 --json")
SHOW_EXAMPLES = (
    "dti job x7k2mq",
    "dti job x7k2mq --wait --output tokens",
    "dti job x7k2mq --failed",
    "dti job x7k2mq --items --json",
)
CANCEL_EXAMPLES = ("dti cancel x7k2mq",)
RETRY_EXAMPLES = ("dti retry x7k2mq", "dti retry x7k2mq --wait --output tokens")


def jobs(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest so many.")] = 20,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """List jobs of the service, the newest first, and how each stands.

    Where a command takes a job's id, the end of it will do, such as its last six characters.
    """
    with opened(server, api_key) as client:
        found = list(islice(client.jobs(), limit + 1))
    if as_json:
        print_json({"jobs": [job.model_dump(mode="json") for job in found[:limit]]})
        return
    if not found:
        say("no jobs; `dti submit BUNDLE...` and `dti generate-bulk PROMPT...` make some")
        return
    results.print(jobs_table(found[:limit]))
    if len(found) > limit:
        say(f"there are older ones: dti jobs --limit {5 * limit}")


def job(
    job: options.JobArgument,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    items: Annotated[bool, typer.Option("--items", help="List all of its items.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="List those that have failed, each with the reason.")
    ] = False,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Show how a job stands, or wait for it and fetch its tokens or images.

    Ctrl-C while waiting leaves the job running; the same command comes back to it. What is in DIR
    already is not fetched again. The exit code of --wait is 1 if something is not there.
    """
    if wait and (items or failed):
        raise ConfigurationError("--wait tells of items as they end: drop --items and --failed")
    if items and failed:
        raise ConfigurationError("--items lists all of them, --failed some: drop one")
    _refuse_output_without(wait, output)
    with opened(server, api_key, outlast=wait) as client:
        found = find_job(client, job)
        if found.warning:
            say(f"warning: {found.warning}")
        if wait:
            from services.cli.wait import wait as wait_for

            wait_for(client, found, output=output, as_json=as_json)
        listed = list[Item]()
        if items or failed:
            listed = list(client.items(found.job, state="failed" if failed else None))
        if as_json:
            document = found.model_dump(mode="json")
            if items or failed:
                document["items"] = [item.model_dump(mode="json") for item in listed]
            print_json(document)
            return
    if failed:
        for item in listed:
            results.print(f"[cyan]{escape(item.id)}[/]: {escape(item.reason)}", soft_wrap=True)
        if not listed:
            say("none has failed")
    elif items:
        results.print(items_table(listed))
    else:
        results.print(job_table(found))
        _advise(found)


def cancel(
    job: options.JobArgument,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """End a job early: what has been made stays, what is at work stops, no more begins."""
    with opened(server, api_key) as client:
        found = client.cancel(find_job(client, job).job)
    _tell(found, as_json=as_json)


def retry(
    job: options.JobArgument,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Let the failed subjects or images of a job be tried again, as often as at first.

    Those whose bundles are refused fail again: mend them, and submit them anew.
    """
    _refuse_output_without(wait, output)
    with opened(server, api_key, outlast=wait) as client:
        name = find_job(client, job).job
        count = client.retry(name).retried
        found = client.job(name)
        things = f"{words(found.kind).thing}s"
        say(f"{count} {things} are tried again" if count else "none had failed")
        if wait:
            from services.cli.wait import wait as wait_for

            wait_for(client, found, output=output, as_json=as_json)
    _tell(found, as_json=as_json)


def _refuse_output_without(wait: bool, output: Path | None) -> None:
    if output and not wait:
        raise ConfigurationError("--output is for what is fetched by --wait: add that")


def _tell(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        results.print(job_table(job))


def _advise(job: Job) -> None:
    if not job.ended:
        say(f"dti job {job.job} --wait    shows how it goes on")
    if job.counts.failed:
        say(f"dti job {job.job} --failed  says why they failed")
