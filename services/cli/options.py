"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

PANEL = "Service"

ServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="DTI_SERVER",
        help="Of the service.",
        rich_help_panel=PANEL,
        show_default="what dti serve noted on this machine",
    ),
]
ApiKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="DTI_API_KEY",
        help="To the service; others on this machine may see it here, not in the environment.",
        rich_help_panel=PANEL,
        show_default="the one noted with the server",
    ),
]
JobArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="A job's id; its beginning or end will do, if one recent job alone has it.",
        show_default=False,
    ),
]
WaitOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--wait",
        "-w",
        help="Show how it goes on until it has ended, and fetch what is made as it is made.",
    ),
]
OutputOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="With --wait: folder for tokens, each NAME.safetensors, or images, each NAME.png.",
        show_default="tokens or images",
    ),
]

JOB_PANEL = "Job"

TagsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--tag",
        metavar="NAME=VALUE",
        help="To find the job, and the tokens it learns, by; may be repeated.",
        rich_help_panel=JOB_PANEL,
    ),
]
WebhookOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        metavar="URL",
        help="Is told when the job has ended.",
        rich_help_panel=JOB_PANEL,
    ),
]
KeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="TEXT",
        help="Idempotency key: the same key is the same job, whoever submits it how often.",
        rich_help_panel=JOB_PANEL,
        show_default="follows from what is asked for",
    ),
]
AgainOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--again",
        help="Make a new job, though the same was asked for before.",
        rich_help_panel=JOB_PANEL,
    ),
]
