"""`python -m services.inference run|deploy|config`: engines that generate images for the API.

run      one engine as a plain process, without Ray
deploy   engines of all served models in a Ray cluster, by Ray Serve
config   print the configuration of Ray Serve that `deploy` uses, for KubeRay's serveConfigV2

Each has --help. Engines and their callers need the same DTI_ENGINE_SECRET, any long random text;
the callers find engines by DTI_ENGINES_URL, such as http://127.0.0.1:8100/engines.
"""

import json
import sys
import threading
from collections.abc import Sequence

import uvicorn

from dti_engine import __version__
from services import logs, metrics
from services.errors import SettingsError
from services.inference.spec import EngineSpec, serve_config
from services.metrics import PrometheusMetrics
from services.process import exit_on_error, on_termination
from services.settings import (
    EngineConfigSettings,
    EngineDeploymentSettings,
    EngineProcessSettings,
)

READY = "ready"
"""`deploy` prints this once all engines accept requests."""


def run(arguments: Sequence[str]) -> None:
    """Serve one model until a signal ends the process."""
    logs.configure("engine")
    exporter = PrometheusMetrics(process="engine")
    metrics.use(exporter)
    with exit_on_error():
        settings = EngineProcessSettings.read(arguments)
        # Imported here because they load torch, which --help does not need.
        from services.inference.factory import open_engine
        from services.inference.http import create_app

        models = settings.served_models()
        if settings.model not in models:
            raise SettingsError(
                f"no served model is called {settings.model!r}: there are {', '.join(models)}"
            )
        engine = open_engine(
            EngineSpec(
                store=settings.store,
                name=settings.model,
                model=models[settings.model].for_engine(),
                threads=settings.threads,
            )
        )
    uvicorn.run(
        create_app(engine, settings.engine_secret, exporter),
        host=settings.host,
        port=settings.port,
        # For the reasons that `services.api.server` gives.
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=60,
    )


def deploy(arguments: Sequence[str]) -> None:
    """Deploy the engines of all served models, and stay to watch Ray until a signal."""
    logs.configure("endpoint")
    stopped = threading.Event()
    with exit_on_error():
        settings = EngineDeploymentSettings.read(arguments)
        # Imported here because it loads Ray, which --help does not need.
        from services.inference import ray_serve

        config = serve_config(
            settings.served_models(),
            settings.store,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            drain_timeout_s=settings.request_drain_s,
            # In KubeRay another version is another image, and so another cluster. Here the cluster
            # stays, and engines of the old code would stay with it.
            version=__version__,
        )
        ray_serve.connect(settings.ray_address, settings.host, settings.port, settings.node_ip)
        on_termination(stopped.set)
        ray_serve.deploy(config, stopped)
        if stopped.is_set():
            sys.exit(0)
        print(READY, flush=True)
        ray_serve.watch(stopped)
    sys.exit(0)


def config(arguments: Sequence[str]) -> None:
    """Print the configuration of Ray Serve as JSON, which is also YAML."""
    with exit_on_error():
        settings = EngineConfigSettings.read(arguments)
        models = settings.served_models()
        printed = serve_config(
            models,
            settings.store,
            host=settings.host,
            port=settings.port,
            threads=settings.threads,
            drain_timeout_s=settings.request_drain_s,
        )
    print(json.dumps(printed, indent=2))


def main() -> None:
    """Run the command that the first argument names."""
    commands = {"run": run, "deploy": deploy, "config": config}
    command = commands.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command is None:
        print(__doc__, file=sys.stderr)
        sys.exit(0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2)
    command(sys.argv[2:])


if __name__ == "__main__":
    main()
