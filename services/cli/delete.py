"""`dti delete`: jobs and tokens, for good.

Whether what cannot be undone is meant.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import typer

from dti_engine.cli import options as shared
from dti_engine.cli.console import print_json, say
from dti_engine.errors import ConfigurationError
from services.cli import options
from services.cli.connect import opened
from services.cli.tables import find_job
from services.cli.words import words


def ask(what: str, *, yes: bool) -> None:
    """Whether to delete it. yes: it was said already.

    Raises: ConfigurationError if nobody can be asked; Exit if the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{what} would be deleted for good, and nobody is here to ask: add --yes if so"
        )
    if not typer.confirm(f"Delete {what} for good?", err=True):
        raise typer.Exit(1)


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
    """Delete tokens, or jobs with all tokens or images that they have made, for good.

    Engines refuse deleted tokens within a minute. Workers that still run discard their results.
    """
    with opened(server, api_key) as client:
        tokens = [name for name in names if name.startswith(_TOKEN)]
        jobs = [find_job(client, name) for name in names if not name.startswith(_TOKEN)]
        made = Counter({"token": len(tokens)})
        for job in jobs:
            made[words(job.kind).made] += job.counts.succeeded
        ask(_counted(len(jobs), made), yes=yes)
        for token in tokens:
            client.delete_token(token)
        for job in jobs:
            client.delete_job(job.job)
    deleted = [*tokens, *(job.job for job in jobs)]
    if as_json:
        print_json({"deleted": deleted})
    else:
        say(f"deleted: {', '.join(deleted)}")


def _counted(num_jobs: int, made: Mapping[str, int]) -> str:
    things = [f"{num_jobs} jobs"] if num_jobs else []
    things += [f"{n} {name}s" for name, n in made.items() if n or name == "token"]
    return " and ".join(things)
