"""Options become a config and a protocol; --quick takes less of everything."""

from dataclasses import replace

import pytest

from dti_engine.cli.photograph_study import PhotographOptions
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import sd

PLAIN = PhotographOptions(
    weights="sd15",
    methods=["dti"],
    kappas=[],
    prompts="auto",
    recipe="sd",
    training={"steps": None, "resolution": None},
    protocol={"first_training_seed": None, "image_steps": None, "guidance": None},
    quick=False,
    slots="auto",
    recompute=False,
    compiled=False,
    batch_size=4,
    dinov2="",
    siglip="",
)


def test_by_default_it_is_the_recipe_and_the_papers_protocol() -> None:
    protocol = PLAIN.protocol_with(PLAIN.config(), is_flow=False)
    assert protocol.config == sd()
    assert (protocol.num_training_seeds, protocol.training_seed(0)) == (1, 42)
    assert (protocol.num_image_seeds, protocol.image_steps, protocol.guidance) == (4, 50, 5.0)


def test_quick_takes_less_and_explicit_options_override_it() -> None:
    quick = replace(PLAIN, quick=True)
    protocol = quick.protocol_with(quick.config(), is_flow=False)
    assert protocol.config == sd().changed(steps=100)
    assert (protocol.num_image_seeds, protocol.image_steps) == (1, 20)
    explicit = replace(quick, training={"steps": 7}, protocol={"image_steps": 9, "guidance": 2.5})
    protocol = explicit.protocol_with(explicit.config(), is_flow=True)
    assert (protocol.config.steps, protocol.image_steps, protocol.guidance) == (7, 9, 2.5)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="guidance"):
        replace(PLAIN, protocol={"guidance": 0.5}).protocol_with(PLAIN.config(), is_flow=False)
