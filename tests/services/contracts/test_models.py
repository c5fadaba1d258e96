"""The catalog of served models: resources of engines, pools, and rejected files."""

from pathlib import Path

import pytest

from services.contracts.models import MINIATURE, generation_pool, model_of, read_models
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
def test_an_engine_reserves_what_a_worker_does_unless_the_catalog_says_otherwise(
    tmp_path: Path, fields: str, gpus: float, cpus: float
) -> None:
    file = tmp_path / "models.json"
    file.write_text(f'{{"small": {{"weights": "miniature", "recipe": "miniature"{fields}}}}}')
    model = read_models(file)["small"]
    assert (model.engine_gpus, model.engine_cpus) == (gpus, cpus)


def test_the_default_catalog_needs_no_gpu() -> None:
    model = MINIATURE["miniature"]
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
