"""The cost of orders, and the limits that follow from a model's recipe."""

import pytest

from dti_engine.recipes import RECIPES, recipe
from services.contracts.cost import Cost, ModelLimits, OrderLimits, cost_of, model_limits


def test_a_cost_is_steps_times_pixels_times_batch_over_all_items() -> None:
    assert cost_of(10, 64 * 64, batch=4, count=3) == Cost(10 * 4096 * 4 * 3, 4096 * 4)
    # Items are done one after the other, so that the largest one decides how much memory is needed.
    assert Cost(5, 100) + Cost(7, 80) == Cost(12, 100)


def test_limits_follow_from_the_recipe_and_the_catalog_overrides_each() -> None:
    plain = model_limits(OrderLimits(), recipe("miniature"))
    assert plain == ModelLimits(128 * 128, 150, 5000, 8 * 64 * 64 * 4)
    raised = model_limits(OrderLimits(max_image_pixels=256 * 256), recipe("miniature"))
    assert raised == ModelLimits(256 * 256, 150, 5000, 8 * 64 * 64 * 4)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_stays_within_the_limits_of_a_model_that_has_it(name: str) -> None:
    config = recipe(name)
    limits = model_limits(OrderLimits(), config)
    assert config.steps <= limits.max_training_steps
    assert config.resolution**2 * config.batch_size <= limits.max_training_pixels
    assert config.resolution**2 <= limits.max_image_pixels


@pytest.mark.parametrize("name", ["sd", "sdxl-release", "sana-release"])
def test_published_models_make_images_of_the_size_that_openais_clients_ask_for(name: str) -> None:
    assert model_limits(OrderLimits(), recipe(name)).max_image_pixels >= 1024 * 1024
