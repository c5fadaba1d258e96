"""What an offer asks of the cluster for those that learn and those that paint."""

from pathlib import Path

import pytest

from services.contracts.models import MINIATURE, offer_of, painting_pool, read_offers
from services.errors import SettingsError


@pytest.mark.parametrize(
    ("said", "gpus", "cpus"),
    [
        ("", 1, 1),
        (', "gpus": 0', 0, 0),
        (', "gpus": 0.5, "cpus": 3', 0.5, 3),
        (', "gpus": 0, "painting": {"gpus": 1}', 1, 1),
        (', "painting": {"gpus": 0, "cpus": 2}', 0, 2),
    ],
)
def test_an_engine_asks_for_what_a_worker_does_unless_told_otherwise(
    tmp_path: Path, said: str, gpus: float, cpus: float
) -> None:
    file = tmp_path / "offers.json"
    file.write_text(f'{{"small": {{"weights": "miniature", "recipe": "miniature"{said}}}}}')
    offer = read_offers(file)["small"]
    assert (offer.engine_gpus, offer.engine_cpus) == (gpus, cpus)


def test_a_machine_without_gpus_can_paint_with_what_is_offered_by_itself() -> None:
    offer = MINIATURE["miniature"]
    assert (offer.engine_gpus, offer.engine_cpus) == (0, 0)


def test_a_check_of_pictures_is_named_by_module_and_function(tmp_path: Path) -> None:
    file = tmp_path / "offers.json"
    file.write_text(
        '{"small": {"weights": "w", "recipe": "miniature", "painting": {"safety": "module"}}}'
    )
    with pytest.raises(SettingsError, match=r"small\.painting\.safety"):
        read_offers(file)


@pytest.mark.parametrize("name", ["paint-small", "a" * 58])
def test_no_offer_is_called_as_a_pool_of_pictures_could_be(tmp_path: Path, name: str) -> None:
    file = tmp_path / "offers.json"
    file.write_text(f'{{"{name}": {{"weights": "w", "recipe": "miniature"}}}}')
    with pytest.raises(SettingsError, match="can be no offer's name"):
        read_offers(file)


def test_an_offer_is_known_by_both_of_its_pools() -> None:
    assert (offer_of("small"), offer_of(painting_pool("small"))) == ("small", "small")
