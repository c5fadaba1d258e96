"""What an upgrade of the release changes, and what it keeps."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart.cluster_stub import cluster_with
from chart.rendering import CHART, STORE, Chart, Object
from chart.test_switches import POOLS, at, merged


def _secrets(
    folder: Path, helm: str, tmp_path: Path, existing: dict[str, Any]
) -> dict[str, Object]:
    """The Secrets that Helm renders for a cluster that has these ones."""
    with cluster_with(existing, tmp_path) as kubeconfig:
        done = subprocess.run(
            [
                *(folder / helm, "template", "t", CHART, "--namespace", "prod"),
                *("--dry-run=server", "--disable-openapi-validation", "--kubeconfig", kubeconfig),
                *("--api-versions=ray.io/v1", f"--set=store={STORE}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    documents = yaml.load_all(done.stdout, yaml.CSafeLoader)
    return {
        each["metadata"]["name"]: each for each in documents if each and each["kind"] == "Secret"
    }


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_an_upgrade_keeps_the_secrets_that_the_cluster_has(
    helm_folder: Path, helm: str, tmp_path: Path
) -> None:
    first = _secrets(helm_folder, helm, tmp_path, {})
    assert set(first) == {"t-dti-engine", "t-dti-ray"}
    for secret in first.values():
        secret["metadata"]["annotations"] |= {
            "meta.helm.sh/release-name": "t",
            "meta.helm.sh/release-namespace": "prod",
        }
    second = _secrets(helm_folder, helm, tmp_path, first)
    assert {name: each["data"] for name, each in second.items()} == {
        name: each["data"] for name, each in first.items()
    }


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_an_install_makes_new_secrets(helm_folder: Path, helm: str, tmp_path: Path) -> None:
    first = _secrets(helm_folder, helm, tmp_path, {})
    second = _secrets(helm_folder, helm, tmp_path, {})
    for name in first:
        assert first[name]["data"] != second[name]["data"]
        (value,) = first[name]["data"].values()
        assert len(base64.b64decode(value)) >= 32


def test_secrets_stay_when_the_release_is_uninstalled(chart: Chart) -> None:
    # Ray's token must be that of pods which an uninstall has not ended yet, and a release that is
    # installed again finds its own engines.
    for name in ("-engine", "-ray"):
        annotations = chart.render().get("Secret", name)["metadata"]["annotations"]
        assert annotations["helm.sh/resource-policy"] == "keep"


def test_no_credential_stands_outside_secrets(chart: Chart) -> None:
    rendered = chart.render()
    values = [
        value
        for each in rendered.objects
        if each["kind"] == "Secret"
        for value in each["data"].values()
    ]
    assert len(values) == 2
    for value in values:
        assert rendered.text.count(value) == 1
        assert base64.b64decode(value).decode() not in rendered.text


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_an_upgrade_of_the_chart_alone_makes_no_cluster_anew(
    helm_folder: Path, chart: Chart, version: str, tmp_path: Path
) -> None:
    packed = tmp_path / version
    subprocess.run(
        [helm_folder / "helm", "package", CHART, "--version", version, "--destination", packed],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [
            *(helm_folder / "helm", "template", "t", packed / f"dti-{version}.tgz", "-n", "prod"),
            *("--api-versions=ray.io/v1", f"--set=store={STORE}"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    documents = [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]
    for kind in ("RayCluster", "RayService"):
        (spec,) = (each["spec"] for each in documents if each["kind"] == kind)
        assert spec == chart.render().get(kind)["spec"]


RELEASES = sorted(Path(__file__).with_name("releases").glob("*.yaml"))


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize("values", RELEASES, ids=lambda path: path.stem)
def test_the_values_of_earlier_releases_are_accepted(chart: Chart, values: Path, helm: str) -> None:
    chart.render(None, values, helm=helm)


def test_selectors_of_deployments_never_change(chart: Chart) -> None:
    # Kubernetes refuses an upgrade that changes one.
    for component in ("api", "dispatcher"):
        deployment = chart.render().get("Deployment", f"-{component}")
        assert deployment["spec"]["selector"]["matchLabels"] == {
            "app.kubernetes.io/name": "dti",
            "app.kubernetes.io/instance": "t",
            "app.kubernetes.io/component": component,
        }


def _hashed(spec: Object) -> Object:
    """What KubeRay compares of a cluster: a change of the rest makes no cluster anew."""
    copy = json.loads(json.dumps(spec))
    copy.pop("upgradeStrategy", None)
    for group in (copy["headGroupSpec"], *copy.get("workerGroupSpecs", [])):
        for field in ("replicas", "minReplicas", "maxReplicas"):
            group.pop(field, None)
        for field in ("tolerations", "schedulingGates"):
            group["template"]["spec"].pop(field, None)
    return copy


BOTH = {"inference", "training"}
REMADE: dict[str, tuple[Any, set[str]]] = {
    "image.ray.tag": ("9", BOTH),
    "image.api.tag": ("9", set()),
    "commonLabels": ({"team": "images"}, BOTH),
    "commonAnnotations": ({"team": "images"}, set()),
    "allPods.podLabels": ({"team": "images"}, BOTH),
    "allPods.podAnnotations": ({"team": "images"}, BOTH),
    "allPods.tolerations": ([{"key": "a", "operator": "Exists"}], set()),
    "ledger.lease_s": (30, {"training"}),
    "training.supervisor.settings.idle_timeout_s": (9, {"training"}),
    "api.settings.generation_timeout_s": (100, {"inference"}),
    "api.settings.max_body_bytes": (100, set()),
    "dispatcher.settings.max_in_flight": (9, set()),
    "models.miniature.slots": (9, set()),
    "inference.workerGroups.gpu.maxReplicas": (9, set()),
    "inference.workerGroups.gpu.minReplicas": (1, set()),
    "inference.workerGroups.gpu.tolerations": ([{"key": "a", "operator": "Exists"}], set()),
    "training.workerGroups.gpu.maxReplicas": (9, set()),
    "training.workerGroups.z": ({}, {"training"}),
    "inference.workerGroups.a": ({}, {"inference"}),
    "inference.head.podAnnotations": ({"anew": "1"}, {"inference"}),
}


@pytest.mark.parametrize("path", REMADE)
def test_a_change_makes_those_clusters_anew_that_the_table_says(chart: Chart, path: str) -> None:
    # The table is that of "Rolling updates" in docs/how-to/deploy.md.
    value, expected = REMADE[path]
    before = chart.render(POOLS).clusters()
    after = chart.render(merged(POOLS, at(path, value))).clusters()
    assert {name for name in before if _hashed(before[name]) != _hashed(after[name])} == expected


def test_a_group_whose_name_sorts_last_leaves_the_others_as_they_are(chart: Chart) -> None:
    # KubeRay adds it to the cluster of a RayService that runs.
    before = _hashed(chart.render(POOLS).clusters()["inference"])
    more = merged(POOLS, at("inference.workerGroups.z", {}))
    after = _hashed(chart.render(more).clusters()["inference"])
    assert after["workerGroupSpecs"].pop()["groupName"] == "z"
    assert after == before


TWO_MODELS: dict[str, Any] = merged(
    POOLS, at("models", {"other": {"weights": "miniature", "recipe": "miniature", "gpus": 0}})
)
ENGINES_REPLACED: dict[str, tuple[Any, set[str]]] = {
    "models.other.max_workers": (3, set()),
    "models.other.min_workers": (1, set()),
    "models.other.generation.max_engines": (3, set()),
    "models.other.generation.min_engines": (0, set()),
    "models.other.slots": (3, set()),
    "models.other.limits.max_image_steps": (30, set()),
    "models.other.recipe": ("miniature-fast", set()),
    "models.other.weights": ("OWNER/NAME", {"other"}),
    "models.other.generation.batch_size": (2, {"other"}),
    "models.another": ({"weights": "miniature", "recipe": "miniature", "gpus": 0}, {"another"}),
}
"""Changes of models, and the models whose engines start, end or are replaced."""


@pytest.mark.parametrize("path", ENGINES_REPLACED)
def test_a_change_of_models_rolls_the_api_and_the_dispatcher_and_the_engines_it_concerns(
    chart: Chart, path: str
) -> None:
    value, replaced = ENGINES_REPLACED[path]
    before, after = chart.render(TWO_MODELS), chart.render(merged(TWO_MODELS, at(path, value)))
    for component in ("api", "dispatcher"):
        templates = [
            rendered.get("Deployment", f"-{component}")["spec"]["template"]
            for rendered in (before, after)
        ]
        assert templates[0] != templates[1], component
    # Neither a cluster nor the supervisor's pod changes: the supervisor reads the file again.
    assert before.clusters() == after.clusters()
    engines = [
        {
            each["name"]: {**each, "deployments": None}
            for each in rendered.serve_config()["applications"]
        }
        for rendered in (before, after)
    ]
    names = engines[0].keys() | engines[1].keys()
    assert {name for name in names if engines[0].get(name) != engines[1].get(name)} == replaced


def test_only_a_change_of_models_changes_the_pods_of_the_api_for_them(chart: Chart) -> None:
    # Without this, each upgrade would roll the pods.
    for values in (at("inference.workerGroups.gpu.maxReplicas", 9), at("helmTest.model", "none")):
        before, after = chart.render(POOLS), chart.render(merged(POOLS, values))
        for component in ("api", "dispatcher"):
            specs = [each.get("Deployment", f"-{component}")["spec"] for each in (before, after)]
            assert specs[0] == specs[1]
