import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import (
    RECIPES,
    cross_init,
    default_recipe,
    recipe,
    sd,
    sdxl_release,
    standard_ti,
)

REQUIRED: dict[str, Any] = {"steps": 400, "batch_size": 4, "resolution": 64, "lr": 0.03}


def test_configs_and_recipes_load_without_torch() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'diffusers', 'transformers'}"
    modules = "sys, dti_engine.recipes, dti_engine.training.schedules"
    code = f"import {modules}; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "lora"),
        ("steps", 0),
        ("steps", 1.5),
        ("steps", True),
        ("steps", "400"),
        ("batch_size", -4),
        ("resolution", 0),
        ("resolution", 63),
        ("lr", 0.0),
        ("lr", 1.01),
        ("lr", float("nan")),
        ("kappa", -1e-4),
        ("kappa", float("inf")),
        ("beta2", -0.1),
        ("beta2", 1.0),
        ("weight_decay", -0.01),
        ("magnitude", "mean"),
        ("magnitude", 0.0),
        ("magnitude", float("inf")),
        ("captions", "animal"),
        ("timesteps", "sorted"),
        ("schedule", "linear"),
        ("ema_decay", -0.1),
        ("ema_decay", 1.0),
        ("eval_every", 0),
    ],
)
def test_a_value_out_of_range_is_rejected_with_its_name_and_value(
    field: str, value: object
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        TrainConfig.parse(REQUIRED | {field: value})
    assert f"{field} should" in str(refusal.value)
    assert f"got {value!r}" in str(refusal.value)


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_value_is_named(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f": {field} is required$"):
        TrainConfig.parse({name: value for name, value in REQUIRED.items() if name != field})


def test_an_unknown_name_is_rejected_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"learning-rate is unknown; known are .*, lr, "):
        TrainConfig.parse(REQUIRED | {"learning-rate": 0.1})


def test_all_errors_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        TrainConfig.parse(REQUIRED | {"method": "lora", "steps": 0, "magnitude": "mean"})
    message = str(refusal.value)
    assert "method should be 'dti' or 'ti', got 'lora'" in message
    assert "steps should be greater than 0, got 0" in message
    assert "'vocabulary' or 'initializer' or should be a valid number, got 'mean'" in message
    assert "\n" not in message


def test_a_config_that_is_not_a_mapping_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="got 7"):
        TrainConfig.parse(7)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"method": "dti", "weight_decay": 0.01}, "weight_decay must be 0 with method 'dti'"),
        ({"method": "ti", "kappa": 1e-4}, "kappa must be 0 with method 'ti'"),
        ({"method": "ti", "beta2": 0.99}, "beta2 must be 0 with method 'ti'"),
        ({"method": "ti", "ema_decay": 0.9}, "ema_decay must be 0 with method 'ti', not 0.9"),
    ],
)
def test_values_of_the_other_method_are_rejected(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        TrainConfig.parse(REQUIRED | values)


def test_each_method_has_its_own_defaults() -> None:
    dti, ti = TrainConfig(**REQUIRED), TrainConfig(**REQUIRED, method="ti")
    assert (dti.kappa, dti.weight_decay, dti.magnitude) == (1e-4, 0.0, "vocabulary")
    assert (ti.kappa, ti.weight_decay, ti.magnitude) == (0.0, 1e-2, "initializer")


def test_configs_share_a_batch_unless_its_shape_or_method_would_differ() -> None:
    config = TrainConfig(**REQUIRED)
    of_its_own = {"steps": 7, "lr": 0.1, "kappa": 0.0, "magnitude": 0.4, "schedule": "cosine"}
    of_its_own |= {"ema_decay": 0.9, "captions": "style", "timesteps": "stratified"}
    of_its_own |= {"pooling": "legacy", "instruction": True, "shift": 3.0}
    assert config.changed(**of_its_own, eval_every=3).incompatibility_with(config) is None
    other = config.changed(batch_size=2, resolution=32, beta2=0.5, **of_its_own)
    assert other.incompatibility_with(config) == (
        "batch_size 2, not 4, resolution 32, not 64, beta2 0.5, not 0.0"
    )
    assert standard_ti(config).incompatibility_with(config) == "method 'ti', not 'dti'"


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sd().steps = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_a_change_makes_another_config() -> None:
    before = sd()
    after = before.changed(steps=7, magnitude=0.4)
    assert (after.steps, after.magnitude) == (7, 0.4)
    assert after.changed(steps=before.steps, magnitude=before.magnitude) == before == sd()


def test_a_change_is_checked_alone_and_against_the_rest() -> None:
    with pytest.raises(ConfigurationError, match="steps should be greater than 0, got 0"):
        sd().changed(steps=0)
    with pytest.raises(ConfigurationError, match=r"kappa must be 0 .* not 0\.0001"):
        sd().changed(method="ti")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_and_its_baseline_survive_json(name: str) -> None:
    for config in (recipe(name), standard_ti(recipe(name))):
        assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_every_config_has_a_baseline() -> None:
    config = sd().changed(init="states", beta2=0.9, ema_decay=0.9, schedule="cosine", patience=2)
    assert standard_ti(config) == standard_ti(sd())


@pytest.mark.parametrize("name", RECIPES)
def test_the_baseline_differs_in_the_method_alone(name: str) -> None:
    config = recipe(name).model_dump()
    differences = {field for field, value in standard_ti(recipe(name)) if config[field] != value}
    its_own = {"method", "lr", "kappa", "weight_decay", "magnitude"}
    assert differences - {"schedule"} == its_own


def test_cross_init_differs_from_the_baseline_in_initialization_and_anchor_alone() -> None:
    config = cross_init(sd())
    assert config.changed(init="words", anchor_weight=0.0) == standard_ti(sd())
    assert (config.init, config.anchor_weight) == ("states", 1e-5)
    with pytest.raises(ConfigurationError, match="anchor_weight must be 0 with method 'dti'"):
        sd().changed(anchor_weight=1e-5)


def test_the_miniature_is_trained_with_captions_that_it_knows() -> None:
    assert recipe("miniature").captions == "miniature"


@pytest.mark.parametrize(
    ("pipeline", "latent_size", "name"),
    [
        ("StableDiffusionPipeline", 64, "sd"),
        ("StableDiffusionPipeline", 96, "sd-768"),
        ("StableDiffusionXLPipeline", 128, "sdxl-release"),
        ("SanaPipeline", 32, "sana-release"),
    ],
)
def test_every_model_has_a_recipe_at_its_size(pipeline: str, latent_size: int, name: str) -> None:
    assert default_recipe(pipeline, latent_size) == name
    factor = 32 if pipeline == "SanaPipeline" else 8
    size = 768 if name == "sdxl-release" else factor * latent_size  # the official code's choice
    assert recipe(name).resolution == size


def test_recipes_tuned_on_the_miniature_have_names_of_their_own() -> None:
    """Real weights have not confirmed it."""
    for name in ("sd", "sd-768", "sdxl-release", "sdxl-paper", "sana-release", "sana-paper"):
        config = recipe(name)
        assert (config.schedule, config.ema_decay, config.patience) == ("constant", 0.0, 0)
    assert recipe("sdxl-falling") == sdxl_release().changed(steps=200, lr=0.15, schedule="cosine")


def test_the_official_recipes_pool_as_the_official_code_does() -> None:
    assert {recipe(name).pooling for name in ("sdxl-release", "sdxl-paper")} == {"legacy"}


def test_an_unknown_recipe_is_rejected_with_the_known_names() -> None:
    with pytest.raises(ConfigurationError, match=r"no recipe 'sdxl'; known are miniature, .*sdxl-"):
        recipe("sdxl")
