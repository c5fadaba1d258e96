"""`python -m services.inference`: engines that generate for the API.

run      one engine as a plain process, without Ray
deploy   engines of all offers in a Ray cluster, by Ray Serve
"""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from dti_engine.errors import DTIError
from services import logs, metrics
from services.contracts.models import MINIATURE, ServedModels, read_models
from services.errors import SettingsError
from services.inference.spec import EngineSpec
from services.metrics import PrometheusMetrics

READY = "ready"
"""What `deploy` prints once all engines generate."""

app = typer.Typer(
    help="Engines that generate for the API. Both they and the API need DTI_ENGINE_SECRET, any long "
    "random text; the API finds them by DTI_API_ENGINES, such as http://127.0.0.1:8100/engines.",
    no_args_is_help=True,
    add_completion=False,
)

Store = Annotated[str, typer.Option(envvar="DTI_STORE", help="s3://BUCKET/PREFIX, or a path")]
Host = Annotated[str, typer.Option(help="address to listen on")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="to listen on")]
File = Annotated[
    Path | None, typer.Option(envvar="DTI_MODELS", help="JSON; none: the miniature alone")
]
Threads = Annotated[int | None, typer.Option(help="of torch on a CPU")]


@app.command()
def run(
    store: Store,
    backbone: Annotated[str, typer.Option(help="name of the offer")] = "miniature",
    host: Host = "127.0.0.1",
    port: Port = 8100,
    served_models: File = None,
    threads: Threads = None,
) -> None:
    """One engine as a plain process, at http://HOST:PORT/engines/BACKBONE."""
    logs.configure("engine")
    exporter = PrometheusMetrics(process="engine")
    metrics.use(exporter)
    import uvicorn

    from services.inference.factory import open_engine, secret  # loads torch
    from services.inference.http import create_app

    try:
        known = _models(served_models)
        if backbone not in known:
            raise SettingsError(f"no offer is called {backbone!r}: there are {', '.join(known)}")
        plan = EngineSpec(store=store, name=backbone, model=known[backbone], threads=threads)
        shared = secret()
        engine = open_engine(plan)
    except DTIError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    uvicorn.run(
        create_app(engine, shared, exporter),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=60,
    )


@app.command()
def deploy(
    store: Store,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="of the Ray cluster; auto: on this host")
    ] = "auto",
    node_ip: Annotated[
        str | None, typer.Option(help="of this host, as the cluster knows it, where Ray errs")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8100,
    served_models: File = None,
    threads: Threads = None,
) -> None:
    """Engines of all offers in a Ray cluster, at http://HOST:PORT/engines/BACKBONE."""
    logs.configure("endpoint")
    from services.inference.factory import secret
    from services.inference.ray_serve import connect, watch  # loads Ray
    from services.inference.ray_serve import deploy as bring_up

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    try:
        secret()
        plans = [
            EngineSpec(store=store, name=name, model=served_model, threads=threads)
            for name, served_model in _models(served_models).items()
        ]
        connect(ray_address, host, port, node_ip)
        # Not before: Ray takes these signals for itself when it is connected to.
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, stop)
        bring_up(plans)
        print(READY, flush=True)
        watch(stopped)
    except DTIError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    sys.exit(0)


def _models(path: Path | None) -> ServedModels:
    return read_models(path) if path else MINIATURE


if __name__ == "__main__":
    app()
