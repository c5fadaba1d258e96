"""Training settings on the command line: shorthands, `--set`, and what is refused."""

import pytest

from dti_engine.cli.config_options import changed_fields, training_config
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import recipe, standard_ti


def changes(*pairs: str, steps: int | None = None, lr: float | None = None) -> dict[str, object]:
    return changed_fields(pairs, steps=steps, lr=lr, kappa=None)


def test_values_are_numbers_booleans_or_text() -> None:
    options = ("batch_size=2", "magnitude=0.7", "captions=style", "instruction=true")
    assert changes(*options, steps=30) == {
        "steps": 30,
        "batch_size": 2,
        "magnitude": 0.7,
        "captions": "style",
        "instruction": True,
    }


def test_every_field_can_be_set_to_the_value_that_it_has() -> None:
    config = recipe("miniature")
    pairs = [f"{name}={value}" for name, value in config.model_dump().items()]
    pairs = [pair.replace("True", "true").replace("False", "false") for pair in pairs]
    assert training_config("miniature", "miniature", changes(*pairs)) == config


def test_the_other_method_replaces_the_recipes_fields() -> None:
    config = training_config("miniature", "miniature", changes("method=ti"))
    assert config == standard_ti(recipe("miniature"))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("stops=3",), "no field 'stops'; the fields are method, steps, batch_size"),
        (("steps",), "--set takes NAME=VALUE, such as batch_size=2"),
        (("shift=2", "shift=3"), "--set shift is given twice"),
        (("steps=3",), "--steps and --set steps say the same"),
    ],
)
def test_what_cannot_be_set_is_refused(pairs: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        changes(*pairs, steps=7)


@pytest.mark.parametrize("pair", ["steps=-1", "steps=NaN", "schedule=linear", "lr=fast"])
def test_values_are_checked_by_the_config(pair: str) -> None:
    with pytest.raises(ConfigurationError, match=pair.partition("=")[0]):
        TrainConfig.parse(recipe("miniature").model_dump() | changes(pair))
