"""The configuration of Serve: what it has, that Ray accepts it, and what replaces an engine."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from services.contracts.models import MINIATURE, ServedModel
from services.inference.spec import EngineSpec, serve_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own schemas use what pydantic has deprecated.
    from ray.serve._private.application_state import get_app_code_version
    from ray.serve.schema import ServeDeploySchema

MODEL: dict[str, Any] = {
    "weights": "w",
    "recipe": "sd",
    "slots": 2,
    "min_workers": 1,
    "max_workers": 3,
    "gpus": 0.5,
    "labels": {"pool": "a"},
    "generation": {"batch_size": 4, "min_engines": 2, "max_engines": 1},
}


def config(**changes: Any) -> dict[str, Any]:
    return serve_config({"small": ServedModel.model_validate(MODEL | changes)}, "s3://b/p")


def test_arguments_are_what_is_given_of_an_engine_and_limits_stand_beside_them() -> None:
    assert config() == {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [
            {
                "name": "small",
                "route_prefix": "/engines/small",
                "import_path": "services.inference.ray_serve:build",
                "args": {
                    "store": "s3://b/p",
                    "name": "small",
                    "model": {
                        "weights": "w",
                        "gpus": 0.5,
                        "labels": {"pool": "a"},
                        "generation": {"batch_size": 4},
                    },
                },
                "deployments": [
                    {
                        "name": "engine",
                        "graceful_shutdown_timeout_s": 330,
                        "autoscaling_config": {
                            "min_replicas": 2,
                            "max_replicas": 2,
                            "target_ongoing_requests": 4,
                            "upscale_delay_s": 10,
                            "downscale_delay_s": 300,
                        },
                    }
                ],
            }
        ],
    }


def test_an_engine_can_be_built_from_the_arguments() -> None:
    spec = EngineSpec.model_validate(config()["applications"][0]["args"])
    assert spec.model == ServedModel.model_validate(MODEL).for_engine()


def test_an_engine_is_built_with_its_gpus_on_the_nodes_that_its_labels_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from services.inference.ray_serve import build

    def options(**changes: Any) -> Any:
        deployment: Any = build(config(**changes)["applications"][0]["args"])._bound_deployment
        return deployment.ray_actor_options

    built = options()
    assert (built["num_gpus"], built["label_selector"]) == (0.5, {"pool": "a"})
    built = options(generation={"gpus": 1, "labels": {"pool": "!a"}})
    assert (built["num_gpus"], built["label_selector"]) == (1, {"pool": "!a"})
    assert not options(labels={})["label_selector"]


def _strict(given: Any, schema: Any) -> None:
    """Assert that Ray's schema has each key: it ignores those that it does not know."""
    assert given.keys() <= type(schema).model_fields.keys()


def test_ray_knows_every_key() -> None:
    printed = config()
    schema = ServeDeploySchema.model_validate(printed)
    _strict(printed, schema)
    _strict(printed["http_options"], schema.http_options)
    (application,), (parsed,) = printed["applications"], schema.applications
    _strict(application, parsed)
    _strict(application["deployments"][0], parsed.deployments[0])
    scaling = parsed.deployments[0].autoscaling_config
    assert scaling == application["deployments"][0]["autoscaling_config"]


def code_version(given: dict[str, Any]) -> str:
    (application,) = ServeDeploySchema.model_validate(given).applications
    return str(get_app_code_version(application))


@pytest.mark.parametrize(
    ("changes", "replaced"),
    [
        ({"max_workers": 9, "slots": 9, "recipe": "sdxl"}, False),
        ({"generation": {"batch_size": 4, "min_engines": 0, "max_engines": 9}}, False),
        ({"weights": "other"}, True),
        ({"generation": {"batch_size": 5, "min_engines": 2, "max_engines": 1}}, True),
    ],
)
def test_ray_replaces_engines_only_if_what_they_use_changes(
    changes: dict[str, Any], replaced: bool
) -> None:
    assert (code_version(config()) != code_version(config(**changes))) is replaced


def test_another_version_of_the_code_replaces_engines_where_the_cluster_stays() -> None:
    one, other = (serve_config(MINIATURE, "s3://b/p", version=name) for name in ("1", "2"))
    assert code_version(one) != code_version(other) != code_version(serve_config(MINIATURE, "s"))


def test_the_command_prints_it_without_ray_and_torch(tmp_path: Path) -> None:
    models = tmp_path / "models.json"
    models.write_text(json.dumps({"small": MODEL}))
    code = (
        "import sys; from services.inference.__main__ import main; main();"
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    flags = ("config", "--models", str(models), "--store", "s3://b/p")
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == config()
