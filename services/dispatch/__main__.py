"""`python -m services.dispatch`: one dispatcher, without torch and Ray.

SIGTERM and SIGINT drain it: what is in hand is given back, and others go on with it.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from dti_engine.errors import DTIError
from services import logs, metrics
from services.contracts.models import MINIATURE, read_models
from services.dispatch.dispatcher import Dispatcher
from services.engine_client import EngineClient
from services.errors import SettingsError
from services.ledger.ledger import Ledger
from services.metrics import PrometheusMetrics
from services.metrics.exporters import serve
from services.settings import LedgerSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store

_SECRET = "DTI_ENGINE_SECRET"
_PATIENCE = 5.0  # seconds until an engine that says nothing is held for absent


def main(
    store: Annotated[str, typer.Option(envvar="DTI_STORE", help="s3://BUCKET/PREFIX, or a path")],
    engines: Annotated[
        str,
        typer.Option(envvar="DTI_API_ENGINES", help="URL of engines, before the names of models"),
    ],
    served_models: Annotated[
        Path | None, typer.Option(envvar="DTI_MODELS", help="JSON; none: the miniature alone")
    ] = None,
    lease: Annotated[float, typer.Option(help="seconds; the same for the whole service")] = 60,
    look: Annotated[float, typer.Option(help="seconds between looks for work")] = 1,
    at_once: Annotated[
        int | None,
        typer.Option(min=1, max=512, help="images of each model; none: as its offer is worth"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="that an engine may take for an image")] = 600,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="to show metrics at; none: nowhere")
    ] = None,
) -> None:
    """Has engines generate the images of generation jobs, until it is told to stop."""
    logs.configure("dispatcher")
    exporter = PrometheusMetrics(process="dispatcher")
    metrics.use(exporter)
    if metrics_port:
        serve(exporter, metrics_port)
    try:
        if not (secret := os.environ.get(_SECRET)):
            raise SettingsError(f"{_SECRET} is not set: give it the one that engines let in")
        known = read_models(served_models) if served_models else MINIATURE
        ledger = Ledger.on(
            InstrumentedStore(open_store(store)), LedgerSettings(lease=lease, look=look)
        )
    except DTIError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    dispatcher = Dispatcher(
        ledger,
        known,
        lambda: EngineClient(engines, secret, _PATIENCE),
        at_once=at_once,
        seconds=seconds,
    )

    def drain(number: int, frame: FrameType | None) -> None:
        dispatcher.drain()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, drain)
    dispatcher.run()
    sys.exit(0)


if __name__ == "__main__":
    typer.run(main)
