"""The model cache: what downloads weights into it, and which pods mount it."""

from typing import Any

import pytest
from chart.rendering import Chart, environment
from chart.test_switches import HUB, POOLS, at, merged


def test_weights_are_downloaded_once_each_unless_they_are_there_already(chart: Chart) -> None:
    models = {"a": HUB, "b": HUB, "c": HUB | {"weights": "/models/mine"}}
    values = {"models": models, "huggingFace": {"offline": True}}
    values |= {"modelCache": {"existingClaim": "weights", "fetch": {"enabled": True}}}
    pods = chart.render(merged(POOLS, values)).pods()
    (name,) = (name for name in pods if "-fetch-" in name)
    (container,) = pods[name]["spec"]["containers"]
    assert container["command"] + container["args"] == ["dti", "models", "fetch", "sdxl"]
    assert "HF_HUB_OFFLINE" not in environment(container)


@pytest.mark.parametrize(
    "change",
    [
        at("allPods.extraEnv", [{"name": "HTTPS_PROXY", "value": "http://proxy"}]),
        at("huggingFace.existingSecret", "hub"),
        at("modelCache.fetch.resources.limits.memory", "8Gi"),
        at("commonLabels", {"team": "images"}),
        at("models.a", HUB | {"weights": "other"}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_two_templates_of_the_download_have_two_names(chart: Chart, change: Any) -> None:
    # Kubernetes refuses a change of a Job's template: "field is immutable".
    values = {"models": {"a": HUB, "b": HUB}}
    values |= {"modelCache": {"existingClaim": "weights", "fetch": {"enabled": True}}}
    values = merged(POOLS, values)
    names = [
        {name for name in chart.render(each).names() if "-fetch-" in name}
        for each in (values, merged(values, change), values | {"api": {"replicas": 3}})
    ]
    assert names[0] != names[1]
    assert names[0] == names[2]


def test_a_head_that_runs_no_model_does_not_mount_the_cache(chart: Chart) -> None:
    values = merged(POOLS, at("modelCache.existingClaim", "weights"))
    pods = chart.render(merged(values, at("training.head.cpus", 1))).pods()
    mounted = {
        name
        for name, pod in pods.items()
        if any("persistentVolumeClaim" in each for each in pod["spec"].get("volumes", []))
    }
    assert mounted == {"inference gpu", "training gpu", "training head"}
    # Without worker groups, the head runs the engines.
    (head,) = [
        pod
        for name, pod in chart.render(at("modelCache.existingClaim", "weights")).pods().items()
        if name == "inference head"
    ]
    assert any("persistentVolumeClaim" in each for each in head["spec"]["volumes"])
