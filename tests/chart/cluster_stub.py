"""A Kubernetes API server that knows Secrets and the names of kinds, for Helm's `lookup`."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_KINDS = {
    "v1": ("Secret", "ServiceAccount", "ConfigMap", "Service"),
    "apps/v1": ("Deployment",),
    "policy/v1": ("PodDisruptionBudget",),
    "ray.io/v1": ("RayCluster", "RayService"),
}


def _resources(version: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    return {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [
            {
                "name": f"{kind.lower()}s",
                "singularName": kind.lower(),
                "namespaced": True,
                "kind": kind,
                "verbs": ["get", "list"],
            }
            for kind in kinds
        ],
    }


def _group(version: str) -> dict[str, Any]:
    served = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/")[0], "versions": [served], "preferredVersion": served}


_DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(version) for version in _KINDS if "/" in version],
    },
} | {
    f"/{'apis' if '/' in version else 'api'}/{version}": _resources(version, kinds)
    for version, kinds in _KINDS.items()
}
_MISSING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}


@contextmanager
def cluster_with(secrets: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """A kubeconfig of a cluster that has these Secrets, by name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            answer = _DISCOVERY.get(path)
            if "/secrets/" in path:
                answer = secrets.get(path.rsplit("/", 1)[1])
            body = json.dumps(answer or _MISSING | {"reason": "NotFound"}).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "stub",
                    "clusters": [{"name": "stub", "cluster": {"server": url}}],
                    "users": [{"name": "stub", "user": {}}],
                    "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
                }
            )
        )
        yield kubeconfig
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
