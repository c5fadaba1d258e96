"""`dti delete`: delete jobs and tokens for good."""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import typer

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, say
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.connect import connect
from services.cli.tables import find_job, job_words

EXAMPLES = (
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
