"""Both effects on the tiny encoder, against what is known of layer norms and of sums."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.effects import (
    SCALES,
    Effects,
    effects,
    position_accuracy,
    sensitivity,
    turning_bound,
)
from dti_engine.evaluation.residuals import clip_model, residuals
from dti_engine.prompts import bind
from dti_engine.tokens import LearnedToken

TEMPLATES = ["a photo of a {} on a beach", "a cartoon of a {} in a forest"]


@pytest.fixture(scope="module")
def measured(evaluation_backbone: Backbone) -> Effects:
    return effects(evaluation_backbone, TEMPLATES, ["dog", "car"])


def test_start_and_updates_add_up_to_what_the_encoder_gives(evaluation_backbone: Backbone) -> None:
    (encoder,) = evaluation_backbone.text_encoders.values()
    token = LearnedToken("<rex>", {encoder.name: torch.randn(2, encoder.dim)})
    prompts = [template.replace("{}", "<rex>") for template in TEMPLATES]
    bound = bind(prompts, [{"<rex>": token}] * 2, evaluation_backbone.text_encoders)
    found = residuals(evaluation_backbone, encoder, *bound)

    model = clip_model(encoder)
    hidden = evaluation_backbone.encode_prompts(*bound).hidden[:, 5]  # begin, a photo of a, <rex>
    torch.testing.assert_close(model.final_layer_norm(found.end), hidden)
    expected = token.embeddings[encoder.name][0] + model.embeddings.position_embedding.weight[5]
    torch.testing.assert_close(found.start, expected.expand(2, -1))
    assert found.updates.shape == (2, 2 * len(model.encoder.layers), encoder.dim)


def test_watching_leaves_no_hook_behind(evaluation_backbone: Backbone, measured: Effects) -> None:
    (encoder,) = evaluation_backbone.text_encoders.values()
    modules = list(clip_model(encoder).modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_no_sample_turns_further_than_the_bound_wherever_there_is_one(
    evaluation_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_engine.evaluation.effects.SCALES", (1.0, 100.0, 1e3, 1e4))
    found = effects(evaluation_backbone, TEMPLATES, ["dog", "car"])
    bounded = [each for each in found.at_scale if each.bound_deg is not None]
    assert len(bounded) == 3
    for each in bounded:
        assert each.bound_deg is not None
        assert 0 < each.angle_deg <= each.largest_angle_deg <= each.bound_deg
    assert bounded[-1].bound_deg == pytest.approx(
        math.degrees(math.pi / 2) * found.sum_of_largest_updates / (1e4 * found.magnitude), rel=0.02
    )


def test_longer_embeddings_hide_their_position_and_turn_less(measured: Effects) -> None:
    assert [each.scale for each in measured.at_scale] == list(SCALES)
    for shorter, longer in pairwise(measured.at_scale):
        assert longer.position_accuracy <= shorter.position_accuracy
        assert longer.position_sensitivity < shorter.position_sensitivity
    assert measured.at_scale[0].position_accuracy > 0.9
    assert measured.at_scale[-1].position_accuracy < 2 / measured.num_positions
    assert measured.at_scale[-1].angle_deg < measured.at_scale[0].angle_deg


def test_a_layer_norm_is_sensitive_as_the_inverse_of_the_deviation() -> None:
    norm, dim = nn.LayerNorm(64, eps=0.0), 64
    states = torch.randn(5, dim)
    states = (states - states.mean(-1, keepdim=True)) / states.std(-1, correction=0, keepdim=True)
    # All singular values are 1 / deviation, but two that are zero: shift and scale.
    expected = math.sqrt((dim - 2) / dim)
    assert sensitivity(norm, states) == pytest.approx(expected, rel=1e-5)
    assert sensitivity(norm, 8 * states) == pytest.approx(expected / 8, rel=1e-5)


def test_positions_are_told_by_what_words_have_in_common() -> None:
    words, positions = torch.randn(40, 1, 8), torch.eye(4, 8)
    assert position_accuracy(0.01 * words + positions) == 1.0
    assert position_accuracy(words + 0.0 * positions) == pytest.approx(0.25)


def test_the_bound_is_that_of_the_proposition() -> None:
    expected = math.pi / 2 * (1 / 10 + 2 / 9 + 3 / 7)
    assert turning_bound(10.0, [1.0, 2.0, 3.0]) == pytest.approx(expected)
    assert turning_bound(6.0, [1.0, 2.0, 3.0]) is None


def test_an_encoder_of_another_kind_is_refused_by_name(evaluation_backbone: Backbone) -> None:
    class Other:
        name = "gemma"

    with pytest.raises(ConfigurationError, match="'gemma' is not of CLIP's kind"):
        clip_model(Other())  # pyright: ignore[reportArgumentType]
