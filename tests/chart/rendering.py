"""Rendering of the Helm chart by real Helm, once for each set of values."""

import json
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/dti"
TOOLS = ROOT.parent / "shared/tools"
STORE = "s3://bucket/dti"

Object = dict[str, Any]


class Rendered:
    """The objects that the chart renders to, and what Helm says."""

    def __init__(self, text: str, error: str) -> None:
        self.text = text
        self.error = " ".join(error.split())

    @cached_property
    def objects(self) -> list[Object]:
        return [each for each in yaml.load_all(self.text, yaml.CSafeLoader) if each]

    def find(self, kind: str, name: str = "") -> Object | None:
        """The one object of a kind whose name ends so."""
        found = [
            each
            for each in self.objects
            if each["kind"] == kind and each["metadata"]["name"].endswith(name)
        ]
        assert len(found) <= 1, found
        return found[0] if found else None

    def get(self, kind: str, name: str = "") -> Object:
        found = self.find(kind, name)
        assert found is not None, f"no {kind} {name} among {self.names()}"
        return found

    def names(self) -> set[str]:
        return {f"{each['kind']} {each['metadata']['name']}" for each in self.objects}

    def clusters(self) -> dict[str, Object]:
        """The specs of Ray clusters by component."""
        specs: dict[str, Object] = {}
        for each in self.objects:
            if each["kind"] in ("RayCluster", "RayService"):
                spec = each["spec"]
                component = each["metadata"]["labels"]["app.kubernetes.io/component"]
                specs[component] = spec.get("rayClusterConfig", spec)
        return specs

    def pods(self) -> dict[str, Object]:
        """All pod templates, by the name of their object and group."""
        pods: dict[str, Object] = {}
        for each in self.objects:
            name = f"{each['kind']} {each['metadata']['name']}"
            if each["kind"] in ("Deployment", "Job"):
                pods[name] = each["spec"]["template"]
            elif each["kind"] == "Pod":
                pods[name] = each
        for component, spec in self.clusters().items():
            pods[f"{component} head"] = spec["headGroupSpec"]["template"]
            for group in spec.get("workerGroupSpecs", []):
                pods[f"{component} {group['groupName']}"] = group["template"]
        return pods

    def serve_config(self) -> Object:
        return yaml.safe_load(self.get("RayService")["spec"]["serveConfigV2"])


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


class Chart:
    """The chart, rendered by one or the other Helm."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache: dict[str, Rendered] = {}

    def render(
        self, values: Mapping[str, Any] | None = None, *files: Path, **options: Any
    ) -> Rendered:
        """What the chart renders to. Fails the test if Helm fails."""
        rendered = self.run(values, *files, **options)
        assert not rendered.error, rendered.error
        return rendered

    def error(self, values: Mapping[str, Any] | None = None, **options: Any) -> str:
        """The message with which Helm refuses these values. Fails the test if it does not."""
        rendered = self.run(values, **options)
        assert rendered.error, "Helm accepts the values"
        return rendered.error

    def run(
        self,
        values: Mapping[str, Any] | None = None,
        *files: Path,
        helm: str = "helm",
        release: str = "t",
        apis: tuple[str, ...] = ("ray.io/v1",),
        store: str | None = STORE,
    ) -> Rendered:
        command = [str(self._folder / helm), "template", release, str(CHART), "-n", "prod"]
        command += [f"--api-versions={each}" for each in apis]
        command += [f"--values={each}" for each in files]
        given = dict(values or {})
        if store is not None and not files:
            given = {"store": store} | given
        text = json.dumps(given, sort_keys=True)
        if (key := f"{command} {text}") not in self._cache:
            done = subprocess.run(
                [*command, "--values=-"], input=text, capture_output=True, text=True, timeout=60
            )
            error = done.stderr if done.returncode else ""
            self._cache[key] = Rendered(done.stdout, error)
        return self._cache[key]
