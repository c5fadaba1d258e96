"""`dti delete`: jobs and tokens, for good."""

import sys
from typing import Annotated

import typer

from dti_engine.commands import options as shared
from dti_engine.commands.terminal import print_json, say
from dti_engine.errors import ConfigurationError
from services.commands import options
from services.commands.abbreviations import find_job
from services.commands.opening import opened

EXAMPLES = (
    "dti delete x7k2mq",
    "dti delete tok_7zk3v9q0d1m2n3p4q5r6s7t8v90000000 --yes",
)

_TOKEN = "tok_"  # how ids of tokens begin


def delete(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB|TOKEN...",
            help="Jobs, by id or part of it, and tokens, by whole ids.",
            show_default=False,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: options.ServerOption = None,
    api_key: options.ApiKeyOption = None,
    as_json: shared.JsonOption = False,
) -> None:
    """Delete tokens, or jobs with all tokens that they have made, for good.

    Nobody can paint with them within a minute, and no worker that still runs brings them back.
    """
    with opened(server, api_key) as client:
        tokens = [name for name in names if name.startswith(_TOKEN)]
        jobs = [find_job(client, name) for name in names if not name.startswith(_TOKEN)]
        learned = sum(job.counts.succeeded for job in jobs)
        _ask(len(jobs), learned + len(tokens), yes=yes)
        for token in tokens:
            client.delete_token(token)
        for job in jobs:
            client.delete_job(job.job)
    deleted = [*tokens, *(job.job for job in jobs)]
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"deleted: {', '.join(deleted)}")


def _ask(num_jobs: int, num_tokens: int, *, yes: bool) -> None:
    """Raises: ConfigurationError if nobody can be asked; Exit if the answer is no."""
    if yes:
        return
    what = f"{num_jobs} jobs and {num_tokens} tokens" if num_jobs else f"{num_tokens} tokens"
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{what} would be deleted for good, and nobody is here to ask: add --yes if so"
        )
    if not typer.confirm(f"Delete {what} for good?", err=True):
        raise typer.Exit(1)
