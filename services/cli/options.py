"""Options that commands of the service share, and what they name: a server, a job."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from dti_engine.cli.console import warn
from dti_engine.cli.options import MODEL_PANEL, SERVICE_PANEL
from dti_engine.cli.options import ApiKeyOption as ApiKeyOption
from dti_engine.errors import ConfigurationError

if TYPE_CHECKING:
    from services.client.client import Client
    from services.client.schemas import Job

JOB_PANEL = "Job"

ServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="DTI_SERVER",
        help="URL of the service.",
        rich_help_panel=SERVICE_PANEL,
        show_default="the server that dti serve noted on this machine",
    ),
]
JobArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="A job's id, or its beginning or end if no other recent job shares it.",
        show_default=False,
    ),
]
WaitOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--wait",
        "-w",
        help="Show progress until the job has ended, and download each result as it is done.",
    ),
]
OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="With --wait: folder for tokens (NAME.safetensors) or images (NAME.png).",
        show_default="tokens or images",
    ),
]
TagsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        metavar="NAME=VALUE",
        help="Tag of the job and its tokens, to find them by; may be repeated.",
        rich_help_panel=JOB_PANEL,
    ),
]
WebhookOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        metavar="URL",
        help="URL that is notified when the job has ended.",
        rich_help_panel=JOB_PANEL,
    ),
]
IdempotencyKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="TEXT",
        help="Requests with the same key make one job, however often they are sent.",
        rich_help_panel=JOB_PANEL,
        show_default="a digest of the request",
    ),
]
AgainOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--again",
        help="Make a new job, even if the same request was sent before.",
        rich_help_panel=JOB_PANEL,
    ),
]
DryRunOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything and show the job, but do not make it.",
        rich_help_panel=JOB_PANEL,
    ),
]
ModelOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A model of the service.",
        rich_help_panel=MODEL_PANEL,
        show_default="the service's first",
    ),
]
YesOption: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Delete without asking for confirmation.")
]


_ID_LENGTH = 26  # characters of a job's id
_MIN_PART = 3  # of them that name a recent job
_NUM_RECENT = 100
_WORTH_A_WARNING_S = 2.0  # of one pause
_BETWEEN_WARNINGS_S = 15.0


@contextmanager
def connect(
    server: str | None, api_key: str | None, *, forever: bool = False
) -> "Generator[Client]":
    """Open a client; with `forever`, a service that has answered once is retried without end.

    Raises: SettingsError if no server or API key is configured.
    """
    from services.client.client import Client
    from services.client.config import find_server

    retries: dict[str, Any] = {"retry_for_s": inf} if forever else {}
    with Client.at(find_server(server, api_key), on_wait=_WaitWarnings(), **retries) as client:
        yield client


class _WaitWarnings:
    """Warns of long pauses between attempts, and not of each."""

    def __init__(self) -> None:
        self._warned_at = -inf

    def __call__(self, reason: str, pause_s: float) -> None:
        now = time.monotonic()
        if pause_s >= _WORTH_A_WARNING_S and now - self._warned_at >= _BETWEEN_WARNINGS_S:
            self._warned_at = now
            warn(f"{reason}; trying again")


def find_job(client: "Client", text: str) -> "Job":
    """Return the job of this id, or the one recent job whose id begins or ends with the text.

    Raises: ConfigurationError if there is none, or more than one; ClientError.
    """
    text = text.lower()
    # A whole id needs no list, and may be of a job that is not recent.
    if len(text) == _ID_LENGTH and text.isalnum() and text.isascii():
        return client.job(text)
    if not _MIN_PART <= len(text) < _ID_LENGTH:
        raise ConfigurationError(
            f"{text!r:.80} is not the id of a job: ids have {_ID_LENGTH} digits and letters, and "
            f"{_MIN_PART} at the beginning or the end are enough. `dti jobs` lists them"
        )
    recent = list(islice(client.jobs(), _NUM_RECENT))
    found = [job for job in recent if job.job.startswith(text) or job.job.endswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigurationError(
            f"none of the {len(recent)} newest jobs has an id that begins or ends with {text!r}; "
            "give the whole id of an older job"
        )
    names = ", ".join(job.job for job in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise ConfigurationError(f"{text!r} fits {names}{more}: give more of the id")


def refuse_output_without_wait(output: Path | None, *, wait: bool) -> None:
    """Raise ConfigurationError if there is a folder for results that no option downloads."""
    if output and not wait:
        raise ConfigurationError("--output is for results that --wait downloads: add --wait")
