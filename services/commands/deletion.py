"""`dti delete`: jobs and tokens, for good."""

from typing import Annotated

import typer

from dti_engine.commands import options as shared
from dti_engine.commands.terminal import print_json, say
from services.commands import options
from services.commands.abbreviations import find_job
from services.commands.asking import ask
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
        ask(_counted(len(jobs), learned + len(tokens)), yes=yes)
        for token in tokens:
            client.delete_token(token)
        for job in jobs:
            client.delete_job(job.job)
    deleted = [*tokens, *(job.job for job in jobs)]
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"deleted: {', '.join(deleted)}")


def _counted(num_jobs: int, num_tokens: int) -> str:
    return f"{num_jobs} jobs and {num_tokens} tokens" if num_jobs else f"{num_tokens} tokens"
