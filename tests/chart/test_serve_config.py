"""The Serve config that the chart renders is the one that the service deploys by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chart.rendering import ROOT, STORE, Chart, environment
from chart.test_profiles import Profile, profiles

from services.contracts.models import read_models
from services.inference.spec import serve_config

MODELS: dict[str, dict[str, Any]] = {
    "only weights and recipe": {},
    "limits alone": {"generation": {"min_engines": 2, "max_engines": 1}},
    "an empty generation": {"generation": {}},
    "everything": {
        "slots": 4,
        "gpus": 0.0,
        "cpus": 0.5,
        "min_workers": 0,
        "max_workers": 1,
        "device": "cpu",
        "dtype": "float32",
        "scorer": "none",
        "labels": {},
        "generation": {
            "batch_size": 6,
            "queue_size": 99,
            "min_engines": 0,
            "max_engines": 7,
            "gpus": 0,
            "cpus": 0.25,
            "labels": {},
            "compile": True,
            "safety_checker": "package.module:check",
        },
    },
}


def _by_the_service(
    models: dict[str, Any], store: str, folder: Path, drain_timeout_s: int = 330
) -> dict[str, Any]:
    """What the service deploys for the ConfigMap of the chart."""
    file = folder / "models.json"
    file.write_text(json.dumps(models))
    return json.loads(
        json.dumps(serve_config(read_models(file), store, drain_timeout_s=drain_timeout_s))
    )


def test_the_command_prints_what_the_chart_renders(chart: Chart, tmp_path: Path) -> None:
    rendered = chart.render()
    file = tmp_path / "models.json"
    file.write_text(rendered.get("ConfigMap", "-models")["data"]["models.json"])
    done = subprocess.run(
        [sys.executable, "-m", "services.inference", "config"],
        env=os.environ | {"DTI_STORE": STORE, "DTI_MODELS": str(file), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == rendered.serve_config()


@profiles
def test_every_profile_has_the_config_that_the_service_prints(
    chart: Chart, profile: Profile, tmp_path: Path
) -> None:
    rendered = chart.render(None, *profile)
    models = json.loads(rendered.get("ConfigMap", "-models")["data"]["models.json"])
    config = rendered.serve_config()
    store = config["applications"][0]["args"]["store"]
    api = rendered.get("Deployment", "-api")["spec"]["template"]["spec"]["containers"][0]
    timeout_s = int(environment(api).get("DTI_GENERATION_TIMEOUT_S", 300))
    # Every profile with a timeout of its own gives the engines 30 s more than that, too.
    assert config == _by_the_service(models, store, tmp_path, timeout_s + 30)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_a_model_has_the_config_that_the_service_prints(
    chart: Chart, model: dict[str, Any], tmp_path: Path
) -> None:
    model = {"weights": "miniature", "recipe": "miniature", "gpus": 0, "max_workers": 1} | model
    models = {"miniature": None, "other": model}
    rendered = chart.render({"models": models, "inference": {"head": {"cpus": 2}}})
    models = json.loads(rendered.get("ConfigMap", "-models")["data"]["models.json"])
    assert models == {"other": model}
    assert rendered.serve_config() == _by_the_service(models, STORE, tmp_path)


def test_null_and_the_order_of_labels_change_no_engine(chart: Chart, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"weights": "miniature", "recipe": "miniature"}
    group = {
        "maxReplicas": 8,
        "resources": {"limits": {"cpu": 8, "memory": "32Gi", "nvidia.com/gpu": 1}},
        "labels": {"pool": "a", "zone": "b"},
    }
    clusters = {name: {"workerGroups": {"gpu": group}} for name in ("inference", "training")}
    models = [
        plain | {"labels": {"pool": "a", "zone": "b"}},
        plain | {"labels": {"zone": "b", "pool": "a"}, "generation": {"batch_size": None}},
    ]
    configs = [
        chart.render(clusters | {"models": {"miniature": None, "other": model}}).serve_config()
        for model in models
    ]
    configs += [_by_the_service({"other": model}, STORE, tmp_path) for model in models]
    arguments = {json.dumps(each["applications"][0]["args"]["model"]) for each in configs[2:]}
    assert len(arguments) == 1
    assert configs[0] == configs[1] == configs[2] == configs[3]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_workers": 1, "min_workers": 1},
        {"slots": 3},
        {"recipe": "miniature-fast"},
        {"scorer": "none"},
    ],
)
def test_a_change_of_training_changes_no_engine(chart: Chart, limits: dict[str, Any]) -> None:
    before = chart.render().serve_config()
    assert chart.render({"models": {"miniature": limits}}).serve_config() == before


def test_a_change_of_limits_changes_no_arguments_of_engines(chart: Chart) -> None:
    before = chart.render().serve_config()["applications"][0]
    after = chart.render({"models": {"miniature": {"generation": {"max_engines": 5}}}})
    changed = after.serve_config()["applications"][0]
    assert changed["args"] == before["args"]
    assert changed["deployments"] != before["deployments"]


@profiles
def test_ray_knows_every_key_of_the_config(chart: Chart, profile: Profile) -> None:
    # Ray ignores unknown keys, so a typo would go unnoticed.
    schema = pytest.importorskip("ray.serve.schema")
    config = chart.render(None, *profile).serve_config()
    assert set(config) <= set(schema.ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(schema.HTTPOptionsSchema.model_fields)
    for application in config["applications"]:
        assert set(application) <= set(schema.ServeApplicationSchema.model_fields)
        for deployment in application["deployments"]:
            assert set(deployment) <= set(schema.DeploymentSchema.model_fields)
            from ray.serve.config import AutoscalingConfig

            assert set(deployment["autoscaling_config"]) <= set(AutoscalingConfig.model_fields)
    schema.ServeDeploySchema.model_validate(config)


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize("name", ["15", "true", "null", "1e3"])
def test_a_name_that_looks_like_a_number_stays_a_text(
    chart: Chart, name: str, helm: str, tmp_path: Path
) -> None:
    model = {"weights": "miniature", "recipe": "miniature", "gpus": 0, "max_workers": 1}
    rendered = chart.render({"models": {"miniature": None, name: model}}, helm=helm)
    config = rendered.serve_config()
    assert config["applications"][0]["name"] == name
    assert config == _by_the_service({name: model}, STORE, tmp_path)
