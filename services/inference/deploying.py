"""Engines brought up in a Ray cluster, and kept there while this process lives."""

import threading

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from services import logs
from services.errors import SettingsError
from services.inference.deployment import application, prefix
from services.inference.plans import EnginePlan

log = logs.logger(__name__)

_LOOK = 2.0  # seconds between looks whether Ray is still there


def connect(address: str, host: str, port: int, node_ip: str | None = None) -> None:
    """Connect this process to a cluster, and have Serve listen. Raises: SettingsError."""
    try:
        ray.init(
            address=address,
            namespace="serve",
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address=node_ip,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(f"no Ray cluster at {address!r}: {error}"[:500]) from error
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        # A request takes as long as it takes: the API says how long it waits.
        http_options=HTTPOptions(host=host, port=port, request_timeout_s=None),
    )


def deploy(plans: list[EnginePlan]) -> None:
    """Bring up the engines of all offers, and wait until each paints.

    Raises: SettingsError if one cannot be.
    """
    for plan in plans:
        try:
            serve.run(application(plan), name=plan.name, route_prefix=prefix(plan.name))
        except RuntimeError as error:
            said = serve.status().applications[plan.name].deployments
            why = "; ".join(each.message for each in said.values()) or str(error)
            raise SettingsError(f"no engine of {plan.name!r} comes up: {why}"[-2000:]) from error
        log.info("engines are up", offer=plan.name)


def watch(stopped: threading.Event) -> None:
    """Until it is stopped. Raises: SettingsError if Ray is gone."""
    while not stopped.wait(_LOOK):
        try:
            serve.status()
        except Exception as error:
            raise SettingsError(f"Ray is gone: {error}"[:300]) from error
