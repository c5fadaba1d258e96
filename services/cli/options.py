"""Arguments and options that commands of the service share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from dti_engine.cli.options import SERVICE_PANEL
from dti_engine.cli.options import ApiKeyOption as ApiKeyOption

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
YesOption: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", help="Delete without asking for confirmation.")
]
