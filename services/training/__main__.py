"""`python -m services.training`: one training worker as a plain process, without Ray.

SIGTERM and SIGINT drain it: what is at work is kept, and others go on with it.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from dti_engine.errors import DTIError
from services import logs, metrics
from services.contracts.models import MINIATURE, read_models
from services.metrics import PrometheusMetrics


def main(
    store: Annotated[str, typer.Option(envvar="DTI_STORE", help="s3://BUCKET/PREFIX, or a path")],
    pool: Annotated[str, typer.Option(help="name of the offer to work for")] = "miniature",
    served_models: Annotated[
        Path | None, typer.Option(envvar="DTI_MODELS", help="JSON; none: the miniature alone")
    ] = None,
    lease: Annotated[float, typer.Option(help="seconds; the same for the whole service")] = 60,
    checkpoint: Annotated[float, typer.Option(help="seconds between two of a subject")] = 30,
    stuck: Annotated[
        float, typer.Option(help="seconds until a device that does not come back is given up")
    ] = 600,
    threads: Annotated[int | None, typer.Option(help="of torch on a CPU")] = None,
) -> None:
    """A training worker that claims subjects of one pool, until it is told to stop."""
    logs.configure("worker")
    metrics.use(PrometheusMetrics(process="worker"))
    from services.training.factory import WorkerSpec, open_worker  # loads torch

    try:
        known = read_models(served_models) if served_models else MINIATURE
        if pool not in known:
            typer.echo(
                f"error: no offer is called {pool!r}: there are {', '.join(known)}", err=True
            )
            raise typer.Exit(2)
        plan = WorkerSpec(
            store=store,
            pool=pool,
            model=known[pool],
            lease=lease,
            checkpoint=checkpoint,
            stuck=stuck,
            threads=threads,
        )
        worker = open_worker(plan)
    except DTIError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error

    def drain(number: int, frame: FrameType | None) -> None:
        worker.drain()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, drain)
    worker.run()
    sys.exit(0)


if __name__ == "__main__":
    typer.run(main)
