"""What the local service takes from its host: environment variables, ports and a folder."""

import os
import secrets
import socket
from collections.abc import Mapping
from ipaddress import ip_address

from services.errors import SettingsError

LOOPBACK = "127.0.0.1"

_NOT_INHERITED = ("DTI_API_KEY", "RAY_ADDRESS", "RAY_NAMESPACE")
"""A key is for clients. Ray's variables name another cluster, which the service must not join."""

_NOT_PROXIED = ("localhost", LOOPBACK, "::1")


def process_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the service's processes."""
    kept = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
    # A proxy would look for these names on its own host. Programs read either spelling.
    for name in ("no_proxy", "NO_PROXY"):
        listed = [each.strip() for each in kept.get(name, "").split(",") if each.strip()]
        kept[name] = ",".join(dict.fromkeys((*listed, *_NOT_PROXIED)))
    # A slow disk: Ray kills a process of its own that takes longer to load, and starts it again.
    kept.setdefault("RAY_worker_register_timeout_seconds", "600")
    return {
        **kept,
        # Access to the ports of Ray allows running code, so Ray requires this token of all clients.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "DTI_ENGINE_SECRET": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # The supervisor drains the workers before the node stops, so that Ray need not wait.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PYTHONUNBUFFERED": "1",
    }


def short_folder() -> str | None:
    """Return a parent for temporary folders; that of a Mac has too long a path."""
    return "/tmp" if os.path.isdir("/tmp") else None


def free_port(count: int = 1) -> int:
    """Return a port that nothing listens on; with `count`, the first of a range of them."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port + count < 65536 and all(map(_is_free, range(port, port + count))):
            return port


def require_free(host: str, port: int) -> None:
    """Raise SettingsError unless this process could listen at the host and port."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise SettingsError(
            f"--host {host!r} is no address of this host ({error.strerror}): give one, such as "
            f"{LOOPBACK} for this host alone or 0.0.0.0 for all its networks"
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: connections that have just ended are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise SettingsError(
                f"port {port} of {host} cannot be used ({error.strerror}): stop what listens "
                "there, or give another --port or --host"
            ) from error


def local_url(host: str, port: int) -> str:
    """Return the URL at which this host reaches a server that listens at a host and port."""
    reached = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "[::1]"}.get(host, host)
    if ":" in reached and not reached.startswith("["):
        reached = f"[{reached}]"
    return f"http://{reached}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a server that listens at this address is reached from its host alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0
