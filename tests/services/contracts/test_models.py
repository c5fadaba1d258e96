"""What an offer asks of the cluster for those that learn and those that generate."""

from pathlib import Path

import pytest

from services.contracts.models import MINIATURE, generation_pool, model_of, read_models
from services.errors import SettingsError


@pytest.mark.parametrize(
    ("said", "gpus", "cpus"),
    [
        ("", 1, 1),
        (', "gpus": 0', 0, 0),
        (', "gpus": 0.5, "cpus": 3', 0.5, 3),
        (', "gpus": 0, "generating": {"gpus": 1}', 1, 1),
        (', "generating": {"gpus": 0, "cpus": 2}', 0, 2),
    ],
)
def test_an_engine_asks_for_what_a_worker_does_unless_told_otherwise(
    tmp_path: Path, said: str, gpus: float, cpus: float
) -> None:
    file = tmp_path / "models.json"
    file.write_text(f'{{"small": {{"weights": "miniature", "recipe": "miniature"{said}}}}}')
    model = read_models(file)["small"]
    assert (model.engine_gpus, model.engine_cpus) == (gpus, cpus)


def test_a_machine_without_gpus_can_paint_with_what_is_offered_by_itself() -> None:
    model = MINIATURE["miniature"]
    assert (model.engine_gpus, model.engine_cpus) == (0, 0)


def test_a_check_of_images_is_named_by_module_and_function(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(
        '{"small": {"weights": "w", "recipe": "miniature", "generating": {"safety": "module"}}}'
    )
    with pytest.raises(SettingsError, match=r"small\.generating\.safety"):
        read_models(file)


@pytest.mark.parametrize("name", ["generate-small", "a" * 58])
def test_no_model_is_called_as_a_pool_of_images_could_be(tmp_path: Path, name: str) -> None:
    file = tmp_path / "models.json"
    file.write_text(f'{{"{name}": {{"weights": "w", "recipe": "miniature"}}}}')
    with pytest.raises(SettingsError, match="can be no offer's name"):
        read_models(file)


def test_an_model_is_known_by_both_of_its_pools() -> None:
    assert (model_of("small"), model_of(generation_pool("small"))) == ("small", "small")
