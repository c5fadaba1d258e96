"""Both effects on the tiny encoder, against what is known of layer norms and of sums."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.encoder_effects import (
    Effects,
    clip_encoder,
    effects,
    position_accuracy,
    position_shift,
    residuals,
    turning_bound,
)
from dti_engine.evaluation.rows import LENGTHS
from dti_engine.text.prompts import bind
from dti_engine.text.tokens import LearnedToken

TEMPLATES = ["a photo of a {} on a beach", "a cartoon of a {} in a forest"]


@pytest.fixture(scope="module")
def measured(evaluation_backbone: Backbone) -> Effects:
    return effects(evaluation_backbone, TEMPLATES, ["dog", "car"])


def test_start_and_updates_add_up_to_the_encoders_output(evaluation_backbone: Backbone) -> None:
    encoder = clip_encoder(*evaluation_backbone.text_encoders.values())
    token = LearnedToken("<rex>", {encoder.name: torch.randn(2, encoder.dim)})
    prompts = [template.replace("{}", "<rex>") for template in TEMPLATES]
    bound = bind(prompts, [{"<rex>": token}] * 2, evaluation_backbone.text_encoders)
    found = residuals(evaluation_backbone, encoder, *bound)

    hidden = evaluation_backbone.encode_prompts(*bound).hidden[:, 5]  # begin, a photo of a, <rex>
    torch.testing.assert_close(encoder._model.final_layer_norm(found.end), hidden)
    expected = token.embeddings[encoder.name][0] + encoder.positions[5]
    torch.testing.assert_close(found.start, expected.expand(2, -1))
    assert found.updates.shape == (2, 2 * len(encoder.layers), encoder.dim)


def test_watching_leaves_no_hook_behind(evaluation_backbone: Backbone, measured: Effects) -> None:
    layers = clip_encoder(*evaluation_backbone.text_encoders.values()).layers
    modules = [module for layer in layers for module in layer.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_no_sample_turns_further_than_the_bound_wherever_there_is_one(
    evaluation_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dti_engine.evaluation.encoder_effects.LENGTHS", (1.0, 100.0, 1e3, 1e4))
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
    assert [each.scale for each in measured.at_scale] == list(LENGTHS)
    for shorter, longer in pairwise(measured.at_scale):
        assert longer.position_accuracy <= shorter.position_accuracy
        assert longer.position_shift < shorter.position_shift
    assert measured.at_scale[0].position_accuracy > 0.9
    assert measured.at_scale[-1].position_accuracy < 2 / measured.num_positions
    assert measured.at_scale[-1].angle_deg < measured.at_scale[0].angle_deg


def test_a_position_moves_the_output_as_far_as_the_lemma_says() -> None:
    norm, directions, positions = nn.LayerNorm(64, eps=0.0), torch.randn(5, 64), torch.randn(3, 64)
    # To first order, LayerNorm reads of p what is orthogonal to the centred direction, over its
    # length; both p and the direction centred. Source: paper, proof of Lemma 1.
    centred, p = (each - each.mean(-1, keepdim=True) for each in (directions, positions))
    lengths, unit = centred.norm(dim=-1), nn.functional.normalize(centred, dim=-1)
    across = p - (p @ unit.T).T[..., None] * unit[:, None]  # (5, 3, 64)
    slope = float((across.norm(dim=-1) / lengths[:, None]).mean())
    for m in (100.0, 200.0):
        assert position_shift(norm, m * directions, positions) == pytest.approx(slope / m, rel=0.01)


def test_no_position_moves_nothing_and_a_long_one_everything() -> None:
    norm, vectors = nn.LayerNorm(64, eps=0.0), torch.randn(40, 64)
    assert position_shift(norm, vectors, torch.zeros(2, 64)) == 0
    positions = 1e6 * torch.randn(2, 64)
    apart = (norm(positions) - norm(vectors)[:, None]).detach().norm(dim=-1)
    expected = float(apart.mean()) / math.sqrt(64)  # the length of what the norm gives
    assert position_shift(norm, vectors, positions) == pytest.approx(expected, rel=1e-4)


def test_positions_are_estimated_from_the_mean_over_words() -> None:
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
        clip_encoder(Other())  # pyright: ignore[reportArgumentType]
