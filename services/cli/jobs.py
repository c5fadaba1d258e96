"""`dti jobs`, `dti job`, `dti cancel`, `dti retry`, `dti delete`: jobs of the service."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated

import typer
from rich.markup import escape

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, results, say
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.display import items_table, job_table, job_words, jobs_table
from services.cli.options import connect, find_job
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
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of jobs, the newest first.")
    ] = 20,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """List the jobs of the service with their states, the newest first.

    Commands that take the id of a job accept a part of it, such as its last six characters.
    """
    with connect(server, api_key) as client:
        found = list(islice(client.jobs(), limit + 1))
    if as_json:
        print_json({"jobs": [job.model_dump(mode="json") for job in found[:limit]]})
        return
    if not found:
        say("no jobs; `dti submit BUNDLE...` and `dti generate-bulk PROMPT...` make them")
        return
    results.print(jobs_table(found[:limit]))
    if len(found) > limit:
        say(f"there are older jobs: dti jobs --limit {5 * limit}")


def job(
    job: options.JobArgument,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    items: Annotated[bool, typer.Option("--items", help="List all items of the job.")] = False,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="List the items that have failed, each with the reason."),
    ] = False,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Show the state of a job, or wait for it and download its tokens or images.

    Ctrl-C while waiting leaves the job running; the same command returns to it. Files that are in
    DIR already are not downloaded again. The exit code of --wait is 1 if a result is missing.
    """
    if wait and (items or failed):
        raise ConfigurationError("--wait reports items as they end: drop --items and --failed")
    if items and failed:
        raise ConfigurationError("--items lists all items, --failed some of them: drop one")
    options.refuse_output_without_wait(output, wait=wait)
    with connect(server, api_key, forever=wait) as client:
        found = find_job(client, job)
        if found.warning:
            say(f"warning: {found.warning}")
        if wait:
            from services.cli.wait import wait_for_job

            wait_for_job(client, found, output=output, as_json=as_json)
        listed = None
        if items or failed:
            listed = list(client.items(found.job, state="failed" if failed else None))
    if as_json:
        document = found.model_dump(mode="json")
        if listed is not None:
            document["items"] = [item.model_dump(mode="json") for item in listed]
        print_json(document)
    elif listed is None:
        results.print(job_table(found))
        _say_next_steps(found)
    elif items:
        results.print(items_table(listed))
    else:
        _print_failures(listed)


def _print_failures(failed: Sequence[Item]) -> None:
    for item in failed:
        results.print(f"[cyan]{escape(item.id)}[/]: {escape(item.reason)}", soft_wrap=True)
    if not failed:
        say("no item has failed")


def cancel(
    job: options.JobArgument,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Cancel a job: results stay, running items stop, and queued items do not start."""
    with connect(server, api_key) as client:
        found = client.cancel(find_job(client, job).job)
    _print_job(found, as_json=as_json)


def retry(
    job: options.JobArgument,
    wait: options.WaitOption = False,
    output: options.OutputOption = None,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Retry the failed subjects or images of a job, with as many attempts as at first.

    Subjects whose bundles are refused fail again: fix the bundles and submit them anew.
    """
    options.refuse_output_without_wait(output, wait=wait)
    with connect(server, api_key, forever=wait) as client:
        name = find_job(client, job).job
        count = client.retry(name).retried
        found = client.job(name)
        items = f"{job_words(found.kind).item}s"
        say(f"{count} {items} are retried" if count else "no item had failed")
        if wait:
            from services.cli.wait import wait_for_job

            wait_for_job(client, found, output=output, as_json=as_json)
    _print_job(found, as_json=as_json)


def _print_job(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job.model_dump(mode="json"))
    else:
        results.print(job_table(job))


def _say_next_steps(job: Job) -> None:
    if not job.ended:
        say(f"dti job {job.job} --wait    shows progress and downloads results")
    if job.counts.failed:
        say(f"dti job {job.job} --failed  lists the reasons of failures")


DELETE_EXAMPLES = (
    "dti delete x7k2mq",
    "dti delete tok_7zk3v9q0d1m2n3p4q5r6s7t8v90000000 --yes",
)

_TOKEN_PREFIX = "tok_"


def delete(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB|TOKEN...",
            help="Jobs, by id or a part of it, and tokens, by whole ids.",
            show_default=False,
        ),
    ],
    yes: options.YesOption = False,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Delete tokens, or jobs with all their tokens or images, for good.

    Engines refuse deleted tokens within a minute. Workers that still run discard their results.
    """
    with connect(server, api_key) as client:
        tokens = [name for name in names if name.startswith(_TOKEN_PREFIX)]
        jobs = [find_job(client, name) for name in names if not name.startswith(_TOKEN_PREFIX)]
        results = Counter({"token": len(tokens)})
        for job in jobs:
            results[job_words(job.kind).result] += job.counts.succeeded
        confirm_deletion(_describe(len(jobs), results), yes=yes)
        for token in tokens:
            client.delete_token(token)
        for job in jobs:
            client.delete_job(job.job)
    deleted = [*tokens, *(job.job for job in jobs)]
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"deleted: {', '.join(deleted)}")


def confirm_deletion(what: str, *, yes: bool) -> None:
    """Ask whether to delete something for good, unless `yes`.

    Raises: ConfigurationError if there is no terminal to ask on; typer.Exit if the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{what} would be deleted for good, and there is no terminal to ask on: add --yes"
        )
    if not typer.confirm(f"Delete {what} for good?", err=True):
        raise typer.Exit(1)


def _describe(num_jobs: int, results: Mapping[str, int]) -> str:
    parts = [f"{num_jobs} jobs"] if num_jobs else []
    parts += [f"{n} {name}s" for name, n in results.items() if n or name == "token"]
    return " and ".join(parts)
