"""The specification of an engine, and the configuration of Ray Serve for all of them.

Both are plain values that can be sent to another machine, and load neither Ray nor torch. The
configuration is what KubeRay has as `serveConfigV2`. Whatever changes an engine stands in `args`:
Serve replaces the engines of a model whose `args` have changed. Limits stand in `deployments`,
since Serve applies a change there without replacing an engine.
"""

from typing import Any

from pydantic import Field

from services.contracts.jobs import Label, WireModel
from services.contracts.models import (
    MAX_CALIBRATED_BATCH_SIZE,
    EngineModel,
    ServedModel,
    ServedModels,
)


class EngineSpec(WireModel):
    """The specification of an engine. Secrets and credentials are in its environment."""

    store: str = Field(description="URL of the store")
    name: Label = Field(description="name of the served model")
    model: EngineModel
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch; None: its own number"
    )
    version: str | None = Field(
        default=None, description="version of the code; None: the cluster is replaced with it"
    )
    continuous: bool = Field(
        default=True, description="whether images join running batches (continuous batching)"
    )


PREFIX = "/engines"
"""The prefix of the paths of all engines."""

DEPLOYMENT = "engine"
"""The name of the one deployment of each application."""

_UPSCALE_DELAY_S = 10
_DOWNSCALE_DELAY_S = 300


def prefix(model: str) -> str:
    """Return the path prefix of the engines of a model."""
    return f"{PREFIX}/{model}"


def serve_config(
    models: ServedModels,
    store: str,
    *,
    host: str = "0.0.0.0",
    port: int = 8000,
    threads: int | None = None,
    drain_timeout_s: int = 330,
    version: str | None = None,
) -> dict[str, Any]:
    """Return the configuration, as JSON.

    Args:
        models: The served models.
        store: The URL of the store.
        host: The address that Serve's proxies listen on.
        port: The port that Serve's proxies listen on.
        threads: The CPU threads of torch in each engine; None for torch's own default.
        drain_timeout_s: The time in which an engine that is stopped finishes its requests.
        version: The version of the code, where a cluster outlives an upgrade of it.
    """
    shared = {"store": store, "threads": threads, "version": version}
    given = {name: value for name, value in shared.items() if value is not None}
    return {
        # On each node with an engine, since KubeRay sends requests to all of them.
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [
            _application(name, model, given, drain_timeout_s) for name, model in models.items()
        ],
    }


def _application(
    name: str, model: ServedModel, shared: dict[str, Any], drain_timeout_s: int
) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": prefix(name),
        "import_path": "services.inference.ray_serve:build",
        "args": {**shared, "name": name, "model": model.engine_fields()},
        "deployments": [
            {
                "name": DEPLOYMENT,
                "graceful_shutdown_timeout_s": drain_timeout_s,
                "autoscaling_config": _autoscaling(model),
            }
        ],
    }


def _autoscaling(model: ServedModel) -> dict[str, Any]:
    limits = model.generation
    return {
        "min_replicas": limits.min_engines,
        "max_replicas": max(limits.min_engines, limits.max_engines),
        # A full batch: fewer requests would start an engine beside one that has room.
        "target_ongoing_requests": limits.batch_size or MAX_CALIBRATED_BATCH_SIZE,
        "upscale_delay_s": _UPSCALE_DELAY_S,
        "downscale_delay_s": _DOWNSCALE_DELAY_S,
    }
