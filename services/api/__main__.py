"""`python -m services.api`: one process of the API."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dti_engine.errors import DTIError
from services import logs, metrics
from services.api.app import create_app
from services.api.server import Server
from services.api.settings import VARIABLE, ApiSettings, api_settings
from services.contracts.models import MINIATURE, read_offers
from services.ledger.ledger import Ledger
from services.metrics import PrometheusMetrics
from services.storage.instrumented import Measured
from services.storage.open import open_store

_HELP = """The service over HTTP: a process, without torch and Ray; any number beside each other.

Keys are made by `dti keys create`. The documentation is at /docs.

Of S3, DTI_S3_ENDPOINT and others say what docs/storage.md has.

Pictures are painted by engines: DTI_API_ENGINES says where they are, and DTI_ENGINE_SECRET is what
they let in.

How much is taken and how long is waited, variables say, with these defaults:

\b
""" + "\n".join(
    f"{VARIABLE + name.upper():26} {field.get_default()!s:>9}  {field.description or ''}"
    for name, field in ApiSettings.model_fields.items()
)


def main(
    store: Annotated[
        str, typer.Option(envvar="DTI_STORE", help="s3://BUCKET/PREFIX, file:///FOLDER or a path")
    ],
    host: Annotated[str, typer.Option(envvar="DTI_HOST", help="address to listen on")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, typer.Option(envvar="DTI_PORT", min=0, max=65535, help="0: any that is free")
    ] = 8000,
    offers: Annotated[
        Path | None,
        typer.Option(envvar="DTI_OFFERS", help="JSON: the models offered; none: the miniature"),
    ] = None,
) -> None:
    logs.configure("api")
    metrics.use(PrometheusMetrics(process="api"))
    try:
        app = create_app(
            Ledger.on(Measured(open_store(store))),
            read_offers(offers) if offers else MINIATURE,
            settings=api_settings(os.environ),
            engine_secret=os.environ.get("DTI_ENGINE_SECRET", ""),
        )
    except DTIError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    server = Server(app, host, port)
    server.run()
    sys.exit(0 if server.started else 1)


main.__doc__ = _HELP

if __name__ == "__main__":
    typer.run(main)
