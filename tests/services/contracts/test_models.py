"""The catalog of served models: resources of engines, pools, and rejected files."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.contracts.models import (
    MINIATURE,
    ServedModel,
    generation_pool,
    model_of,
    read_models,
)
from services.errors import SettingsError


@pytest.mark.parametrize(
    ("fields", "gpus", "cpus"),
    [
        ("", 1, 1),
        (', "gpus": 0', 0, 0),
        (', "gpus": 0.5, "cpus": 3', 0.5, 3),
        (', "gpus": 0, "generation": {"gpus": 1}', 1, 1),
        (', "generation": {"gpus": 0, "cpus": 2}', 0, 2),
    ],
)
def test_an_engine_reserves_as_much_as_a_worker_unless_the_catalog_says_otherwise(
    tmp_path: Path, fields: str, gpus: float, cpus: float
) -> None:
    file = tmp_path / "models.json"
    file.write_text(f'{{"small": {{"weights": "miniature", "recipe": "miniature"{fields}}}}}')
    model = read_models(file)["small"].for_engine()
    assert (model.engine_gpus, model.engine_cpus) == (gpus, cpus)


def test_the_default_catalog_needs_no_gpu() -> None:
    model = MINIATURE["miniature"].for_engine()
    assert (model.engine_gpus, model.engine_cpus) == (0, 0)


def test_a_safety_checker_is_named_by_module_and_function(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(
        '{"small": {"weights": "w", "recipe": "miniature", "generation": {"safety_checker": "m"}}}'
    )
    with pytest.raises(SettingsError, match=r"small\.generation\.safety_checker"):
        read_models(file)


@pytest.mark.parametrize("name", ["generate-small", "a" * 58])
def test_no_model_may_have_the_name_of_a_generation_pool(tmp_path: Path, name: str) -> None:
    file = tmp_path / "models.json"
    file.write_text(f'{{"{name}": {{"weights": "w", "recipe": "miniature"}}}}')
    with pytest.raises(SettingsError, match="cannot be a model's name"):
        read_models(file)


def test_both_pools_of_a_model_lead_back_to_its_name() -> None:
    assert (model_of("small"), model_of(generation_pool("small"))) == ("small", "small")


GIVEN: dict[str, Any] = {
    "weights": "w",
    "recipe": "miniature",
    "labels": {"pool": "a"},
    "generation": {"compile": True},
}


def served(**changes: Any) -> ServedModel:
    return ServedModel.model_validate(GIVEN | changes)


@pytest.mark.parametrize(
    ("changes", "changes_worker", "changes_engine"),
    [
        ({"max_workers": 9, "min_workers": 2}, False, False),
        ({"generation": {"compile": True, "max_engines": 9, "min_engines": 0}}, False, False),
        ({"recipe": "sd"}, False, False),
        ({"generation": {"compile": True, "queue_size": 9}}, False, True),
        ({"generation": {"compile": True, "labels": {}}}, False, True),
        ({"slots": 9}, True, False),
        ({"scorer": "siglip"}, True, False),
        ({"weights": "other"}, True, True),
        ({"dtype": "float32"}, True, True),
        ({"labels": {"pool": "b"}}, True, True),
    ],
)
def test_workers_and_engines_depend_only_on_what_they_use(
    changes: dict[str, Any], changes_worker: bool, changes_engine: bool
) -> None:
    before, after = served(), served(**changes)
    assert (before.for_worker() != after.for_worker()) == changes_worker
    assert (before.for_engine() != after.for_engine()) == changes_engine
    assert (before.engine_fields() != after.engine_fields()) == changes_engine


def test_limits_of_engines_alone_do_not_appear_in_what_an_engine_is() -> None:
    without = ServedModel(weights="w", recipe="sd")
    limited = ServedModel.model_validate(
        {"weights": "w", "recipe": "sd", "generation": {"max_engines": 2}}
    )
    assert without.engine_fields() == limited.engine_fields() == {"weights": "w"}


def test_null_and_the_order_of_labels_change_nothing() -> None:
    plain = served(labels={"pool": "a", "zone": "b"})
    other = served(
        labels={"zone": "b", "pool": "a"},
        scorer=None,
        generation={"compile": True, "batch_size": None, "labels": None},
    )
    assert json.dumps(plain.engine_fields()) == json.dumps(other.engine_fields())
    assert plain.for_engine().model_dump_json() == other.for_engine().model_dump_json()
    assert plain.for_worker().model_dump_json() == other.for_worker().model_dump_json()


def test_engines_run_on_the_nodes_of_workers_unless_the_catalog_says_otherwise() -> None:
    assert served().for_engine().engine_labels == {"pool": "a"}
    assert served(generation={"labels": {"pool": "b"}}).for_engine().engine_labels == {"pool": "b"}
    assert served(generation={"labels": {}}).for_engine().engine_labels == {}
